"""HmacChallenges: nonces for one instance key that store nothing until they are used (RFC 9334 section 10.2)."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import struct
from collections.abc import Callable
from typing import Final

from broker.errors import Denied
from lockstep.formats import Reason

NONCE_SIZE: Final = 57
"""Bytes: version 1, time in milliseconds 8, random 16, MAC 32."""

_CONTEXT: Final = b"lockstep-challenge-v1\x00"
_VERSION: Final = b"\x01"
_SKEW: Final = 1.0
_MIN_SECRET: Final = 32


class HmacChallenges:
    """A `ChallengeMint`: version, time, random bytes, and a MAC over them and the key's thumbprint.

    All replicas with one `secret` take one another's nonces. That a nonce counts
    once is the replay table's part.
    """

    def __init__(
        self,
        secret: bytes,
        lifetime: float = 30.0,
        *,
        random: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        """`secret` has at least 32 bytes, `lifetime` is in seconds. Raises ``ValueError``."""
        if len(secret) < _MIN_SECRET or lifetime <= 0:
            raise ValueError(
                f"the challenge secret must have at least {_MIN_SECRET} bytes, the lifetime be positive"
            )
        self._secret = secret
        self._lifetime = lifetime
        self._random = random

    @property
    def lifetime(self) -> float:
        """Seconds."""
        return self._lifetime

    def mint(self, thumbprint: bytes, now: float) -> bytes:
        """A nonce for one key, good for `lifetime` seconds."""
        head = _VERSION + struct.pack(">Q", int(now * 1000)) + self._random(16)
        return head + self._mac(head, thumbprint)

    def check(self, nonce: bytes, thumbprint: bytes, now: float) -> float:
        """When the nonce ends (seconds since the epoch); raises `Denied` (challenge_rejected)."""
        head, mac = nonce[:-32], nonce[-32:]
        # The MAC first: what an attacker wrote is not even parsed.
        if len(nonce) != NONCE_SIZE or not hmac.compare_digest(self._mac(head, thumbprint), mac):
            raise Denied(Reason.CHALLENGE_REJECTED, "the nonce is not one of ours for this key")
        minted = struct.unpack_from(">Q", head, 1)[0] / 1000
        expires: float = minted + self._lifetime
        if now >= expires or minted > now + _SKEW:
            raise Denied(Reason.CHALLENGE_REJECTED, "the nonce has expired; ask for a new challenge")
        return expires

    def _mac(self, head: bytes, thumbprint: bytes) -> bytes:
        # The version in `head` fixes its length, so that head and thumbprint cannot trade bytes.
        return hmac.digest(self._secret, _CONTEXT + head + thumbprint, hashlib.sha256)
