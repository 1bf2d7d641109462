"""What a rotation has replaced: leases without their secrets, kept alive for their overlap, then given back."""

from __future__ import annotations

import logging
from dataclasses import replace

from lockstep_client import schedule
from lockstep_client.clock import Clock
from lockstep_client.errors import LockstepError, Unavailable
from lockstep_client.exchange import Exchange
from lockstep_client.holding import Attestation, Held

log = logging.getLogger("lockstep")

OVER_WITHIN = 5.0
"""Seconds to give one of them back."""


class Replaced:
    """Blocking, for the keeper's thread."""

    def __init__(self, exchange: Exchange, clock: Clock) -> None:
        self._exchange = exchange
        self._clock = clock
        # Each with the end of its overlap, in `Clock.steady` seconds.
        self._kept: list[tuple[Held, float]] = []

    def add(self, held: Held) -> None:
        """It has just been replaced."""
        self._kept.append((held.bare(), self._clock.steady() + held.overlap))

    def leases(self) -> tuple[Held, ...]:
        """All that may still live."""
        return tuple(held for held, _ in self._kept)

    def turns(self, drawn: float) -> list[float]:
        """When each wants to be tended, in `Clock.steady` seconds; `drawn` is somebody's `luck`."""
        renewals = [
            held.ends - held.lifetime + schedule.renew_after(held.lifetime, drawn)
            for held, _ in self._kept
            if held.renewable
        ]
        return renewals + [until for _, until in self._kept]

    def tend(self, attestation: Attestation) -> Unavailable | None:
        """Renew them, give back what has had its overlap; why that could not be done for all of them now, if so."""
        missed = None
        kept = []
        for held, until in self._kept:
            now = self._clock.steady()
            if now >= held.ends:
                continue
            over = now >= until
            try:
                if over:
                    self._exchange.give_back(attestation.id, held.lease_id, OVER_WITHIN)
                elif held.renewable:
                    kept.append((self._exchange.renew(attestation.id, held).bare(), until))
                else:
                    kept.append((held, until))
            except Unavailable as error:
                kept.append((held, until))
                missed = error
            except LockstepError as error:
                # Were all of us revoked, the next question would say so.
                log.info("what was replaced for %s is not kept any longer: %s", held.role, error)
                if not over:
                    kept.append((replace(held, renewable=False), until))
        self._kept = kept
        return missed
