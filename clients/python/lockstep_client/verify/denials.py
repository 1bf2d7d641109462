"""The deny set of a resource server: what the feed told, indexed by what tokens carry."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lockstep.v1 import revocation_pb2
from lockstep_client.clock import Clock
from lockstep_client.verify.tokens import LEEWAY, Verified

REMEMBERED = 24 * 3600.0
"""Seconds after its arrival for which an entry is kept; about tokens that live longer the broker is asked."""


@dataclass(frozen=True, slots=True)
class Denial:
    """One entry: denies tokens granted before its sequence. `arrived` on the steady clock, in seconds."""

    seq: int
    arrived: float
    reason: str
    decision: str
    revocation_id: str


class Denials:
    """Thread-safe. Only tokens older than an entry are hit: what was granted later knew of it.

    Sequences say what was later within one log only. A restored backup begins
    another one, in which numbers come again: so it is kept how far the log
    reached when it was first seen, and when that was.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._by_target: dict[tuple[str, str | bytes], Denial] = {}
        self._wide: dict[int, Denial] = {}
        self._forgotten = 0
        self._log_id = ""
        self._head = 0
        self._began_at = 0
        self._began = (0.0, 0.0)
        self._another_before = False

    def replace(
        self, events: Sequence[revocation_pb2.RevocationEvent], position: revocation_pb2.LogPosition
    ) -> None:
        """A snapshot at a position: everything known before is superseded."""
        now = self._clock.steady()
        by_target: dict[tuple[str, str | bytes], Denial] = {}
        wide: dict[int, Denial] = {}
        for event in events:
            _enter(event, now, by_target, wide)
        with self._lock:
            self._by_target, self._wide, self._forgotten = by_target, wide, 0
            if position.log_id != self._log_id:
                self._another_before = self._log_id != ""
                self._log_id = position.log_id
                self._began_at, self._began = position.seq, (now, self._clock.wall())
            self._head = position.seq

    def add(self, event: revocation_pb2.RevocationEvent) -> None:
        """One entry of the log. A lift ends bans, and revives nothing that was granted before."""
        with self._lock:
            _enter(event, self._clock.steady(), self._by_target, self._wide)
            self._head = max(self._head, event.position.seq)

    def reached(self, position: revocation_pb2.LogPosition) -> None:
        """Everything up to here is known."""
        with self._lock:
            self._head = max(self._head, position.seq)

    def hit(self, token: Verified) -> Denial | None:
        """The entry that denies a token."""
        with self._lock:
            for target in token.selectors():
                denial = self._by_target.get(target)
                if denial is not None and denial.seq > token.as_of:
                    return denial
        return None

    def ahead(self, token: Verified) -> bool:
        """True where a token knows of entries that have not come here yet, as one that is a moment old may."""
        with self._lock:
            return token.as_of > self._head and not self._from_another_log(token)

    def must_ask(self, token: Verified) -> bool:
        """True where only the broker can say whether it holds.

        A wide entry newer than the token has not been expanded; or it was
        granted under another log, or later than this one reaches; or it lives
        for so long that an entry about it may have been forgotten.
        """
        with self._lock:
            return (
                any(seq > token.as_of for seq in self._wide)
                or token.as_of > self._head
                or self._from_another_log(token)
                or (token.as_of < self._forgotten and _lifetime(token) > REMEMBERED)
            )

    def forget(self) -> int:
        """Drop entries that no living token can be older than; how many went.

        By how long they have been here, on a clock that nobody sets.
        """
        oldest = self._clock.steady() - REMEMBERED
        with self._lock:
            old = [target for target, denial in self._by_target.items() if denial.arrived < oldest]
            for target in old:
                self._forgotten = max(self._forgotten, self._by_target.pop(target).seq)
            return len(old)

    def after_fork_in_child(self) -> None:
        """Another thread may have been at it; what is known of the log stays, the entries come anew."""
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._by_target) + len(self._wide)

    def _from_another_log(self, token: Verified) -> bool:
        issued = token.issued_at.timestamp() if token.issued_at is not None else float("-inf")
        then, said = self._began
        # As the wall clock had it then, and as it has it now: it may have been set meanwhile.
        began = max(said, self._clock.wall() - (self._clock.steady() - then))
        if self._another_before:
            return issued <= began + LEEWAY
        # The first log that was seen may be a restored one too: what is older knows no later entry of it.
        return issued < began and token.as_of > self._began_at


def _enter(
    event: revocation_pb2.RevocationEvent,
    now: float,
    by_target: dict[tuple[str, str | bytes], Denial],
    wide: dict[int, Denial],
) -> None:
    denial = Denial(event.position.seq, now, event.reason, event.decision_id, event.revocation_id)
    target = _target(event.selector)
    if event.kind == revocation_pb2.EVENT_KIND_EXPANDED:
        wide.pop(event.refers_to, None)
    elif event.kind == revocation_pb2.EVENT_KIND_INTROSPECT or (
        event.kind == revocation_pb2.EVENT_KIND_REVOKED and target is None
    ):
        # What cannot be compared with a token has to be asked about.
        wide[denial.seq] = denial
    elif event.kind == revocation_pb2.EVENT_KIND_REVOKED and target is not None:
        known = by_target.get(target)
        if known is None or known.seq < denial.seq:
            by_target[target] = denial


_PLAIN: Iterable[str] = frozenset(
    {
        "attestation_id",
        "lease_id",
        "token_id",
        "identity",
        "manifest",
        "node",
        "container_id",
        "pod_uid",
        "instance_key",
    }
)


def _target(selector: revocation_pb2.Selector) -> tuple[str, str | bytes] | None:
    """(kind, value) as tokens carry it; None for what they do not carry."""
    kind = selector.WhichOneof("target")
    if kind is None or kind not in _PLAIN:
        return None
    value: str | bytes = getattr(selector, kind)
    return kind, value


def _lifetime(token: Verified) -> float:
    """Seconds, as the issuer says; endless where it does not."""
    if token.issued_at is None:
        return float("inf")
    return (token.expires_at - token.issued_at).total_seconds()
