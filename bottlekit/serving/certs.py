"""A certificate authority in a folder, for one operator's own server and devices.

    pki/ca.pem, ca.key              the authority; ca.key stays where it is
        revoked.pem                 which certificates are no longer good (a CRL)
        issued.json                 which were made
        servers/NAME/               what a server needs: ca.pem, cert.pem, key.pem, revoked.pem
        devices/NAME/               what a device needs: ca.pem, cert.pem, key.pem

Keys are of the curve P-256: a handshake sends little. A server's certificate cannot pass for a device, nor a
device's for a server (extended key usage, RFC 5280 section 4.2.1.12).
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import shutil
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from bottlekit.device.fields import is_safe_name
from bottlekit.device.files import read_json, whole_file, whole_folder, write_json
from bottlekit.errors import UnknownNameError, UsageError

FORMAT = "bottlekit-certificates"
VERSION = 1
CA_DAYS = 3650
KINDS = {"server": "servers", "device": "devices"}

_BACKDATED = datetime.timedelta(hours=1)  # clocks of devices are not exact


def init_authority(folder: Path, name: str = "bottlekit CA") -> None:
    """Make an authority in a new folder. Raises UsageError where there is something already."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _subject(name)
    now = _now()
    usage = _key_usage(key_cert_sign=True, crl_sign=True)
    certificate = (
        _builder(subject, subject, key.public_key(), now, CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    with whole_folder(str(folder)) as temporary:
        place = Path(temporary)
        (place / "ca.pem").write_bytes(_pem(certificate))
        _write_key(place / "ca.key", key)
        (place / "revoked.pem").write_bytes(_pem(_revocations(certificate, key, [])))
        _write_issued(place, [])


def issue(folder: Path, kind: str, name: str, hosts: tuple[str, ...] = (), days: int = 730) -> Path:
    """Make a certificate for a "server" or a "device", and return the folder to give to it.

    `hosts` are the names and addresses that a server is asked by. Raises UsageError.
    """
    if not is_safe_name(name):
        raise UsageError(f"'{name}' cannot be a name: letters, digits, dots, dashes and underscores can")
    if not 1 <= days <= CA_DAYS:
        raise UsageError(f"--days must be 1 to {CA_DAYS}, not {days}")
    ca, ca_key, issued = _authority(folder)
    if any(entry["name"] == name and not entry["revoked"] for entry in issued):
        raise UsageError(
            f"{name} has a certificate already; revoke it first: bottlekit certs revoke {folder} {name}"
        )
    out = folder / KINDS[kind] / name
    if out.exists():  # of a certificate that was revoked
        shutil.rmtree(out)
    key = ec.generate_private_key(ec.SECP256R1())
    usage = ExtendedKeyUsageOID.SERVER_AUTH if kind == "server" else ExtendedKeyUsageOID.CLIENT_AUTH
    builder = (
        _builder(_subject(name), ca.subject, key.public_key(), _now(), days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
    )
    if hosts:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([_general_name(host) for host in hosts]), critical=False
        )
    certificate = builder.sign(ca_key, hashes.SHA256())
    with whole_folder(str(out)) as temporary:
        place = Path(temporary)
        (place / "cert.pem").write_bytes(_pem(certificate))
        _write_key(place / "key.pem", key)
        shutil.copy(folder / "ca.pem", place / "ca.pem")
        if kind == "server":
            shutil.copy(folder / "revoked.pem", place / "revoked.pem")
        entry = {
            "name": name,
            "kind": kind,
            "serial": f"{certificate.serial_number:x}",
            "not_after": certificate.not_valid_after_utc.isoformat(),
            "revoked": None,
        }
        _write_issued(folder, [*issued, entry])
    return out


def revoke(folder: Path, name: str) -> list[Path]:
    """Revoke the certificate of a name; the files that its servers must get now. Raises UsageError."""
    ca, key, issued = _authority(folder)
    good = [entry for entry in issued if not entry["revoked"]]
    if name not in [entry["name"] for entry in good]:
        raise UnknownNameError("certificate", name, [entry["name"] for entry in good])
    for entry in good:
        if entry["name"] == name:
            entry["revoked"] = _now().isoformat()
    content = _pem(_revocations(ca, key, [entry for entry in issued if entry["revoked"]]))
    written = [folder / "revoked.pem"]
    written += sorted((folder / KINDS["server"]).glob("*/revoked.pem"))
    for path in written:
        with whole_file(str(path)) as temporary:
            Path(temporary).write_bytes(content)
    _write_issued(folder, issued)
    return written


def issued_certificates(folder: Path) -> list[dict[str, Any]]:
    """What was made, oldest first: name, kind, serial, not_after, revoked (a time or None)."""
    return _authority(folder)[2]


def _authority(folder: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey, list[dict[str, Any]]]:
    if not (folder / "ca.key").is_file() or not (folder / "ca.pem").is_file():
        raise UsageError(f"no certificate authority in {folder}; make one: bottlekit certs init {folder}")
    try:
        certificate = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
        key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), password=None)
    except (ValueError, TypeError) as error:
        raise UsageError(f"the certificate authority in {folder} cannot be read: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise UsageError(f"{folder}/ca.key is no key of an elliptic curve; bottlekit certs did not make it")
    issued = read_json(str(folder / "issued.json"), "list of certificates")
    if issued.get("format") != FORMAT or issued.get("version") != VERSION:
        raise UsageError(f"{folder}/issued.json is of another format than this bottlekit's; do not change it")
    return certificate, key, issued["certificates"]


def _write_issued(folder: Path, certificates: list[dict[str, Any]]) -> None:
    write_json(str(folder / "issued.json"), {"format": FORMAT, "version": VERSION, "certificates": certificates})


def _revocations(
    ca: x509.Certificate, key: ec.EllipticCurvePrivateKey, revoked: list[dict[str, Any]]
) -> x509.CertificateRevocationList:
    # Good as long as the authority: a list that ran out would lock everybody out.
    builder = x509.CertificateRevocationListBuilder().issuer_name(ca.subject)
    builder = builder.last_update(_now() - _BACKDATED).next_update(ca.not_valid_after_utc)
    for entry in revoked:
        one = x509.RevokedCertificateBuilder().serial_number(int(entry["serial"], 16))
        when = datetime.datetime.fromisoformat(entry["revoked"])
        builder = builder.add_revoked_certificate(one.revocation_date(when).build())
    return builder.sign(key, hashes.SHA256())


def _builder(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, now: datetime.datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _key_usage(**chosen: bool) -> x509.KeyUsage:
    names = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{name: chosen.get(name, False) for name in names})


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return x509.DNSName(host.encode("idna").decode("ascii"))
    except ValueError as error:
        raise UsageError(f"'{host}' is neither a name nor an address of a host") from error


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _pem(signed: x509.Certificate | x509.CertificateRevocationList) -> bytes:
    return signed.public_bytes(serialization.Encoding.PEM)


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    data = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
