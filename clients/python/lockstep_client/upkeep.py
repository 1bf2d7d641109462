"""What keeps an instance in good standing: attest, issue, renew, and the plan of when.

Blocking, for one thread: the keeper's. Nothing here knows of threads, streams
or callbacks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from lockstep.formats import Reason
from lockstep_client import schedule
from lockstep_client.clock import Clock
from lockstep_client.errors import Denied, LockstepError, Revoked, Unavailable, Unreachable
from lockstep_client.exchange import Exchange, needs_new_attestation
from lockstep_client.holding import Attestation, Held, Holding
from lockstep_client.messages import fresh_id
from lockstep_client.replaced import Replaced

log = logging.getLogger("lockstep")

NEVER = float("inf")
_MOST_PATIENT = 30.0
"""Seconds between tries, at most, while the broker refuses for a reason that passes."""
_PASSING = frozenset({Reason.IDENTITY_REJECTED, Reason.CHALLENGE_REJECTED, Reason.PROOF_REJECTED})
"""No decision about this instance: a token whose file is renewed in a moment, a nonce that was lost or spent."""


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
        self._replaced = Replaced(exchange, clock)
        self._attempt = 0
        self._refused = False
        self._late: set[str] = set()
        self._turn = 0.0  # steady time before which a refresh only looks
        self.due = NEVER

    def soon(self, pause: float) -> None:
        """Refresh in `pause` seconds at the latest; not where the broker has refused to."""
        if not self._refused:
            self.due, self._turn = min(self.due, self._clock.steady() + pause), 0.0

    def look(self, pause: float) -> None:
        """Attest again in `pause` seconds at the latest, and issue only what is not held; not where the broker has
        refused to."""
        if not self._refused:
            self.due, self._turn = min(self.due, self._clock.steady() + pause), max(self._turn, self.due)

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
        return self._issue_anyhow(attestation, role)

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
            if error.reason in _PASSING:
                self._try_again(error, _MOST_PATIENT)
                return
            log.error("renewal was refused, and is not asked for again: %s", error)
            self._refused = True
            self._holding.doom(self._holding.roles(), error)
            self.due = NEVER
        except LockstepError as error:
            self._try_again(error)
        else:
            self._attempt, self._refused = 0, False
            self._plan()

    def _try_again(self, error: LockstepError, most: float = 5.0) -> None:
        self._attempt += 1
        pause = schedule.backoff(self._attempt, schedule.luck(), most=most)
        self.due, self._turn = self._clock.steady() + pause, 0.0
        log.warning("not renewed, next try in %.1f s: %s", pause, error)

    def owes(self) -> bool:
        """True while there is a lease to give back."""
        return bool(self._holding.held() or self._replaced.leases())

    def give_back(self, within: float) -> None:
        """End every lease early, also what was replaced, as far as `within` seconds suffice and each can be."""
        attestation = self._holding.attestation
        deadline = self._clock.steady() + within
        for held in (*self._holding.held(), *self._replaced.leases()):
            left = deadline - self._clock.steady()
            if attestation is None or left <= 0:
                return
            try:
                self._exchange.give_back(attestation.id, held.lease_id, left)
            except Unreachable:
                return
            except LockstepError as error:
                # It has ended already, was of an earlier attestation, or ends by itself: no reason to keep the others.
                log.info("the lease for %s was not given back: %s", held.role, error)

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

    def _issue_anyhow(self, attestation: Attestation, role: str) -> Held:
        """Under a new attestation, where the broker no longer knows this one."""
        try:
            return self._issue(attestation, role)
        except LockstepError as error:
            if isinstance(error, (Revoked, Unavailable)) or not needs_new_attestation(error):
                raise
            return self._issue(self.attest(), role)

    def _renew_all(self, attestation: Attestation) -> None:
        # Before its turn, as `look` asks for it, the evidence is what counts: what is good stays as it is.
        looks, anew = self._clock.steady() < self._turn, False
        try:
            fresh = self._exchange.reattest(attestation.id)
            self._holding.attested(fresh)
        except LockstepError as error:
            if isinstance(error, (Revoked, Unavailable)) or not needs_new_attestation(error):
                raise
            fresh, anew = self.attest(), True
        missed: LockstepError | None = self._replaced.tend(fresh)
        # Silence may have dropped secrets: every role that was ever asked for is held again.
        held = {item.role: item for item in self._holding.held()}
        doomed = self._holding.doomed
        late, self._late = self._late, set()
        # Whoever was left out the last time comes last: what it waits for may be slow, and others have their time too.
        for role in sorted(self._holding.roles(), key=late.__contains__):
            if role in doomed or (looks and not anew and self._is_good(held.get(role))):
                continue
            try:
                self._renew(self._holding.attestation or fresh, role, held.get(role))
            except (Revoked, Unreachable):
                raise
            except LockstepError as error:
                if isinstance(error, Denied) and error.reason not in _PASSING:
                    log.error("%s is not renewed, nor asked for again: %s", role, error)
                    self._holding.doom((role,), error)
                    continue
                self._late.add(role)
                missed = error
        if missed is not None:
            raise missed

    def _is_good(self, held: Held | None) -> bool:
        return held is not None and self._clock.steady() < min(held.rotates, held.ends)

    def _renew(self, attestation: Attestation, role: str, held: Held | None) -> None:
        if held is not None and held.renewable and self._clock.steady() < held.ends:
            renewed = self._longer(attestation, held)
            if renewed is not None:
                if self._clock.steady() >= renewed.rotates:
                    self._rotate(attestation, renewed)
                return
        elif held is None and self._ended_for_good(role):
            return
        self._issue_anyhow(attestation, role)
        self._rotated(role)

    def _longer(self, attestation: Attestation, held: Held) -> Held | None:
        """The same lease, renewed; None where that is refused. Raises `Revoked`, `Unavailable`."""
        try:
            renewed = self._exchange.renew(attestation.id, held)
        except LockstepError as error:
            if isinstance(error, (Revoked, Unavailable)):
                raise
            log.info("%s cannot be renewed, a new one is issued: %s", held.role, error)
            return None
        if self._holding.put(renewed) and not _same_secret(renewed, held):
            self._rotated(held.role)
        return renewed

    def _rotate(self, attestation: Attestation, held: Held) -> None:
        """A new secret takes the place of one that lives on for its overlap."""
        self._issue_anyhow(attestation, held.role)
        self._replaced.add(held)
        self._rotated(held.role)

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
        drawn = schedule.luck()
        turns = [ends - lifetime + schedule.renew_after(lifetime, drawn) for ends, lifetime in lives]
        turns += [item.rotates for item in self._holding.held() if item.role not in doomed]
        turns += self._replaced.turns(drawn)
        self.due, self._turn = max(self._clock.steady() + schedule.SHORTEST, min(turns)), 0.0


def _same_secret(new: Held, old: Held) -> bool:
    return new.token is old.token and new.fields is old.fields
