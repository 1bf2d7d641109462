"""What both faces stand on: the parts put together, their callbacks, forks and the end of the process."""

from __future__ import annotations

import atexit
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Literal, TypeVar

from lockstep_client import leaving
from lockstep_client.callbacks import Callbacks
from lockstep_client.clock import Clock, SystemClock
from lockstep_client.errors import EXIT_REVOKED, LockstepError, Unavailable
from lockstep_client.evidence import EvidenceSource
from lockstep_client.exchange import Exchange
from lockstep_client.forks import mind
from lockstep_client.holding import Attestation, Held, Holding, Revocation
from lockstep_client.identity import Identity, channel_credentials
from lockstep_client.keeper import JOB_TIMEOUT, Keeper, Listeners
from lockstep_client.messages import InstanceKey
from lockstep_client.report import Observation, Outcome
from lockstep_client.sessions import Sessions
from lockstep_client.settings import Settings, require
from lockstep_client.telling import Deliver, Loop, Telling, call
from lockstep_client.transport import Transport

log = logging.getLogger("lockstep")
T = TypeVar("T")

OnRevoked = Literal["raise", "exit"] | Callable[[Revocation], object]


@dataclass(frozen=True, slots=True)
class Parts:
    """One instance: one key, one attestation. A forked child gets parts of its own."""

    exchange: Exchange
    holding: Holding
    keeper: Keeper


class Connection:
    """One process's standing with a broker cluster. Thread-safe.

    `deliver` runs a user's callback; `evidence` makes a source of evidence, anew
    for each instance key.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        roles: Sequence[str] = (),
        on_revoked: OnRevoked = "raise",
        evidence: Callable[[], EvidenceSource],
        deliver: Deliver = call,
        clock: Clock | None = None,
        silent: Callable[[], None] | None = None,
        leave: Callable[[int], None] | None = None,
    ) -> None:
        """Raises `ConfigurationError`; asks nothing of the broker yet.

        `silent` is called when secrets were dropped because nobody was heard,
        `leave` where the role wants the process to end then, with its exit code.
        """
        if on_revoked not in ("raise", "exit") and not callable(on_revoked):
            raise ValueError('on_revoked is "raise", "exit" or a callable')
        if isinstance(roles, str):
            raise TypeError(f"roles are a list: roles=[{roles!r}]")
        require(settings, "address", "where the broker is")
        self.settings = settings
        self._identity = Identity(settings)
        self._roles = tuple(roles)
        self._on_revoked = on_revoked
        self._evidence = evidence
        self._clock: Clock = SystemClock() if clock is None else clock
        self._silent = silent or _nothing
        self._leave = leave or leaving.leave
        self._sessions: dict[str, Sessions] = {}
        self._telling = Telling(deliver, self._home)
        if callable(on_revoked):
            self._telling.on_revoked(on_revoked)
        self._lock = threading.Lock()
        self._closed = False
        self._inherited: list[Parts] = []
        self._parts: Parts | None = self._assemble()
        mind(self)
        atexit.register(self.close)

    def parts(self) -> Parts:
        """Of this process: in a forked child, new ones."""
        parts = self._parts
        if parts is not None:
            return parts
        with self._lock:
            if self._parts is None:
                self._parts = self._assemble()
            return self._parts

    def attest(self) -> Future[Attestation]:
        """One try."""
        return self.parts().keeper.attest()

    def credential(self, role: str) -> Future[Held]:
        """One try."""
        return self.parts().keeper.credential(role)

    def check(self) -> Future[Attestation]:
        """What would be decided now; grants nothing."""
        return self.parts().keeper.check()

    def refresh_soon(self, pause: float) -> None:
        """Measure, attest again and renew in `pause` seconds."""
        self.parts().keeper.refresh_soon(pause)

    def look_soon(self, pause: float) -> None:
        """Attest again in `pause` seconds, and leave every secret that is good as it is."""
        self.parts().keeper.look_soon(pause)

    def held(self, role: str) -> Held:
        """What may be used now; after a fork, attests and asks anew. Raises the SDK's errors."""
        parts = self.parts()
        if role not in parts.holding.roles():
            return wait_for(parts.keeper.credential(role))
        if parts.holding.revoked is None and parts.keeper.silent():
            raise Unavailable("no broker was heard for too long")
        return parts.holding.get(role)

    def wall(self) -> float:
        """Seconds since the epoch, UTC."""
        return self._clock.wall()

    @property
    def attestation(self) -> Attestation | None:
        """The last one."""
        return self.parts().holding.attestation

    @property
    def ready(self) -> bool:
        """True while everything that was asked for may be used."""
        parts = self.parts()
        if parts.holding.attestation is None or parts.holding.revoked is not None:
            return False
        try:
            for role in parts.holding.roles():
                self.held(role)
        except LockstepError:
            return False
        return not parts.keeper.silent() and not self._closed

    def report(self, observation: Observation) -> None:
        """Pass on what a guard saw."""
        self.parts().keeper.report(observation)

    def sessions(self, role: str) -> Sessions:
        """Database sessions that end in the moment in which this role's secret is taken back."""
        with self._lock:
            return self._sessions.setdefault(role, Sessions())

    def on_revoked(self, callback: Callable[[Revocation], object], role: str = "") -> None:
        """Runs after the secrets are gone; with a `role`, only where that one's is."""
        self._telling.on_revoked(callback, role)

    def on_rotated(self, role: str, callback: Callable[[], object]) -> None:
        """Runs whenever a role's secret is a new one."""
        self._telling.on_rotated(role, callback)

    def close(self, *, give_back: bool = True) -> None:
        """Give leases back, unless they are to live on until they expire, and forget everything; idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        atexit.unregister(self.close)
        if self._parts is not None:
            self._parts.keeper.close(give_back=give_back)

    # --- assembling -------------------------------------------------------------------------------------

    def _assemble(self) -> Parts:
        if self._closed:
            raise Unavailable("this connection was closed")
        settings, clock = self.settings, self._clock
        transport = Transport(settings.addresses, lambda: channel_credentials(settings), clock)
        exchange = Exchange(
            transport, InstanceKey.generate(), settings.cluster, self._identity, self._evidence(), clock
        )
        holding, callbacks = Holding(clock), Callbacks()
        listeners = Listeners(
            self._cut, self._revoked, self._telling.rotated, _decided, self._silent, self._leave
        )
        keeper = Keeper(transport, exchange, holding, callbacks, listeners, clock, self._roles)
        keeper.start()
        return Parts(exchange, holding, keeper)

    def before_fork(self) -> None:
        """No stream may be open while the process is copied."""
        if self._parts is not None:
            self._parts.keeper.before_fork()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        if self._parts is not None:
            self._parts.keeper.after_fork_in_parent()

    def after_fork_in_child(self) -> None:
        """The parent's standing is not ours: the first use attests anew."""
        self._lock = threading.Lock()
        # The parent's sessions are open here too, and not ours to end.
        self._sessions = {}
        # Kept, not freed: freeing the parent's channel would touch its connection.
        parts, self._parts = self._parts, None
        if parts is not None:
            self._inherited.append(parts)
            parts.keeper.after_fork_in_child()

    # --- telling -----------------------------------------------------------------

    def _revoked(self, revocation: Revocation) -> None:
        self._telling.revoked(revocation)
        if self._on_revoked == "exit":
            self._leave(EXIT_REVOKED)

    def _cut(self, role: str) -> None:
        for name, sessions in tuple(self._sessions.items()):
            if role in ("", name):
                sessions.cut()
        if self._on_revoked == "exit":
            # From now on, and not once the callbacks' turn comes: another may hang before them.
            leaving.leave_at_last(self._leave, EXIT_REVOKED)

    def _home(self, role: str) -> Loop | None:
        sessions = self._sessions.get(role)
        return None if sessions is None else sessions.loop


def wait_for(future: Future[T], timeout: float = JOB_TIMEOUT) -> T:
    """The keeper's answer, or `Unavailable`: a call that hangs in gRPC must hang nobody else."""
    try:
        return future.result(timeout)
    except TimeoutError:
        future.cancel()
        raise Unavailable(f"no answer within {timeout:g} s") from None


def _decided(outcome: Outcome) -> None:
    level = logging.WARNING if outcome.state in ("rejected", "unmatched") else logging.INFO
    log.log(level, "report %s: %s %s %s", outcome.event_id, outcome.state, outcome.reason, outcome.decision)


def _nothing() -> None:
    pass
