"""X.509-SVIDs against the trust bundle of their own domain (X509-SVID sections 3 to 5, RFC 5280 section 6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from broker.crypto.jwk import algorithms_of
from broker.model.identity import SpiffeId

MAX_BUNDLE: Final = 1024 * 1024
"""Bytes of a trust bundle."""

_MAX_CERTIFICATE: Final = 16 * 1024
_MAX_AUTHORITIES: Final = 64
_MAX_CHAIN: Final = 4
# What reading certificates raises: all but the first are no ValueError.
_MALFORMED: Final = (
    ValueError, x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType,
)  # fmt: skip


class CertificateError(ValueError):
    """A certificate or bundle is refused; the message names no part of it."""


@dataclass(frozen=True, slots=True)
class TrustBundle:
    """The authorities of one trust domain, each of which may sign certificates."""

    store: Store
    size: int


@dataclass(frozen=True, slots=True)
class VerifiedSvid:
    """A SPIFFE ID and the span (seconds since the epoch) in which every certificate of its chain is valid."""

    spiffe_id: SpiffeId
    not_before: float
    not_after: float


def parse_bundle(data: bytes) -> TrustBundle:
    """The authorities of a PEM file. Raises `CertificateError`, also where one of them is no authority."""
    if len(data) > MAX_BUNDLE:
        raise CertificateError(f"the trust bundle is larger than {MAX_BUNDLE} bytes")
    certificates = _load(data)
    if not 0 < len(certificates) <= _MAX_AUTHORITIES:
        raise CertificateError(f"a trust bundle has 1 to {_MAX_AUTHORITIES} certificates")
    for certificate in certificates:
        _check_key(certificate)
        # A leaf in the bundle would be trusted as it is (the flaw of CVE-2024-2048).
        if not _is_authority(certificate):
            raise CertificateError("the trust bundle has a certificate that is no authority")
    return TrustBundle(Store(certificates), len(certificates))


def parse_chain(leaf: bytes, chain: Sequence[bytes]) -> tuple[x509.Certificate, list[x509.Certificate]]:
    """Leaf and intermediates as the TLS layer handed them over, within bounds. Raises `CertificateError`."""
    if len(leaf) > _MAX_CERTIFICATE or sum(map(len, chain)) > _MAX_CERTIFICATE * (_MAX_CHAIN + 1):
        raise CertificateError("the certificates are too large")
    leaves = _load(leaf)
    if len(leaves) != 1:
        raise CertificateError("not one leaf certificate")
    # The TLS layer's chain begins with the leaf.
    intermediates = [item for text in chain for item in _load(text) if item != leaves[0]]
    if len(intermediates) > _MAX_CHAIN:
        raise CertificateError(f"more than {_MAX_CHAIN} intermediate certificates")
    return leaves[0], intermediates


def spiffe_id_of(leaf: x509.Certificate) -> SpiffeId:
    """The one SPIFFE ID that a leaf names (X509-SVID section 2); nothing is verified. Raises `CertificateError`."""
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (x509.ExtensionNotFound, *_MALFORMED):
        raise CertificateError("the certificate has no alternative name") from None
    if len(uris) != 1:
        raise CertificateError("the certificate must have exactly one URI name")
    try:
        return SpiffeId.parse(uris[0])
    except ValueError:
        raise CertificateError("the certificate's URI name is no SPIFFE ID") from None


def verify_svid(
    leaf: x509.Certificate,
    intermediates: Sequence[x509.Certificate],
    bundle: TrustBundle,
    domain: str,
    now: float,
) -> VerifiedSvid:
    """The identity of an X.509-SVID of a trust domain, valid at `now`. Raises `CertificateError`."""
    # 1. Nothing that is costly to verify or odd in its keys (CPU exhaustion: SPIRE 1.14.2).
    for certificate in (leaf, *intermediates):
        _check_key(certificate)
    # 2. A leaf: no authority, may not sign certificates (X509-SVID sections 4.1 and 4.3).
    if _is_authority(leaf) or not _may_sign_only_data(leaf):
        raise CertificateError("the certificate is not a workload's")
    # 3. The identity, before the path: of our domain, or another bundle's business.
    spiffe_id = spiffe_id_of(leaf)
    if spiffe_id.trust_domain != domain:
        raise CertificateError("the certificate is of another trust domain")
    # 4. A path to an authority of this domain, every certificate of it valid now (X509-SVID section 5).
    builder = (
        PolicyBuilder().store(bundle.store).time(datetime.fromtimestamp(now, UTC)).max_chain_depth(_MAX_CHAIN)
    )
    try:
        path = builder.build_client_verifier().verify(leaf, list(intermediates)).chain
    except VerificationError:
        raise CertificateError("the certificate has no valid path to the trust bundle") from None
    if len(path) < 2:
        raise CertificateError("the certificate is trusted by itself alone")
    return VerifiedSvid(
        spiffe_id,
        max(certificate.not_valid_before_utc.timestamp() for certificate in path),
        min(certificate.not_valid_after_utc.timestamp() for certificate in path),
    )


def _load(data: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(data)
    except _MALFORMED:
        raise CertificateError("not PEM certificates") from None


def _check_key(certificate: x509.Certificate) -> None:
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise CertificateError("a certificate's key cannot be used") from None
    if not isinstance(key, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey):
        raise CertificateError("a certificate's key is of a type that is refused")
    if not algorithms_of(key):
        raise CertificateError("a certificate's key is of a curve or size that is refused")


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False
    except _MALFORMED:
        raise CertificateError("a certificate's extensions are malformed") from None


def _may_sign_only_data(certificate: x509.Certificate) -> bool:
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except (x509.ExtensionNotFound, *_MALFORMED):
        return False
    return usage.digital_signature and not usage.key_cert_sign and not usage.crl_sign
