"""Certificates whose extensions nobody should have written are refused like all others."""

from __future__ import annotations

from base64 import b64encode

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from broker.crypto.x509 import CertificateError, parse_bundle, parse_chain, verify_svid
from tests.support import pki

NOW = 1_800_000_000.0
KEY_ID_OF_SUBJECT, KEY_ID_OF_AUTHORITY = b"\x06\x03\x55\x1d\x0e", b"\x06\x03\x55\x1d\x23"


def doubled(certificate: pki.Certified) -> bytes:
    """One extension twice, as no builder makes it (RFC 5280 section 4.2 forbids it)."""
    der = certificate.certificate.public_bytes(Encoding.DER)
    assert der.count(KEY_ID_OF_SUBJECT) == 1
    bent = der.replace(KEY_ID_OF_SUBJECT, KEY_ID_OF_AUTHORITY)
    return b"-----BEGIN CERTIFICATE-----\n" + b64encode(bent) + b"\n-----END CERTIFICATE-----\n"


def test_an_extension_that_is_there_twice() -> None:
    root = pki.authority("root", now=NOW)
    pem = doubled(root)
    with pytest.raises(x509.DuplicateExtension):
        _ = x509.load_pem_x509_certificate(pem).extensions
    with pytest.raises(CertificateError):
        parse_bundle(pem)
    leaf = doubled(pki.svid(root, "spiffe://acme.example/pay", now=NOW))
    parsed, chain = parse_chain(leaf, ())
    with pytest.raises(CertificateError):
        verify_svid(parsed, chain, parse_bundle(root.pem), "acme.example", NOW)
    good, chain = parse_chain(pki.svid(root, "spiffe://acme.example/pay", now=NOW).pem, (pem,))
    with pytest.raises(CertificateError):
        verify_svid(good, chain, parse_bundle(pki.authority("other", now=NOW).pem), "acme.example", NOW)


def test_a_version_that_there_is_none_of() -> None:
    der = pki.authority("root", now=NOW).certificate.public_bytes(Encoding.DER)
    bent = der.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x0a", 1)
    assert bent != der
    pem = b"-----BEGIN CERTIFICATE-----\n" + b64encode(bent) + b"\n-----END CERTIFICATE-----\n"
    with pytest.raises(CertificateError):
        parse_bundle(pem)
    with pytest.raises(CertificateError):
        parse_chain(pem, ())
