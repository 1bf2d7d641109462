"""The keeper: one thread that attests, renews and lets go, under both faces of the SDK.

Jobs of the faces and the schedule run on it one after another. The watch has a
thread of its own and takes secrets away itself, so that a slow renewal delays
no revocation. Whoever waits for the keeper waits with a deadline.
"""

from __future__ import annotations

import logging
import queue
import random
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

from lockstep.v1 import revocation_pb2
from lockstep_client import schedule
from lockstep_client.callbacks import Callbacks
from lockstep_client.clock import Clock
from lockstep_client.concern import EVERYTHING, taken_by, time_of
from lockstep_client.errors import (
    EXIT_UNAVAILABLE,
    Denied,
    LockstepError,
    Revoked,
    Unavailable,
)
from lockstep_client.exchange import Exchange, needs_new_attestation
from lockstep_client.holding import Attestation, Held, Holding, Revocation, denied_as_revoked
from lockstep_client.messages import fresh_id
from lockstep_client.report import Observation, Outcome, Reporter
from lockstep_client.transport import Caller, Transport
from lockstep_client.watch import Watch

log = logging.getLogger("lockstep")
T = TypeVar("T")

JOB_TIMEOUT = 30.0
"""Seconds that a face waits for the keeper at most, whatever gRPC does."""
CLOSE_TIMEOUT = 2.0
"""Seconds in which leases are given back."""
_TICK = 1.0
_AFTER_FAILURE = 5.0
_MOST_JOBS = 256


@dataclass(frozen=True, slots=True)
class Listeners:
    """Where the keeper tells: each is called on the callback thread."""

    revoked: Callable[[Revocation], None]
    rotated: Callable[[str], None]
    decided: Callable[[Outcome], None]
    leave: Callable[[int], None]


class Keeper:
    """Holds what `exchange` is granted. Thread-safe; :meth:`start` once, :meth:`close` once."""

    def __init__(
        self,
        transport: Transport,
        exchange: Exchange,
        holding: Holding,
        callbacks: Callbacks,
        listeners: Listeners,
        clock: Clock,
        roles: Sequence[str] = (),
    ) -> None:
        self._transport = transport
        self._exchange = exchange
        self._holding = holding
        self._callbacks = callbacks
        self._listeners = listeners
        self._clock = clock
        self._roles = tuple(roles)
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue(_MOST_JOBS)
        self._pending: dict[str, str] = {}
        self._renew_at = float("inf")
        self._attempt = 0
        self._denials = 0
        self._refused: Denied | None = None
        self._silent = False
        self._grace_until = 0.0
        self._luck = random.random()  # noqa: S311 - spreads load, guards nothing
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._watch = Watch(transport, self._who, self, clock)
        self._reporter = Reporter(
            transport, self._who, lambda outcome: callbacks.post(listeners.decided, outcome), self._mute
        )
        self._reporting = False

    # --- for the faces ------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to work through jobs; nothing is asked of the broker yet."""
        self._thread = threading.Thread(target=self._run, name="lockstep-keeper", daemon=True)
        self._thread.start()
        self._watch.thread.start()

    def attest(self) -> Future[Attestation]:
        """Attest once, where that has not been done."""
        return self._submit(lambda: self._holding.attestation or self._attest())

    def credential(self, role: str) -> Future[Held]:
        """Hold a credential for a role from now on."""
        return self._submit(lambda: self._credential(role))

    def check(self) -> Future[Attestation]:
        """What would be decided now: measures and asks, and holds nothing."""
        return self._submit(lambda: self._exchange.attest(self._roles, dry_run=True))

    def refresh_soon(self, pause: float) -> None:
        """Attest again in `pause` seconds, without waiting for the schedule."""
        self._soon(pause)

    def report(self, observation: Observation) -> None:
        """Tell the broker what a guard saw; at once, and again until it has been taken."""
        if not self._reporting:
            self._reporting = True
            self._reporter.thread.start()
        self._reporter.report(observation)

    def flush_reports(self, timeout: float) -> bool:
        """Wait until the broker has taken every report; False after `timeout` seconds."""
        return self._reporter.flush(timeout)

    def silent(self) -> bool:
        """True where nobody has been heard for longer than the role's grace and secrets are to be dropped."""
        attestation = self._holding.attestation
        if attestation is None or attestation.silence_then == "keep":
            return False
        now = self._clock.steady()
        grace = schedule.silence_grace(attestation.silence_grace, self._luck)
        return now > max(self._transport.last_heard + grace, self._grace_until)

    def close(self, *, give_back: bool = True) -> None:
        """Give leases back (at most `CLOSE_TIMEOUT` seconds), forget everything, end the threads."""
        if self._closing.is_set():
            return
        if give_back and self._holding.revoked is None and self._holding.held():
            try:
                self._submit(self._give_back).result(CLOSE_TIMEOUT)
            except (LockstepError, TimeoutError):
                pass  # they end by themselves
        self._closing.set()
        self._watch.thread.stop()
        if self._reporting:
            self._reporter.thread.stop()
        try:
            self._jobs.put_nowait(None)
        except queue.Full:
            pass  # it looks at `_closing` after every job
        self._holding.lose_all(Unavailable("this connection was closed"))
        self._exchange.key.wipe()
        self._transport.close()
        self._callbacks.close()

    def before_fork(self) -> None:
        """No stream may be open while the process is copied."""
        self._watch.thread.pause()
        if self._reporting:
            self._reporter.thread.pause()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        self._watch.thread.resume()
        if self._reporting:
            self._reporter.thread.resume()

    def after_fork_in_child(self) -> None:
        """The parent's key, secrets and connection are not ours: forget them without touching the network."""
        self._closing = threading.Event()
        self._closing.set()
        self._exchange.key.wipe()
        self._transport.abandon()
        self._holding.wipe()

    # --- what the watch tells (on its thread) -----------------------------------------------------------

    def snapshot(self, events: Sequence[revocation_pb2.RevocationEvent]) -> None:
        """Anything in the live deny set that is newer than what we were granted."""
        for event in events:
            self.event(event)

    def event(self, event: revocation_pb2.RevocationEvent) -> None:
        """Secrets go first; the callbacks learn of it afterwards."""
        attestation = self._holding.attestation
        if attestation is None:
            return
        taken = taken_by(event, attestation, self._exchange.key.thumbprint, self._holding.held())
        if not taken:
            return
        error = Revoked(
            "revoked" if taken == EVERYTHING else f"the lease for {taken!r} was revoked",
            reason=event.reason or "revoked",
            decision=event.decision_id,
        )
        lost = None if taken == EVERYTHING else self._holding.lose(taken, error)
        if taken == EVERYTHING and not self._holding.revoke(error):
            return
        self._tell(
            Revocation(
                reason=error.reason,
                decision=error.decision,
                revocation_id=event.revocation_id,
                attestation_id=attestation.id,
                at=time_of(event),
                role=lost.role if lost else "",
                lease_id=lost.lease_id if lost else "",
            )
        )

    def beat(self, asked_at: float, grace: float) -> None:
        """The cluster lives; a draining replica says how long the silence may last."""
        self._transport.last_heard = max(self._transport.last_heard, asked_at)
        self._grace_until = self._clock.steady() + grace if grace else 0.0
        self._denials = 0

    def denied(self, error: LockstepError) -> None:
        """The watch was refused: it is over, or the attestation has to be made anew."""
        if isinstance(error, Revoked):
            self._over(error)
        else:
            self._denials += 1
            self._soon(schedule.backoff(self._denials, 1.0))

    # --- on the keeper's thread -------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closing.is_set():
            pause = min(_TICK, max(0.0, self._renew_at - self._clock.steady()))
            try:
                job = self._jobs.get(timeout=pause) if pause else self._jobs.get_nowait()
            except queue.Empty:
                job = self._tick
            if job is None:
                return
            try:
                job()
            except Exception:  # a door: the thread that renews must outlive every surprise
                log.exception("the keeper failed at one task and goes on")
                self._renew_at = self._clock.steady() + _AFTER_FAILURE

    def _tick(self) -> None:
        if self._holding.revoked is not None or self._closing.is_set():
            self._renew_at = float("inf")
            return
        if self.silent():
            self._fall_silent()
        else:
            self._silent = False
        if self._clock.steady() >= self._renew_at:
            self._refresh()

    def _attest(self) -> Attestation:
        attestation = self._exchange.attest(self._roles)
        self._holding.attested(attestation)
        self._attempt, self._refused = 0, None
        self._plan()
        self._watch.thread.restart()
        self._reporter.thread.restart()
        return attestation

    def _credential(self, role: str) -> Held:
        try:
            return self._holding.get(role)
        except Unavailable:
            pass
        attestation = self._holding.attestation
        if attestation is None or self._clock.steady() >= attestation.ends:
            attestation = self._attest()
        try:
            return self._issue(attestation, role)
        except Denied as error:
            if isinstance(error, Revoked) or not needs_new_attestation(error):
                raise
            return self._issue(self._attest(), role)

    def _issue(self, attestation: Attestation, role: str) -> Held:
        request_id = self._pending.setdefault(role, fresh_id())
        try:
            held = self._exchange.issue(attestation.id, role, request_id)
        except Revoked as error:
            self._over(error)
            raise
        except LockstepError as error:
            if not isinstance(error, Unavailable):
                self._pending.pop(role, None)
            raise
        self._pending.pop(role, None)
        if not self._holding.put(held):
            return self._holding.get(role)  # raises: a revocation overtook the answer
        self._plan()
        return held

    def _refresh(self) -> None:
        attestation = self._holding.attestation
        if attestation is None:
            self._renew_at = float("inf")
            return
        try:
            self._renew_all(attestation)
            self._attempt, self._refused = 0, None
            self._plan()
        except Revoked as error:
            self._over(error)
        except Denied as error:
            log.error("renewal was refused, and is not asked for again: %s", error)
            self._refused = error
            self._holding.doom(self._holding.roles(), error)
            self._renew_at = float("inf")
        except LockstepError as error:
            self._attempt += 1
            pause = schedule.backoff(self._attempt, random.random())  # noqa: S311 - spreads load
            self._renew_at = self._clock.steady() + pause
            log.warning("not renewed, next try in %.1f s: %s", pause, error)

    def _renew_all(self, attestation: Attestation) -> None:
        try:
            fresh = self._exchange.reattest(attestation.id)
        except LockstepError as error:
            if isinstance(error, (Revoked, Unavailable)) or not needs_new_attestation(error):
                raise
            fresh = self._attest()
        self._holding.attested(fresh)
        self._watch.thread.kick()
        # Silence may have dropped secrets: every role that was ever asked for is held again.
        held = {item.role: item for item in self._holding.held()}
        doomed = self._holding.doomed
        for role in self._holding.roles():
            if role in doomed:
                continue
            try:
                self._renew_role(fresh, role, held.get(role))
            except Denied as error:
                if isinstance(error, Revoked):
                    raise
                log.error("%s is not renewed, nor asked for again: %s", role, error)
                self._holding.doom((role,), error)

    def _renew_role(self, attestation: Attestation, role: str, held: Held | None) -> None:
        if held is not None and held.renewable and self._clock.steady() < held.ends:
            try:
                renewed = self._exchange.renew(attestation.id, held)
                if self._holding.put(renewed) and _differs(renewed, held):
                    self._callbacks.post(self._listeners.rotated, role)
                return
            except LockstepError as error:
                if isinstance(error, (Revoked, Unavailable)):
                    raise
                log.info("%s cannot be renewed, a new one is issued: %s", role, error)
        elif held is None and self._ended_for_good(role):
            return
        self._issue(attestation, role)
        self._callbacks.post(self._listeners.rotated, role)

    def _ended_for_good(self, role: str) -> bool:
        try:
            self._holding.get(role)
        except Denied:
            return True
        except Unavailable:
            return False
        return False

    def _plan(self) -> None:
        """The next renewal: for the shortest life among the attestation and its leases."""
        attestation = self._holding.attestation
        if attestation is None:
            return
        now = self._clock.steady()
        due = [(attestation.ends, attestation.lifetime)]
        doomed = self._holding.doomed
        due += [(item.ends, item.lifetime) for item in self._holding.held() if item.role not in doomed]
        luck = random.random()  # noqa: S311 - spreads load, guards nothing
        self._renew_at = max(
            now + schedule.SHORTEST,
            min(ends - lifetime + schedule.renew_after(lifetime, luck) for ends, lifetime in due),
        )

    def _fall_silent(self) -> None:
        attestation = self._holding.attestation
        if self._silent or attestation is None:
            return
        self._silent = True
        self._holding.lose_all(Unavailable("no broker was heard for too long; secrets were dropped"))
        log.error("no broker was heard for too long: secrets are dropped until one is")
        if attestation.silence_then == "exit":
            log.critical("leaving, as the role says")
            self._callbacks.then(lambda: self._listeners.leave(EXIT_UNAVAILABLE))
        self._renew_at = self._clock.steady()

    def _give_back(self) -> None:
        attestation = self._holding.attestation
        deadline = self._clock.steady() + CLOSE_TIMEOUT
        for held in self._holding.held():
            left = deadline - self._clock.steady()
            if attestation is None or left <= 0:
                return
            self._exchange.give_back(attestation.id, held.lease_id, left)

    # --- anywhere ----------------------------------------------------------------------------------------

    def _over(self, error: Denied) -> None:
        """The broker said that we are revoked, in an answer instead of an event."""
        revoked = error if isinstance(error, Revoked) else denied_as_revoked(error)
        attestation = self._holding.attestation
        if self._holding.revoke(revoked):
            self._tell(
                Revocation(
                    reason=revoked.reason,
                    decision=revoked.decision,
                    revocation_id="",
                    attestation_id=attestation.id if attestation else "",
                    at=None,
                )
            )

    def _tell(self, revocation: Revocation) -> None:
        log.critical("revoked: %s (lockstep explain %s)", revocation.reason, revocation.decision or "…")
        self._callbacks.post(self._listeners.revoked, revocation)

    def _soon(self, pause: float) -> None:
        def refresh() -> None:
            if self._refused is None:
                self._renew_at = min(self._renew_at, self._clock.steady() + pause)

        self._submit(refresh)

    def _mute(self, error: LockstepError) -> None:
        log.error("reports are refused: %s", error)

    def _who(self) -> tuple[str, Caller] | None:
        attestation = self._holding.attestation
        if attestation is None or self._holding.revoked is not None:
            return None
        return attestation.id, self._exchange.caller

    def _submit(self, work: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()
        if self._closing.is_set():
            future.set_exception(Unavailable("this connection is closed"))
            return future

        def job() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(work())
            except BaseException as error:  # noqa: BLE001 - a door: it goes to whoever asked
                future.set_exception(error)

        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            future.set_exception(Unavailable(f"{_MOST_JOBS} requests wait already"))
        return future


def _differs(new: Held, old: Held) -> bool:
    return new.token is not old.token or new.fields is not old.fields
