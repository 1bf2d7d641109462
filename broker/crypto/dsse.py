"""Signed envelopes (DSSE v1, after secure-systems-lab/dsse): who of the pinned signers signed which bytes.

Pre-authentication encoding and signature checks are securesystemslib's; here is
what it leaves open. A key's id is derived from the key, so that one key cannot
count twice under two ids; the envelope is read strictly; signatures of keys
that are not pinned are ignored.
"""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Final, NamedTuple

from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import UnverifiedSignatureError, VerificationError
from securesystemslib.signer import (  # type: ignore[attr-defined]  # public, and not said so to mypy
    CryptoSigner,
    Signature,
    SSlibKey,
)

from broker.crypto.keyfiles import PrivateKey, PublicKey, key_id
from broker.errors import Denied
from broker.model.strict import MAX_PAYLOAD, Malformed, read_object, strict_json
from lockstep.formats import Reason, canonical_json

MAX_SIGNATURES: Final = 64
"""An envelope with more is refused: every one costs a verification."""
MAX_ENVELOPE: Final = 4 * (MAX_PAYLOAD // 3) + 256 * 1024
"""Bytes: the largest payload in base64, and signatures."""


class _Signed(NamedTuple):
    """An envelope, read and not verified; each signature is (key id, signature)."""

    payload: bytes
    payload_type: str
    signatures: tuple[tuple[str, bytes], ...]


def _bytes(value: object, where: str) -> bytes:
    # DSSE allows both alphabets. Which one changes nothing: the bytes decoded are the bytes verified.
    if not isinstance(value, str) or not value.isascii():
        raise Malformed(f"{where}: not base64")
    try:
        return b64decode(value, validate=True)
    except binascii.Error:
        pass
    try:
        return b64decode(value, altchars=b"-_", validate=True)
    except binascii.Error:
        raise Malformed(f"{where}: not base64") from None


def _read(envelope: bytes) -> _Signed:
    try:
        return _parse(envelope)
    except Malformed as error:
        raise _rejected(f"the envelope is malformed: {error}") from None


def _parse(envelope: bytes) -> _Signed:
    content = read_object(
        strict_json(envelope, limit=MAX_ENVELOPE, depth=16),
        "envelope",
        None,
        ("payload", "payloadType", "signatures"),
    )
    payload_type, items = content["payloadType"], content["signatures"]
    if not isinstance(payload_type, str):
        raise Malformed("payloadType: not a text")
    if not isinstance(items, list) or not 1 <= len(items) <= MAX_SIGNATURES:
        raise Malformed(f"signatures: not a list of one to {MAX_SIGNATURES}")
    signatures = []
    for item in items:
        entry = read_object(item, "signature", None, ("keyid", "sig"))
        if not isinstance(entry["keyid"], str):
            raise Malformed("keyid: not a text")
        signatures.append((entry["keyid"], _bytes(entry["sig"], "sig")))
    return _Signed(_bytes(content["payload"], "payload"), payload_type, tuple(dict.fromkeys(signatures)))


def _write(signed: _Signed) -> bytes:
    return canonical_json(
        {
            "payload": b64encode(signed.payload).decode(),
            "payloadType": signed.payload_type,
            "signatures": [
                {"keyid": keyid, "sig": b64encode(signature).decode()}
                for keyid, signature in signed.signatures
            ],
        }
    )


class DsseVerifier:
    """Says which pinned signers signed an envelope (`broker.ports.EnvelopeVerifier`).

    The threshold is the caller's: names are counted, and no two names have one key.
    """

    def __init__(self, pinned: Mapping[str, PublicKey]) -> None:
        """`pinned` maps a signer's name to its key (P-256 or Ed25519).

        Raises ``ValueError`` where two names pin one key: one signer would meet a threshold of two.
        """
        self._pinned: dict[str, tuple[str, SSlibKey]] = {}
        for name, key in pinned.items():
            keyid = key_id(key)
            if keyid in self._pinned:
                raise ValueError(f"signers {self._pinned[keyid][0]!r} and {name!r} pin one and the same key")
            self._pinned[keyid] = (name, SSlibKey.from_crypto(key, keyid))

    def verify(self, envelope: bytes, payload_type: str) -> tuple[bytes, frozenset[str]]:
        """(payload, names of the pinned signers that signed it).

        The payload is the very bytes that were verified: parse those and no
        others. Raises `Denied` (signature_rejected) where the envelope is
        malformed, has another payload type, or no pinned key signed it.
        """
        signed = _read(envelope)
        if signed.payload_type != payload_type:
            raise _rejected("the envelope holds another type of payload")
        return signed.payload, frozenset(self._pinned[keyid][0] for keyid, _ in self._holding(signed))

    def merge(self, first: bytes, second: bytes) -> bytes:
        """One envelope with the signatures of two over one payload: k-of-n, gathered over time.

        Only what verifies is kept, one signature a pinned key: junk under a
        signer's key id cannot push out what holds. Raises `Denied`
        (signature_rejected) as `verify`, and where payload or type differ.
        """
        one, two = _read(first), _read(second)
        if (one.payload, one.payload_type) != (two.payload, two.payload_type):
            raise _rejected("the envelopes hold different payloads")
        signatures = tuple(dict.fromkeys((*one.signatures, *two.signatures)))
        return _write(one._replace(signatures=self._holding(one._replace(signatures=signatures))))

    def _holding(self, signed: _Signed) -> tuple[tuple[str, bytes], ...]:
        """The first signature of each pinned key that verifies."""
        encoded = Envelope(signed.payload, signed.payload_type, {}).pae()
        found: dict[str, bytes] = {}
        for keyid, signature in signed.signatures:
            _, key = self._pinned.get(keyid, ("", None))
            if key is not None and keyid not in found and _holds(key, signature, encoded):
                found[keyid] = signature
        if not found:
            raise _rejected("no pinned key signed the envelope")
        return tuple(found.items())


def _holds(key: SSlibKey, signature: bytes, encoded: bytes) -> bool:
    try:
        key.verify_signature(Signature(key.keyid, signature.hex()), encoded)
    except (UnverifiedSignatureError, VerificationError):
        return False
    return True


def _rejected(message: str) -> Denied:
    return Denied(Reason.SIGNATURE_REJECTED, message)


class DsseSealer:
    """Seals payloads with one private key (P-256 or Ed25519); `keyid` is derived from it."""

    def __init__(self, private_key: PrivateKey) -> None:
        public = private_key.public_key()
        self.keyid = key_id(public)
        self._signer = CryptoSigner(private_key, SSlibKey.from_crypto(public, self.keyid))

    def __repr__(self) -> str:
        return f"DsseSealer(keyid={self.keyid!r})"

    def seal(self, payload: bytes, payload_type: str) -> bytes:
        """The envelope with this key's signature, JSON."""
        envelope = Envelope(payload, payload_type, {})
        signature = self._signer.sign(envelope.pae())
        return _write(_Signed(payload, payload_type, ((self.keyid, bytes.fromhex(signature.signature)),)))
