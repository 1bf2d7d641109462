"""A throw-away certificate authority for one laptop: the server's certificate, and an X.509-SVID to try mTLS."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CA_DAYS = 365
LEAF_DAYS = 30
_BACKDATED = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Authority:
    """A CA's key with its self-signed certificate."""

    key: ec.EllipticCurvePrivateKey = field(repr=False)
    certificate: x509.Certificate

    @property
    def pem(self) -> bytes:
        """The certificate."""
        return self.certificate.public_bytes(Encoding.PEM)


def _name(text: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "lockstep dev"),
            x509.NameAttribute(NameOID.COMMON_NAME, text),
        ]
    )


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def authority(key: ec.EllipticCurvePrivateKey, name: str, now: float, *, spiffe: str = "") -> Authority:
    """A CA that may sign leaves only (RFC 5280 section 4.2.1.9); `spiffe` is its trust domain's id (X509-SVID 5.1)."""
    start = datetime.fromtimestamp(now, UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name(name))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - _BACKDATED)
        .not_valid_after(start + timedelta(days=CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(ca=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if spiffe:
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(spiffe)])
        builder = builder.add_extension(names, critical=False)
    return Authority(key, builder.sign(key, hashes.SHA256()))


def server_certificate(ca: Authority, public: ec.EllipticCurvePublicKey, now: float) -> bytes:
    """PEM for localhost, 127.0.0.1 and ::1."""
    names = [
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        x509.IPAddress(ipaddress.ip_address("::1")),
    ]
    return _leaf(ca, public, now, names, "localhost", ExtendedKeyUsageOID.SERVER_AUTH)


def svid(ca: Authority, public: ec.EllipticCurvePublicKey, spiffe_id: str, now: float) -> bytes:
    """PEM of an X.509-SVID: exactly one URI name (X509-SVID section 2)."""
    names = [x509.UniformResourceIdentifier(spiffe_id)]
    return _leaf(ca, public, now, names, "workload", ExtendedKeyUsageOID.CLIENT_AUTH)


def _leaf(
    ca: Authority,
    public: ec.EllipticCurvePublicKey,
    now: float,
    names: Sequence[x509.GeneralName],
    name: str,
    purpose: x509.ObjectIdentifier,
) -> bytes:
    start = datetime.fromtimestamp(now, UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(ca.certificate.subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - _BACKDATED)
        .not_valid_after(min(start + timedelta(days=LEAF_DAYS), ca.certificate.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(ca=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.key.public_key()), critical=False
        )
        .sign(ca.key, hashes.SHA256())
    )
    return certificate.public_bytes(Encoding.PEM)
