"""Where evidence comes from: a plug behind the keeper, since a launcher measures somebody else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

from lockstep.v1 import evidence_pb2
from lockstep_client.messages import InstanceKey

M = TypeVar("M")


class EvidenceSource(Protocol):
    """Measures, then seals. Called on the keeper's thread, one call at a time.

    Two steps, since a challenge lives for seconds: what takes its time is done
    before it is asked for.
    """

    def measure(self, *, whole: bool) -> None:
        """Measure now. `whole`: everything (Attest); otherwise what was added since the last `settle`."""

    def seal(self, nonce: bytes, key: InstanceKey) -> Sequence[evidence_pb2.SealedEvidence]:
        """What was measured last, bound to one challenge; quick, and may be asked for again."""

    def settle(self) -> None:
        """The broker has recorded what was sealed last: later additions name it as their base."""

    def unseen(self) -> Sequence[str]:
        """What the last measurement could not see, one line each, for people."""


class Measured(Generic[M]):
    """Evidence at level *self*: measured in this process's name and sealed by the instance key.

    `measure` makes a measurement on top of the last one that was recorded (or
    None); `state` serialises it as an ``EvidenceStatement`` for a nonce and a
    key thumbprint, as an addition to a base (or None: the whole).
    """

    def __init__(
        self,
        measure: Callable[[M | None], M],
        state: Callable[[M, bytes, bytes, M | None], bytes],
        describe: Callable[[M], Sequence[str]] = lambda _: (),
    ) -> None:
        self._measure = measure
        self._state = state
        self._describe = describe
        self._base: M | None = None
        self._last: M | None = None
        self._upon: M | None = None

    def measure(self, *, whole: bool) -> None:
        """On top of the base, or of nothing."""
        self._upon = None if whole else self._base
        self._last = self._measure(self._upon)

    def seal(self, nonce: bytes, key: InstanceKey) -> Sequence[evidence_pb2.SealedEvidence]:
        """One item."""
        if self._last is None:
            return ()
        return (key.seal(self._state(self._last, nonce, key.thumbprint, self._upon)),)

    def settle(self) -> None:
        """What was sealed last is the new base."""
        self._base = self._last

    def unseen(self) -> Sequence[str]:
        """Names what is unknown, from the last measurement."""
        return () if self._last is None else self._describe(self._last)
