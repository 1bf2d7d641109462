"""The synchronous face: connect, hold credentials, give them back."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Never, Self, TypeVar

import tenacity

from lockstep_client import hardening, warming
from lockstep_client.connection import Connection, OnRevoked, wait_for
from lockstep_client.errors import Unavailable
from lockstep_client.evidence import EvidenceSource
from lockstep_client.guarding import Guarding, GuardUse, guard_use
from lockstep_client.hardening import HardenUse
from lockstep_client.holding import Attestation, Revocation
from lockstep_client.leases import LiveCredential
from lockstep_client.report import Observation
from lockstep_client.settings import Settings, load
from lockstep_client.telling import Deliver, call

T = TypeVar("T")
F = TypeVar("F", bound=Callable[[Revocation], object])


def connect(
    *,
    address: str | None = None,
    ca_file: str | None = None,
    cluster: str | None = None,
    identity_token_file: str | None = None,
    client_cert_file: str | None = None,
    client_key_file: str | None = None,
    config: str | os.PathLike[str] | None = None,
    settings: Settings | None = None,
    roles: Sequence[str] = (),
    wait: float = 0.0,
    on_revoked: OnRevoked = "raise",
    guard: GuardUse | None = None,
    harden: HardenUse | None = None,
    evidence: Callable[[], EvidenceSource] | None = None,
) -> Lockstep:
    """Attest this process and keep it attested; leaving (or `close`) gives leases back.

    Settings come from arguments, else the environment (``LOCKSTEP_ADDRESS``,
    ``LOCKSTEP_CA_FILE``, …), else a TOML file (`config` or ``LOCKSTEP_CONFIG``);
    `settings` replaces all of these.

    `wait`: seconds to go on trying while the broker is unavailable.
    `on_revoked`: ``"raise"`` (every later use raises `Revoked`), ``"exit"`` (the
    process ends with code 77 after the callbacks), or a callable that gets the
    `Revocation`. `roles`: those that will be used; empty means all that the
    identity matches. `guard`: ``"report"`` (the default, or ``LOCKSTEP_GUARD``)
    tells the broker at once of code that is loaded later, which decides by the
    manifest; ``"enforce"`` also stops whatever was not there when this returned,
    before it runs; ``"off"``. `harden`: ``"core"`` (the default, or
    ``LOCKSTEP_HARDEN``) keeps this process's memory, in which the key and the
    secrets are, out of core files; ``"full"`` has none written and keeps other
    processes of the same user from reading it; ``"off"``. `evidence`: makes another source of evidence than
    measuring this process, without a guard.

    With preforking servers, connect in the worker (``post_fork``): a forked
    child shares nothing with its parent and attests anew at its first use.

    Raises `Denied` (never retry), `Unavailable`, `ConfigurationError`.
    """
    found = settings or load(
        {
            "address": address,
            "ca_file": ca_file,
            "cluster": cluster,
            "identity_token_file": identity_token_file,
            "client_cert_file": client_cert_file,
            "client_key_file": client_key_file,
        },
        config=config,
    )
    hardening.harden(hardening.harden_use(harden))
    guarding = Guarding(guard_use(guard)) if evidence is None else None
    connection = guarded_connection(found, guarding, evidence, roles=roles, on_revoked=on_revoked)
    try:
        persist(lambda: wait_for(connection.attest()), wait)
    except BaseException:
        connection.close()
        raise
    if guarding is not None:
        guarding.tell(connection.report, loser(connection))
    return Lockstep(connection)


class Lockstep:
    """An attested process. Thread-safe; a context manager."""

    __slots__ = ("_connection", "_credentials")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._credentials: dict[str, LiveCredential] = {}

    def credential(self, role: str, *, wait: float = 0.0) -> LiveCredential:
        """A live credential; asking twice gives the same one. `wait`: seconds to try while unavailable.

        Raises `Denied`, `Revoked`, `Unavailable`.
        """
        persist(lambda: wait_for(self._connection.credential(role)), wait)
        return self._credentials.setdefault(role, LiveCredential(self._connection, role))

    def on_revoked(self, callback: F) -> F:
        """Call back once everything was taken back; the secrets are gone by then. Usable as a decorator."""
        self._connection.on_revoked(callback)
        return callback

    @property
    def ready(self) -> bool:
        """True while the process is attested and everything that it asked for may be used."""
        return self._connection.ready

    @property
    def attestation(self) -> Attestation | None:
        """The broker's verdict, as last refreshed; None in a forked child that has not asked yet."""
        return self._connection.attestation

    def report(self, observation: Observation) -> None:
        """Tell the broker of code that ran or was stopped (what the guard calls); never blocks."""
        self._connection.report(observation)

    def close(self) -> None:
        """Give the leases back and forget the secrets; idempotent."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        attestation = self._connection.attestation
        return f"<Lockstep {attestation.id if attestation else 'not attested'} ready={self.ready}>"

    def __reduce_ex__(self, _protocol: object) -> Never:
        raise TypeError("a connection cannot be pickled or copied: connect in the process that uses it")


def guarded_connection(
    settings: Settings,
    guarding: Guarding | None,
    evidence: Callable[[], EvidenceSource] | None,
    *,
    roles: Sequence[str],
    on_revoked: OnRevoked,
    deliver: Deliver = call,
) -> Connection:
    """A connection with one source of evidence: another's, or this process under its guard."""
    source = evidence if guarding is None else guarding.evidence
    if source is None:
        raise ValueError("either a guard or evidence")
    connection = Connection(settings, roles=roles, on_revoked=on_revoked, evidence=source, deliver=deliver)
    if guarding is not None:
        warming.load_all()
        guarding.watch()
    return connection


def loser(connection: Connection) -> Callable[[int], None]:
    """How a guard says that it lost something: to this process's own part of a connection."""
    return lambda count: connection.parts().keeper.lose(count)


def persist(attempt: Callable[[], T], wait: float, over: threading.Event | None = None) -> T:
    """Try, and while `Unavailable`, try again for `wait` seconds, or until `over` is set."""
    words = persistence(wait)
    if over is not None:
        words["sleep"] = tenacity.sleep_using_event(over)
        words["stop"] = tenacity.stop_any(words["stop"], tenacity.stop_when_event_set(over))
    return tenacity.Retrying(**words)(attempt)


def persistence(wait: float) -> dict[str, Any]:
    """tenacity's words for it: only `Unavailable`, growing pauses, the broker's own wish heeded."""
    grow = tenacity.wait_random_exponential(multiplier=0.2, max=5.0)

    def pause(state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome is not None else None
        asked = error.retry_after if isinstance(error, Unavailable) else None
        return max(grow(state), asked or 0.0)

    return {
        "retry": tenacity.retry_if_exception_type(Unavailable),
        "wait": pause,
        "stop": tenacity.stop_before_delay(wait) if wait > 0 else tenacity.stop_after_attempt(1),
        "reraise": True,
    }
