"""TLS with a certificate on both sides, from the folders that `bottlekit certs` makes: standard library only.

folder/ca.pem        who may sign the other side's certificate
       cert.pem      this side's certificate, its name in it
       key.pem       its private key
       revoked.pem   server only, optional: certificates that are no longer good (a CRL, signed by the CA)
"""

import os
import socket
import ssl
from typing import Any, Optional

from ..errors import IdentityError, UsageError
from .addresses import ConnectionLost
from .refusals import foreign_words

_FILES = ("ca.pem", "cert.pem", "key.pem")
_REVOKED = "revoked.pem"


def client_context(folder: str) -> ssl.SSLContext:
    """For a device: proves who it is, accepts only a server that the CA signed for the name it was asked by."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _load(context, folder)
    return context


def server_context(folder: str) -> ssl.SSLContext:
    """For a server: shows its certificate, and lets nobody in without one that the CA signed and did not revoke."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    # A resumed session would not be asked for its certificate again: no tickets. Connections stay open anyway.
    context.options |= ssl.OP_NO_TICKET
    if hasattr(context, "num_tickets"):  # Python 3.8
        context.num_tickets = 0
    _load(context, folder)
    if os.path.exists(os.path.join(folder, _REVOKED)):
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        _read(lambda: context.load_verify_locations(os.path.join(folder, _REVOKED)), folder)
    return context


def encrypted_socket(
    connected: socket.socket, context: ssl.SSLContext, server_name: str, where: str
) -> socket.socket:
    """TLS over a connected socket, within its timeout. Raises IdentityError, WireError."""
    try:
        return context.wrap_socket(connected, server_hostname=server_name)
    except Exception as error:
        connected.close()
        if isinstance(error, ssl.CertificateError) or is_alert(error) or "CERTIFICATE" in str(error):
            raise refused_by_tls(error, where)
        raise ConnectionLost("{} broke off the TLS handshake ({}); does it serve with --tls?".format(where, error))


def is_alert(error: object) -> bool:
    """Whether the other side said why it ends TLS; anything else may be the network."""
    return isinstance(error, ssl.SSLError) and "ALERT" in str(error.reason)


def refused_by_tls(error: Any, where: str) -> IdentityError:
    """What a failure of TLS means to a device: either side may have refused the other's certificate."""
    reason = getattr(error, "verify_message", None) or getattr(error, "reason", None) or str(error)
    return IdentityError(
        "no TLS with {} ({}); both certificates must be of one CA, valid and not revoked, and the server's must "
        "hold the name it was asked by".format(where, foreign_words(reason))
    )


def revoked_bytes(folder: str) -> Optional[bytes]:
    """The content of revoked.pem, to see whether it has changed; None where there is none."""
    try:
        with open(os.path.join(folder, _REVOKED), "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


def name_from_certificate(certificate: Any) -> str:
    """The common name of a certificate as `ssl` gives it ("" where it has none)."""
    for group in certificate.get("subject", ()) if certificate else ():
        for field, value in group:
            if field == "commonName":
                return str(value)
    return ""


def _load(context: ssl.SSLContext, folder: str) -> None:
    missing = [name for name in _FILES if not os.path.isfile(os.path.join(folder, name))]
    if missing:
        raise UsageError(
            "{} lacks {}; make such a folder with: bottlekit certs server, or: bottlekit certs device".format(
                folder, ", ".join(missing)
            )
        )
    # TLS 1.2 at least; Python 3.6 has no `minimum_version`.
    context.options |= ssl.OP_NO_SSLv2 | ssl.OP_NO_SSLv3
    if hasattr(context, "minimum_version"):
        context.minimum_version = ssl.TLSVersion.TLSv1_2
    else:
        context.options |= ssl.OP_NO_TLSv1 | ssl.OP_NO_TLSv1_1
    ca, certificate, key = (os.path.join(folder, name) for name in _FILES)
    _read(lambda: context.load_verify_locations(ca), folder)
    _read(lambda: context.load_cert_chain(certificate, key, password=_no_password), folder)


def _no_password() -> str:
    # Without this OpenSSL would ask the terminal, and a server has none.
    raise UsageError("the key is encrypted; decrypt it, or make another with: bottlekit certs")


def _read(load: Any, folder: str) -> None:
    try:
        load()
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise UsageError("the certificates in {} cannot be used ({}); make them again".format(folder, reason))
