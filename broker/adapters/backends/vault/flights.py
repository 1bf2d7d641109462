"""Which calls for an attestation are under way: one in flight survives every kill."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from broker.ports import Clock


class Flight:
    """One call with all its tries: `open` while one is sent and not answered, `lost` once one never was."""

    __slots__ = ("lost", "open")

    def __init__(self) -> None:
        self.open = False
        self.lost = False


class Flights:
    """Counts calls by attestation. One whose answer was lost counts for `longest` seconds more."""

    def __init__(self, clock: Clock, longest: float) -> None:
        self._clock = clock
        self._longest = longest
        self._under_way: dict[str, int] = {}
        self._lost: dict[str, float] = {}

    @contextlib.contextmanager
    def sending(self, attestation_id: str) -> Iterator[Flight]:
        """Around everything that has an effect for the attestation."""
        flight = Flight()
        self._under_way[attestation_id] = self._under_way.get(attestation_id, 0) + 1
        try:
            yield flight
        finally:
            left = self._under_way.pop(attestation_id) - 1
            if left:
                self._under_way[attestation_id] = left
            if flight.open or flight.lost:
                self._lost[attestation_id] = self._clock.monotonic() + self._longest

    def quiet(self, attestation_id: str) -> bool:
        """True where nothing is under way."""
        now = self._clock.monotonic()
        self._lost = {key: until for key, until in self._lost.items() if until > now}
        return attestation_id not in self._under_way and attestation_id not in self._lost
