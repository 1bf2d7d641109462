"""The keeper: one thread that keeps an instance's standing, under both faces of the SDK.

Jobs of the faces and the schedule run on it one after another. The watch has a
thread of its own and takes secrets away itself, so that a slow renewal delays
no revocation. Whoever waits for the keeper waits with a deadline.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

from lockstep_client.callbacks import Callbacks
from lockstep_client.callers import Caller
from lockstep_client.clock import Clock
from lockstep_client.errors import EXIT_UNAVAILABLE, Denied, LockstepError, Revoked, Unavailable
from lockstep_client.exchange import Exchange
from lockstep_client.holding import Attestation, Held, Holding, Revocation
from lockstep_client.leaving import leave_at_last
from lockstep_client.report import Observation, Outcome, Reporter
from lockstep_client.taking import Taking
from lockstep_client.transport import Transport
from lockstep_client.upkeep import NEVER, Upkeep
from lockstep_client.watch import Watch

log = logging.getLogger("lockstep")
T = TypeVar("T")

JOB_TIMEOUT = 30.0
"""Seconds that a face waits for the keeper at most, whatever gRPC does."""
CLOSE_TIMEOUT = 2.0
"""Seconds in which leases are given back."""
_LAST_WORDS = 1.0
_TICK = 1.0
_AFTER_FAILURE = 5.0
_MOST_JOBS = 256


@dataclass(frozen=True, slots=True)
class Listeners:
    """Where the keeper tells: each is called on the callback thread, but for `cut`.

    `cut` ends the sessions of a role ("" for all) on the thread that learnt of a
    revocation: before any callback, which may take its time. It must not block. `leave`
    may be called twice.
    """

    cut: Callable[[str], None]
    revoked: Callable[[Revocation], None]
    rotated: Callable[[str], None]
    decided: Callable[[Outcome], None]
    silent: Callable[[], None]
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
        self._upkeep = Upkeep(exchange, holding, clock, roles, self._attested, self._rotated)
        self._taking = Taking(
            holding,
            exchange.key.thumbprint,
            transport,
            clock,
            listeners.cut,
            lambda revocation: callbacks.post(listeners.revoked, revocation),
            self.refresh_soon,
        )
        self._silent = False
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._watch = Watch(transport, self._who, self._taking, clock)
        self._reporter = Reporter(
            transport, self._who, lambda outcome: callbacks.post(listeners.decided, outcome), self._mute
        )
        self._reporting = False
        self._starting = threading.Lock()

    # --- for the faces ------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to work through jobs; nothing is asked of the broker yet."""
        self._thread = threading.Thread(target=self._run, name="lockstep-keeper", daemon=True)
        self._thread.start()
        self._watch.thread.start()

    def attest(self) -> Future[Attestation]:
        """Attest once, where that has not been done."""
        return self._submit(lambda: self._holding.attestation or self._upkeep.attest())

    def credential(self, role: str) -> Future[Held]:
        """Hold a credential for a role from now on."""
        return self._submit(lambda: self._credential(role))

    def check(self) -> Future[Attestation]:
        """What would be decided now: measures and asks, and holds nothing."""
        return self._submit(lambda: self._exchange.attest(self._roles, dry_run=True))

    def refresh_soon(self, pause: float) -> None:
        """Attest again and renew in `pause` seconds, without waiting for the schedule."""
        self._submit(lambda: self._upkeep.soon(pause))

    def look_soon(self, pause: float) -> None:
        """Attest again in `pause` seconds, and leave every secret that is good as it is."""
        self._submit(lambda: self._upkeep.look(pause))

    def report(self, observation: Observation) -> None:
        """Tell the broker what a guard saw; at once, and again until it has been taken. Nothing once it is closed."""
        if self._closing.is_set():
            return  # the hook outlives every connection, and its instance has given everything back
        self._begin_reporting()
        self._reporter.report(observation)

    def lose(self, count: int) -> None:
        """Tell the broker that so many observations of a guard were lost."""
        if self._closing.is_set():
            return
        self._begin_reporting()
        self._reporter.lose(count)

    def flush_reports(self, timeout: float) -> bool:
        """Wait until the broker has taken every report; False after `timeout` seconds."""
        return self._reporter.flush(timeout)

    def silent(self) -> bool:
        """True where nobody has been heard for longer than the role's grace and secrets are to be dropped."""
        return self._taking.silent()

    def close(self, *, give_back: bool = True) -> None:
        """Give leases back (at most `CLOSE_TIMEOUT` seconds), forget everything, end the threads."""
        if self._closing.is_set():
            return
        if self._reporting and self._holding.revoked is None:
            self._reporter.flush(_LAST_WORDS)
        if give_back and self._holding.revoked is None and self._upkeep.owes():
            try:
                self._submit(lambda: self._upkeep.give_back(CLOSE_TIMEOUT)).result(CLOSE_TIMEOUT)
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

    # --- on the keeper's thread -------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closing.is_set():
            pause = min(_TICK, max(0.0, self._upkeep.due - self._clock.steady()))
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
                self._upkeep.due = self._clock.steady() + _AFTER_FAILURE

    def _tick(self) -> None:
        if self._holding.revoked is not None:
            self._upkeep.due = NEVER
            return
        if not self.silent():
            self._silent = False
        elif not self._silent:
            self._silent = True
            self._fall_silent()
        if self._clock.steady() >= self._upkeep.due:
            try:
                self._upkeep.refresh()
                self._watch.thread.kick()
                self._reporter.thread.kick()
            except Revoked as error:
                self._taking.over(error)

    def _credential(self, role: str) -> Held:
        try:
            return self._holding.get(role)
        except Denied:
            raise  # known here: a lease that was taken back, or could not be renewed
        except Unavailable:
            pass
        try:
            return self._upkeep.credential(role)
        except Revoked as error:
            self._taking.over(error)
            raise

    def _fall_silent(self) -> None:
        attestation = self._holding.attestation
        if attestation is None:
            return
        self._holding.lose_all(Unavailable("no broker was heard for too long; secrets were dropped"))
        log.error("no broker was heard for too long: secrets are dropped until one is")
        self._callbacks.then(self._listeners.silent)
        if attestation.silence_then == "exit":
            log.critical("leaving, as the role says")
            self._callbacks.then(lambda: self._listeners.leave(EXIT_UNAVAILABLE))
            leave_at_last(self._listeners.leave, EXIT_UNAVAILABLE)  # where a callback hangs before it
        self._upkeep.soon(0.0)

    # --- anywhere ----------------------------------------------------------------------------------------

    def _begin_reporting(self) -> None:
        with self._starting:
            if not self._reporting:
                self._reporting = True
                self._reporter.thread.start()

    def _attested(self) -> None:
        self._watch.thread.restart()
        self._reporter.thread.restart()

    def _rotated(self, role: str) -> None:
        self._callbacks.post(self._listeners.rotated, role)

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
