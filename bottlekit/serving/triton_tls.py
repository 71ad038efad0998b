"""Encryption of the way to Triton: whose certificates are believed, and which one is shown."""

from __future__ import annotations

import re
import ssl
from pathlib import Path
from typing import Any, NamedTuple

from bottlekit.errors import UsageError

CA, CERTIFICATE, KEY = "ca.pem", "cert.pem", "key.pem"


class TritonTls(NamedTuple):
    """PEM files: the CA that signed the servers' certificates; own certificate and key, None without."""

    ca: bytes
    certificate: bytes | None
    key: bytes | None

    def credentials(self) -> Any:
        """As grpc takes them."""
        import grpc

        return grpc.ssl_channel_credentials(self.ca, self.key, self.certificate)


def tls_from_folder(folder: Path) -> TritonTls:
    """ca.pem; and cert.pem and key.pem, for a Triton that asks who connects (mutual TLS). Raises UsageError."""
    ca, certificate, key = (folder / name for name in (CA, CERTIFICATE, KEY))
    if not ca.is_file():
        raise UsageError(f"{folder} lacks {CA}, the CA that signed Triton's certificate")
    if certificate.is_file() != key.is_file():
        lacking, there = (KEY, CERTIFICATE) if certificate.is_file() else (CERTIFICATE, KEY)
        raise UsageError(f"{folder} has {there} and lacks {lacking}; Triton is shown both or none")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:  # grpc would say no more than that it cannot connect
        context.load_verify_locations(ca)
        if certificate.is_file():
            context.load_cert_chain(certificate, key, password=_no_password)
        return TritonTls(
            ca.read_bytes(),
            certificate.read_bytes() if certificate.is_file() else None,
            key.read_bytes() if key.is_file() else None,
        )
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise UsageError(f"the certificates in {folder} cannot be used ({reason})") from error


def why_not_connected(words: str, tls: TritonTls | None) -> str:
    """What grpc says of a connection that did not come about, in an operator's words; else `words`, shortened.

    A Triton that refuses our certificate ends the connection without saying why.
    """
    doubted = re.search(r"CERTIFICATE_VERIFY_FAILED: ([^:]+)", words)
    if doubted:
        return f"its certificate is not believed ({doubted[1]}); it must be valid, and signed by the CA in {CA}"
    if re.search(r"Hostname Verification|is not in peer certificate", words):
        return "its certificate holds another name than the one that --triton asks it by"
    if "WRONG_VERSION_NUMBER" in words:
        return "it does not speak TLS; start it with --grpc-use-ssl, or ask it by grpc://"
    unreachable = re.search(r"Failed to connect to remote host: (.+)", words)
    if unreachable:
        return f"nothing answers there ({unreachable[1]})"
    if re.search(r"(backends failing|to all addresses).*Socket closed", words):
        if tls is None:
            return "it ends every connection; if it speaks TLS, ask it by grpcs://"
        if tls.certificate is None:
            return f"it ends every connection, as it does when it asks for a certificate: there is no {CERTIFICATE}"
        return (
            f"it ends every connection, as it does when {CERTIFICATE} is of another CA than it believes, or expired"
        )
    return re.sub(r"[^:]*; last error: (UNKNOWN: |UNAVAILABLE: )?", " ", words)


def _no_password() -> str:
    # Without this OpenSSL would ask the terminal, and a server has none.
    raise UsageError("the key for Triton is encrypted; a server can use only one that is not")
