"""Signing and verifying manifests (DSSE v1) with PEM keys; key ids are derived from the keys.

The only module of the SDK that needs securesystemslib, from the ``cli`` extra.
"""

from __future__ import annotations

import json
import os
import stat
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import UnverifiedSignatureError, VerificationError
from securesystemslib.signer import (  # type: ignore[attr-defined]  # public, and not said so to mypy
    CryptoSigner,
    Signature,
    SSlibKey,
)

from lockstep.formats import MANIFEST_PAYLOAD_TYPE, canonical_json
from lockstep_client.manifest.model import ManifestError

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey
_MAX_KEY: Final = 64 * 1024


def load_signer(path: str | os.PathLike[str]) -> PrivateKey:
    """A private key, PEM PKCS#8, P-256 or Ed25519, that only its owner (you or root) can read.

    Raises `ManifestError`, which says how to mend it and nothing of the content.
    """
    data = _read(path, private=True)
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except TypeError:
        raise ManifestError(f"{path}: the key is encrypted; store it without a password") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ManifestError(f"{path}: not a PEM private key (PKCS#8)") from None
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    raise ManifestError(f"{path}: the key must be P-256 or Ed25519")


def load_public(path: str | os.PathLike[str]) -> PublicKey:
    """A public key, PEM SubjectPublicKeyInfo. Raises `ManifestError`."""
    try:
        key = serialization.load_pem_public_key(_read(path, private=False))
    except (ValueError, UnsupportedAlgorithm):
        raise ManifestError(f"{path}: not a PEM public key (SubjectPublicKeyInfo)") from None
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    raise ManifestError(f"{path}: the key must be P-256 or Ed25519")


def key_id(public: PublicKey) -> str:
    """SHA-256, hexadecimal, of the DER SubjectPublicKeyInfo."""
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return sha256(der).hexdigest()


def sign(payload: bytes, key: PrivateKey, kind: str = MANIFEST_PAYLOAD_TYPE) -> bytes:
    """A DSSE envelope (JSON) with one signature over a payload of a type."""
    return _write(payload, {key_id(key.public_key()): _signature(payload, key, kind)}, kind)


def add_signature(envelope: bytes, key: PrivateKey, kind: str = MANIFEST_PAYLOAD_TYPE) -> bytes:
    """The envelope with one more signature; the same key's old one is replaced. Raises `ManifestError`."""
    payload, signatures = read_envelope(envelope, kind)
    return _write(payload, {**signatures, key_id(key.public_key()): _signature(payload, key, kind)}, kind)


def read_envelope(envelope: bytes, kind: str = MANIFEST_PAYLOAD_TYPE) -> tuple[bytes, dict[str, bytes]]:
    """(payload, signatures by key id), *not verified*; raises `ManifestError`."""
    try:
        content: Mapping[str, Any] = json.loads(envelope)
        if content["payloadType"] != kind:
            raise ManifestError(f"the envelope holds another type of payload than {kind}")
        payload = b64decode(content["payload"], validate=True)
        signatures = {
            str(item["keyid"]): b64decode(item["sig"], validate=True) for item in content["signatures"]
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ManifestError("not a DSSE envelope; sign it first: lockstep manifest sign") from None
    return payload, signatures


def verify(envelope: bytes, keys: Iterable[PublicKey], threshold: int = 1) -> tuple[bytes, tuple[str, ...]]:
    """(payload, ids of the keys whose signature holds), in the order of `keys`.

    The payload is the very bytes that were verified. Raises `ManifestError`
    where fewer than `threshold` different keys signed, and `ValueError` for a
    threshold below one: nothing would be verified.
    """
    if threshold < 1:
        raise ValueError("a threshold below one verifies nothing")
    payload, signatures = read_envelope(envelope)
    encoded = Envelope(payload, MANIFEST_PAYLOAD_TYPE, {}).pae()
    holding: dict[str, None] = {}
    for key in keys:
        name = key_id(key)
        if name in signatures and _holds(SSlibKey.from_crypto(key, name), signatures[name], encoded):
            holding[name] = None
    if len(holding) < threshold:
        raise ManifestError(
            f"{len(holding)} of {threshold} signatures that are needed hold; "
            "have another signer run: lockstep manifest sign"
        )
    return payload, tuple(holding)


def _holds(key: SSlibKey, signature: bytes, encoded: bytes) -> bool:
    try:
        key.verify_signature(Signature(key.keyid, signature.hex()), encoded)
    except (UnverifiedSignatureError, VerificationError):
        return False
    return True


def _signature(payload: bytes, key: PrivateKey, kind: str) -> bytes:
    public = key.public_key()
    signer = CryptoSigner(key, SSlibKey.from_crypto(public, key_id(public)))
    return bytes.fromhex(signer.sign(Envelope(payload, kind, {}).pae()).signature)


def _write(payload: bytes, signatures: Mapping[str, bytes], kind: str) -> bytes:
    items: Sequence[dict[str, str]] = [
        {"keyid": name, "sig": b64encode(signatures[name]).decode()} for name in sorted(signatures)
    ]
    return canonical_json(
        {
            "payload": b64encode(payload).decode(),
            "payloadType": kind,
            "signatures": list(items),
        }
    )


def _read(path: str | os.PathLike[str], *, private: bool) -> bytes:
    # Checks are on the open descriptor, so that what was checked is what is read.
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ManifestError(f"{Path(path)}: {error.strerror}") from None
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_KEY:
            raise ManifestError(f"{path}: not a key file")
        if private and status.st_mode & 0o077:
            raise ManifestError(f"{path}: others can read this key; run: chmod 600 {path}")
        if private and status.st_uid not in (0, os.geteuid()):
            raise ManifestError(f"{path}: this key belongs to another user")
        return file.read(_MAX_KEY)
