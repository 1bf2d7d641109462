"""Signatures of Standard Webhooks (specification 1.0.0): `v1` (HMAC-SHA256) and `v1a` (Ed25519).

The MAC and its spelling are the library's (standardwebhooks). Its `verify` is
not used: it has a clock and a tolerance of its own, rebuilds the signed time
from a float, knows no `v1a`, takes any text as a secret, a public key
included, and leaks exceptions.
"""

from __future__ import annotations

import binascii
import hmac
import re
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from standardwebhooks import Webhook

from broker.errors import Denied
from lockstep.formats import Reason

ID_HEADER: Final = "webhook-id"
TIMESTAMP_HEADER: Final = "webhook-timestamp"
SIGNATURE_HEADER: Final = "webhook-signature"

MAX_SIGNATURES: Final = 16
MAX_SIGNATURE_HEADER: Final = 4096

# The signed text joins id and time with dots, so neither may have one. No leading zero: one time, one spelling.
_ID = re.compile(r"[!-\-/-~]{1,256}")
_TIMESTAMP = re.compile(r"[1-9][0-9]{0,10}")


class WebhookKeyError(ValueError):
    """A text is no key of its kind; the message has nothing of it."""


@dataclass(frozen=True, slots=True)
class HmacKey:
    """A shared secret of 24 to 64 bytes: whoever verifies with it can also sign."""

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if not 24 <= len(self.secret) <= 64:
            raise WebhookKeyError("a webhook secret has 24 to 64 bytes")


SigningKey = HmacKey | Ed25519PrivateKey
VerifyingKey = HmacKey | Ed25519PublicKey


def parse_signing_key(text: str) -> SigningKey:
    """``whsec_`` (HMAC) or ``whsk_`` (Ed25519: seed, or seed and public key), base64. Raises `WebhookKeyError`."""
    if text.startswith("whsk_"):
        raw = _decode(text.removeprefix("whsk_"))
        if len(raw) not in (32, 64):
            raise WebhookKeyError("an Ed25519 private key has 32 or 64 bytes")
        key = Ed25519PrivateKey.from_private_bytes(raw[:32])
        if len(raw) == 64 and key.public_key().public_bytes_raw() != raw[32:]:
            raise WebhookKeyError("the two halves of the key do not belong together")
        return key
    return _hmac_key(text)


def parse_verifying_key(text: str) -> VerifyingKey:
    """``whsec_`` (HMAC) or ``whpk_`` (Ed25519), base64. Raises `WebhookKeyError`.

    Nothing is guessed: a text without its prefix is no key, so that a public
    key can never serve as a secret.
    """
    if text.startswith("whpk_"):
        try:
            return Ed25519PublicKey.from_public_bytes(_decode(text.removeprefix("whpk_")))
        except ValueError:
            raise WebhookKeyError("not an Ed25519 public key") from None
    return _hmac_key(text)


def _hmac_key(text: str) -> HmacKey:
    if not text.startswith("whsec_"):
        raise WebhookKeyError("a webhook key begins with whsec_, whpk_ or (to sign) whsk_")
    return HmacKey(_decode(text.removeprefix("whsec_")))


def _decode(text: str) -> bytes:
    try:
        return b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise WebhookKeyError("not base64") from None


def sign(key: SigningKey, message_id: str, timestamp: int, body: bytes) -> str:
    """One signature for the header ``webhook-signature``, over exactly these bytes.

    `timestamp` is in seconds since the epoch, UTC. Raises ``ValueError`` for an
    id or a time that the specification does not allow, and for an HMAC over
    bytes that are not UTF-8.
    """
    if not _ID.fullmatch(message_id) or not _TIMESTAMP.fullmatch(str(timestamp)):
        raise ValueError("a webhook id is printable ASCII without a dot, its time is after the epoch")
    if isinstance(key, HmacKey):
        # A secret given as bytes is taken as it is; only texts are guessed at.
        moment = datetime.fromtimestamp(timestamp, UTC)
        return Webhook(key.secret).sign(message_id, moment, body.decode("utf-8"))
    return "v1a," + b64encode(key.sign(_signed(message_id, str(timestamp), body))).decode()


def signed_headers(
    keys: Iterable[SigningKey], message_id: str, timestamp: int, body: bytes
) -> dict[str, str]:
    """The three headers of a message; of several keys each signs (rotation)."""
    return {
        ID_HEADER: message_id,
        TIMESTAMP_HEADER: str(timestamp),
        SIGNATURE_HEADER: " ".join(sign(key, message_id, timestamp, body) for key in keys),
    }


@dataclass(frozen=True, slots=True)
class Delivery:
    """What the signature covers beside the body: `sent_at` in seconds since the epoch, UTC."""

    message_id: str
    sent_at: float


def verify(
    keys: Sequence[VerifyingKey], headers: Mapping[str, str], body: bytes, *, now: float, tolerance: float
) -> Delivery:
    """Hold a message against keys, any of which may have signed it (overlap in rotation).

    `headers` have lower-case names; `tolerance` (seconds) counts both ways.
    Raises `Denied` (detection_rejected). A replay within the tolerance passes:
    whoever acts on a message claims its id once.
    """
    message_id, timestamp = headers.get(ID_HEADER, ""), headers.get(TIMESTAMP_HEADER, "")
    listed = headers.get(SIGNATURE_HEADER, "")
    if not _ID.fullmatch(message_id) or not _TIMESTAMP.fullmatch(timestamp):
        raise _rejected("the webhook's id or timestamp is missing or malformed")
    if abs(now - int(timestamp)) > tolerance:
        raise _rejected(f"the webhook was sent more than {tolerance:g} s from now")
    if len(listed) > MAX_SIGNATURE_HEADER:
        raise _rejected("the webhook's signatures are too long")
    signatures = listed.split(" ")
    if len(signatures) > MAX_SIGNATURES:
        raise _rejected(f"the webhook has more than {MAX_SIGNATURES} signatures")
    if not any(_holds(key, message_id, timestamp, body, signatures) for key in keys):
        raise _rejected("no key of the detector signed the webhook")
    return Delivery(message_id, float(timestamp))


def _holds(key: VerifyingKey, message_id: str, timestamp: str, body: bytes, signatures: list[str]) -> bool:
    if isinstance(key, HmacKey):
        try:
            expected = sign(key, message_id, int(timestamp), body).encode()
        except UnicodeDecodeError:
            return False
        # Compared as spelled: base64 has one canonical form, and nothing has to be decoded.
        return any(
            hmac.compare_digest(expected, signature.encode(errors="replace")) for signature in signatures
        )
    for signature in signatures:
        version, _, value = signature.partition(",")
        if version == "v1a":
            try:
                key.verify(b64decode(value, validate=True), _signed(message_id, timestamp, body))
            except (InvalidSignature, binascii.Error, ValueError):
                continue
            return True
    return False


def _signed(message_id: str, timestamp: str, body: bytes) -> bytes:
    return f"{message_id}.{timestamp}.".encode() + body


def _rejected(message: str) -> Denied:
    return Denied(Reason.DETECTION_REJECTED, message)
