"""Who makes a call, as its metadata says it: an instance by proof, somebody by token, nobody."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from lockstep.formats import AUTHORIZATION_METADATA, PROOF_METADATA
from lockstep_client.clock import Clock
from lockstep_client.messages import InstanceKey

Pairs = tuple[tuple[str, str | bytes], ...]
"""Call metadata."""


class Caller(Protocol):
    """How a call says who makes it."""

    def metadata(self, path: str, body: bytes, nonce: str | None) -> Pairs:
        """For one try of one call."""


class Anonymous:
    """Says nothing: GetChallenge needs no proof."""

    def metadata(self, path: str, body: bytes, nonce: str | None) -> Pairs:
        """Empty."""
        return ()


class Instance:
    """Proves possession of the instance key over the very bytes of the message."""

    def __init__(self, key: InstanceKey, cluster: str, clock: Clock) -> None:
        self._key = key
        self._cluster = cluster
        self._clock = clock

    def metadata(self, path: str, body: bytes, nonce: str | None) -> Pairs:
        """One proof, never used twice."""
        proof = self._key.proof(
            method=path, body=body, audience=self._cluster, issued_at=self._clock.wall(), nonce=nonce
        )
        return ((PROOF_METADATA, proof),)


class Bearer:
    """A JWT of somebody who is no attested workload; `read` is asked at each call."""

    def __init__(self, read: Callable[[], str]) -> None:
        self._read = read

    def metadata(self, path: str, body: bytes, nonce: str | None) -> Pairs:
        """The token as it is now."""
        return ((AUTHORIZATION_METADATA, f"Bearer {self._read()}"),)
