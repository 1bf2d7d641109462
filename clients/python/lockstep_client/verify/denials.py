"""The deny set of a resource server: what the feed told, indexed by what tokens carry."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lockstep.v1 import revocation_pb2
from lockstep_client.verify.tokens import Verified

LONGEST_TOKEN = 24 * 3600.0
"""Seconds after which nothing that was granted before a cut can still live."""


@dataclass(frozen=True, slots=True)
class Denial:
    """One entry: denies tokens granted before its sequence."""

    seq: int
    at: float
    reason: str
    decision: str
    revocation_id: str


class Denials:
    """Thread-safe. Only tokens older than an entry are hit: what was granted later knew of it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_target: dict[tuple[str, str | bytes], Denial] = {}
        self._wide: dict[int, Denial] = {}

    def replace(self, events: Sequence[revocation_pb2.RevocationEvent]) -> None:
        """A snapshot: everything known before is superseded."""
        fresh = Denials()
        for event in events:
            fresh.add(event)
        with self._lock:
            self._by_target, self._wide = fresh._by_target, fresh._wide

    def add(self, event: revocation_pb2.RevocationEvent) -> None:
        """One entry of the log. A lift ends bans, and revives nothing that was granted before."""
        denial = Denial(
            event.position.seq,
            event.at.ToDatetime().timestamp() if event.HasField("at") else 0.0,
            event.reason,
            event.decision_id,
            event.revocation_id,
        )
        target = _target(event.selector)
        with self._lock:
            if event.kind == revocation_pb2.EVENT_KIND_EXPANDED:
                self._wide.pop(event.refers_to, None)
            elif event.kind == revocation_pb2.EVENT_KIND_INTROSPECT or (
                event.kind == revocation_pb2.EVENT_KIND_REVOKED and target is None
            ):
                # What cannot be compared with a token has to be asked about.
                self._wide[denial.seq] = denial
            elif event.kind == revocation_pb2.EVENT_KIND_REVOKED and target is not None:
                known = self._by_target.get(target)
                if known is None or known.seq < denial.seq:
                    self._by_target[target] = denial

    def hit(self, token: Verified) -> Denial | None:
        """The entry that denies a token."""
        with self._lock:
            for target in token.selectors():
                denial = self._by_target.get(target)
                if denial is not None and denial.seq > token.as_of:
                    return denial
        return None

    def must_ask(self, token: Verified) -> bool:
        """True where a wide entry newer than the token has not been expanded yet: introspect it."""
        with self._lock:
            return any(seq > token.as_of for seq in self._wide)

    def forget(self, now: float) -> int:
        """Drop entries that no living token can be older than; how many went. `now` in seconds, UTC."""
        with self._lock:
            old = [
                target
                for target, denial in self._by_target.items()
                if denial.at and denial.at < now - LONGEST_TOKEN
            ]
            for target in old:
                del self._by_target[target]
            return len(old)

    def __len__(self) -> int:
        return len(self._by_target) + len(self._wide)


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
