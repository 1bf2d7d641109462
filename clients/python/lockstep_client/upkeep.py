"""What keeps an instance in good standing: attest, issue, renew, and the plan of when.

Blocking, for one thread: the keeper's. Nothing here knows of threads, streams
or callbacks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from lockstep_client import schedule
from lockstep_client.clock import Clock
from lockstep_client.errors import Denied, LockstepError, Revoked, Unavailable
from lockstep_client.exchange import Exchange, needs_new_attestation
from lockstep_client.holding import Attestation, Held, Holding
from lockstep_client.messages import fresh_id

log = logging.getLogger("lockstep")

NEVER = float("inf")
OVER_WITHIN = 5.0
"""Seconds to give back what was replaced."""


class Upkeep:
    """`due` is when `refresh` wants to be called, in `Clock.steady` seconds.

    `attested` is called after every new attestation, `rotated` with each role
    whose secret is a new one.
    """

    def __init__(
        self,
        exchange: Exchange,
        holding: Holding,
        clock: Clock,
        roles: Sequence[str],
        attested: Callable[[], None],
        rotated: Callable[[str], None],
    ) -> None:
        self._exchange = exchange
        self._holding = holding
        self._clock = clock
        self._roles = tuple(roles)
        self._attested = attested
        self._rotated = rotated
        self._pending: dict[str, str] = {}
        # What was replaced and lives on for its overlap: the lease without its secret, and until when.
        self._outgoing: list[tuple[Held, float]] = []
        self._attempt = 0
        self._refused = False
        self.due = NEVER

    def soon(self, pause: float) -> None:
        """Refresh in `pause` seconds at the latest; not where the broker has refused to."""
        if not self._refused:
            self.due = min(self.due, self._clock.steady() + pause)

    def attest(self) -> Attestation:
        """A new attestation under the same key. Raises `Denied`, `Unavailable`, `ConfigurationError`."""
        attestation = self._exchange.attest(self._roles)
        self._holding.attested(attestation)
        self._attempt, self._refused = 0, False
        self._plan()
        self._attested()
        return attestation

    def credential(self, role: str) -> Held:
        """A new credential for a role. Raises `Denied`, `Revoked`, `Unavailable`."""
        attestation = self._holding.attestation
        if attestation is None or self._clock.steady() >= attestation.ends:
            attestation = self.attest()
        try:
            return self._issue(attestation, role)
        except Denied as error:
            if isinstance(error, Revoked) or not needs_new_attestation(error):
                raise
            return self._issue(self.attest(), role)

    def refresh(self) -> None:
        """Attest again and renew what is held; plans the next time, also after a failure. Raises `Revoked`."""
        attestation = self._holding.attestation
        if attestation is None or self._holding.revoked is not None:
            self.due = NEVER
            return
        try:
            self._renew_all(attestation)
        except Revoked:
            self.due = NEVER
            raise
        except Denied as error:
            log.error("renewal was refused, and is not asked for again: %s", error)
            self._refused = True
            self._holding.doom(self._holding.roles(), error)
            self.due = NEVER
        except LockstepError as error:
            self._attempt += 1
            pause = schedule.backoff(self._attempt, schedule.luck())
            self.due = self._clock.steady() + pause
            log.warning("not renewed, next try in %.1f s: %s", pause, error)
        else:
            self._attempt, self._refused = 0, False
            self._plan()

    def give_back(self, within: float) -> None:
        """End every lease early, as far as `within` seconds suffice."""
        attestation = self._holding.attestation
        deadline = self._clock.steady() + within
        for held in (*self._holding.held(), *(old for old, _ in self._outgoing)):
            left = deadline - self._clock.steady()
            if attestation is None or left <= 0:
                return
            self._exchange.give_back(attestation.id, held.lease_id, left)

    def _issue(self, attestation: Attestation, role: str) -> Held:
        request_id = self._pending.setdefault(role, fresh_id())
        try:
            held = self._exchange.issue(attestation.id, role, request_id)
        except Unavailable:
            raise  # the next try names the same request: whatever this one made is killed
        except LockstepError:
            del self._pending[role]
            raise
        del self._pending[role]
        if not self._holding.put(held):
            return self._holding.get(role)  # raises: a revocation overtook the answer
        self._plan()
        return held

    def _renew_all(self, attestation: Attestation) -> None:
        try:
            fresh = self._exchange.reattest(attestation.id)
            self._holding.attested(fresh)
        except LockstepError as error:
            if isinstance(error, (Revoked, Unavailable)) or not needs_new_attestation(error):
                raise
            fresh = self.attest()
        self._outgoing = [kept for old in self._outgoing if (kept := self._keep(fresh, *old)) is not None]
        # Silence may have dropped secrets: every role that was ever asked for is held again.
        held = {item.role: item for item in self._holding.held()}
        doomed = self._holding.doomed
        for role in self._holding.roles():
            if role in doomed:
                continue
            try:
                self._renew(fresh, role, held.get(role))
            except Denied as error:
                if isinstance(error, Revoked):
                    raise
                log.error("%s is not renewed, nor asked for again: %s", role, error)
                self._holding.doom((role,), error)

    def _renew(self, attestation: Attestation, role: str, held: Held | None) -> None:
        if held is not None and held.renewable and self._clock.steady() < held.ends:
            try:
                renewed = self._exchange.renew(attestation.id, held)
                if self._holding.put(renewed) and not _same_secret(renewed, held):
                    self._rotated(role)
                if self._clock.steady() >= renewed.rotates:
                    self._rotate(attestation, renewed)
                return
            except LockstepError as error:
                if isinstance(error, (Revoked, Unavailable)):
                    raise
                log.info("%s cannot be renewed, a new one is issued: %s", role, error)
        elif held is None and self._ended_for_good(role):
            return
        self._issue(attestation, role)
        self._rotated(role)

    def _rotate(self, attestation: Attestation, held: Held) -> None:
        """A new secret takes the place of one that lives on for its overlap."""
        self._issue(attestation, held.role)
        self._outgoing.append((held.bare(), self._clock.steady() + held.overlap))
        self._rotated(held.role)

    def _keep(self, attestation: Attestation, old: Held, until: float) -> tuple[Held, float] | None:
        """Renew what was replaced, or give it back when its overlap is over; None once it is gone."""
        now = self._clock.steady()
        if now >= old.ends:
            return None
        try:
            if now >= until:
                self._exchange.give_back(attestation.id, old.lease_id, OVER_WITHIN)
                return None
            return self._exchange.renew(attestation.id, old).bare(), until
        except LockstepError as error:
            if isinstance(error, Revoked):
                raise
            if isinstance(error, Unavailable):
                return old, until
            log.info("the old credential for %s ends by itself: %s", old.role, error)
            return None

    def _ended_for_good(self, role: str) -> bool:
        try:
            self._holding.get(role)
        except Denied:
            return True
        except Unavailable:
            return False
        return False

    def _plan(self) -> None:
        """For the shortest life among the attestation and its leases."""
        attestation = self._holding.attestation
        if attestation is None:
            return
        doomed = self._holding.doomed
        lives = [(attestation.ends, attestation.lifetime)]
        lives += [(item.ends, item.lifetime) for item in self._holding.held() if item.role not in doomed]
        lives += [(item.ends, item.lifetime) for item, _ in self._outgoing]
        drawn = schedule.luck()
        turns = [ends - lifetime + schedule.renew_after(lifetime, drawn) for ends, lifetime in lives]
        turns += [item.rotates for item in self._holding.held() if item.role not in doomed]
        turns += [until for _, until in self._outgoing]
        self.due = max(self._clock.steady() + schedule.SHORTEST, min(turns))


def _same_secret(new: Held, old: Held) -> bool:
    return new.token is old.token and new.fields is old.fields
