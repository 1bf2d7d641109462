"""Certificates for tests: authorities, servers, SVIDs, and any of them bent."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

HOUR = 3600.0


@dataclass(frozen=True)
class Certified:
    """A key and its certificate; an authority where the certificate says so."""

    key: Any
    certificate: x509.Certificate

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def write(self, folder: Path, name: str) -> tuple[Path, Path]:
        """(certificate file, key file of mode 0600)."""
        certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
        certificate.write_bytes(self.pem)
        key.touch(mode=0o600)
        key.write_bytes(self.key_pem)
        return certificate, key


def certify(
    name: str,
    issuer: Certified | None = None,
    *,
    now: float,
    ca: bool = False,
    path_length: int | None = None,
    uris: Sequence[str] = (),
    hosts: Sequence[str] = (),
    start: float = -HOUR,
    life: float = HOUR,
    key: Any = None,
    key_cert_sign: bool | None = None,
    key_usage: bool = True,
    purposes: Sequence[x509.ObjectIdentifier] = (
        ExtendedKeyUsageOID.CLIENT_AUTH,
        ExtendedKeyUsageOID.SERVER_AUTH,
    ),
) -> Certified:
    """A certificate, valid from `now` + `start` to `now` + `life` (seconds); self-signed without `issuer`."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    signer = issuer or Certified(key, None)  # type: ignore[arg-type]
    moment = datetime.fromtimestamp(now, UTC)
    signs = ca if key_cert_sign is None else key_cert_sign
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment + timedelta(seconds=start))
        .not_valid_after(moment + timedelta(seconds=life))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=path_length), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.key.public_key()), critical=False
        )
    )
    if key_usage:
        usage = x509.KeyUsage(not ca, False, False, False, False, signs, signs, False, False)
        builder = builder.add_extension(usage, critical=True)
    if not ca and purposes:
        builder = builder.add_extension(x509.ExtendedKeyUsage(list(purposes)), critical=False)
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
    for host in hosts:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    algorithm = None if isinstance(signer.key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return Certified(key, builder.sign(signer.key, algorithm))


def authority(name: str, *, now: float, issuer: Certified | None = None, **changes: Any) -> Certified:
    """A root authority, or an intermediate one under `issuer`."""
    return certify(name, issuer, now=now, ca=True, **{"life": 24 * HOUR, **changes})


def replace(path: Path, content: bytes) -> None:
    """A file's new content, whole at once: two writes within one tick of the file system's clock stay two."""
    fresh = path.with_suffix(".new")
    fresh.write_bytes(content)
    fresh.replace(path)


def server(issuer: Certified, *, now: float, hosts: Sequence[str] = ("localhost", "127.0.0.1")) -> Certified:
    """A TLS server's certificate."""
    return certify(hosts[0], issuer, now=now, hosts=hosts, purposes=(ExtendedKeyUsageOID.SERVER_AUTH,))


def svid(issuer: Certified, spiffe_id: str, *, now: float, **changes: Any) -> Certified:
    """An X.509-SVID (X509-SVID section 3); `changes` bend it."""
    return certify("workload", issuer, now=now, **{"uris": [spiffe_id], **changes})
