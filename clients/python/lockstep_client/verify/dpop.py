"""DPoP proofs at a resource server (RFC 9449 section 4.3 and 7.1)."""

from __future__ import annotations

import hashlib
import heapq
import hmac
import threading
from collections import Counter
from typing import Any
from urllib.parse import SplitResult, urlsplit

import jwt

from lockstep.formats import Reason, b64url, jwk_thumbprint
from lockstep_client.errors import Unavailable
from lockstep_client.messages import DPOP_TYPE
from lockstep_client.verify.jose import claims_of, header_of, number, refuse, text

WINDOW = 60.0
"""Seconds that ``iat`` may lie off in either direction."""
_MOST_REMEMBERED = 100_000
_WHY = Reason.PROOF_REJECTED
_PORTS = {"https": 443, "http": 80}


class Proofs:
    """Checks each proof once. Thread-safe; the memory of used proofs is bounded, and full is a refusal.

    No key may fill it: each gets as much as is left free beside it, so one
    alone has half, and there is always room for another.
    """

    def __init__(self, most: int = _MOST_REMEMBERED) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._used: set[bytes] = set()
        self._of_key: Counter[bytes] = Counter()
        self._ends: list[tuple[float, bytes, bytes]] = []

    def check(
        self,
        proof: str,
        *,
        token: str,
        thumbprint: bytes,
        method: str,
        url: str,
        now: float,
        steady: float,
    ) -> None:
        """Raises `Denied` (proof_rejected), or `Unavailable` where no more proofs of this key can be remembered.

        `now` in seconds, UTC; `steady` on a clock that nobody sets, which says when a proof may be forgotten.

        Steps of RFC 9449 section 4.3 by their numbers: 2 to 4 form and type, 5 algorithm, 6 and 7 key and
        signature, 8 method, 9 URL, 11 time, 12 token and key; and 11.1, once only.
        """
        header = header_of(proof, DPOP_TYPE, _WHY, jwk_allowed=True)
        key = header.get("jwk")
        if not isinstance(key, dict) or "d" in key or "k" in key:
            raise refuse("the proof brings no public key", _WHY)
        claims = claims_of(proof, _public(key), header["alg"], _WHY)
        if text(claims, "htm", _WHY) != method:
            raise refuse("the proof is for another method", _WHY)
        if _same_target(text(claims, "htu", _WHY)) != _same_target(url):
            raise refuse("the proof is for another URL", _WHY)
        issued = number(claims, "iat", _WHY)
        if issued is None or abs(now - issued) > WINDOW:
            raise refuse("the proof is not of now", _WHY)
        expected = b64url(hashlib.sha256(token.encode("ascii")).digest())
        if not hmac.compare_digest(text(claims, "ath", _WHY).encode(), expected.encode()):
            raise refuse("the proof is for another token", _WHY)
        try:
            of_key = jwk_thumbprint({name: str(value) for name, value in key.items()})
        except ValueError:
            raise refuse("the proof brings no public key", _WHY) from None
        if not hmac.compare_digest(of_key, thumbprint):
            raise refuse("the proof is by another key than the token is bound to", _WHY)
        use = hashlib.sha256(of_key + text(claims, "jti", _WHY).encode()).digest()
        self._claim(use, of_key, steady + (issued + WINDOW - now), steady)

    def _claim(self, use: bytes, key: bytes, ends: float, steady: float) -> None:
        with self._lock:
            self._forget(steady)
            if use in self._used:
                raise refuse("the proof was used before", _WHY)
            if self._of_key[key] >= self._most - len(self._used):
                raise Unavailable("too many proofs of this key are remembered right now", retry_after=1.0)
            self._used.add(use)
            self._of_key[key] += 1
            heapq.heappush(self._ends, (ends, use, key))

    def _forget(self, steady: float) -> None:
        while self._ends and self._ends[0][0] < steady:
            _, use, key = heapq.heappop(self._ends)
            self._used.discard(use)
            self._of_key[key] -= 1
            if not self._of_key[key]:
                del self._of_key[key]


def _public(key: dict[str, Any]) -> Any:
    try:
        return jwt.PyJWK.from_dict(key).key
    except Exception:  # noqa: BLE001 - a door: what a parser of foreign bytes raises is not written down
        raise refuse("the proof brings no public key", _WHY) from None


def _same_target(url: str) -> tuple[str, str, int | None, str]:
    """Scheme, host, port and path in one spelling (RFC 3986 section 6.2); query and fragment do not count."""
    try:
        parts: SplitResult = urlsplit(url)
        port = parts.port
    except ValueError:
        raise refuse("the proof names no URL", _WHY) from None
    scheme = parts.scheme.lower()
    return scheme, (parts.hostname or "").lower(), port or _PORTS.get(scheme), parts.path or "/"
