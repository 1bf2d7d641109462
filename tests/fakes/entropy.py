"""Randomness that counts: every run of a test sees the same ids and nonces."""

from __future__ import annotations

import hashlib

_CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"


class CounterEntropy:
    """Plug of `broker.ports.Entropy`. Never for anything but tests: its secrets are known."""

    def __init__(self, seed: str = "") -> None:
        self._seed = seed
        self._count = 0

    def token(self, size: int) -> bytes:
        """`size` bytes, another each time."""
        self._count += 1
        return hashlib.shake_256(f"{self._seed}/{self._count}".encode()).digest(size)

    def identifier(self, prefix: str, now: float) -> str:
        """Sorts by time, then by the order of calls."""
        self._count += 1
        number = (int(now * 1000) << 80) | self._count
        return f"{prefix}-" + "".join(_CROCKFORD[(number >> shift) & 31] for shift in range(125, -1, -5))
