"""WatchRevocations: subscribe, then read, then wait; pings are answered with how old this is."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

from broker.api.arrival import Call
from broker.api.callers import Named
from broker.api.convert import revocations as convert
from broker.api.convert.scalars import to_duration
from broker.api.drain import Drain
from broker.api.duplex import Duplex
from broker.api.viewing import OperatorView, ResourceServerView, View, WorkloadView
from broker.errors import Denied, InvalidRequest, LimitExceeded, NotFound
from broker.model.attestation import AttestationState
from broker.model.caller import OperatorCaller, ResourceServerCaller, WorkloadCaller
from broker.model.revocation import LogEntry, LogHead
from broker.ports import RevocationFeed, StateStore, Subscription, Transaction
from lockstep.formats import Reason
from lockstep.v1 import revocation_pb2 as pb

_PART: Final = 500
_PAGE: Final = 1000
_IDLE: Final = 30.0
_OPEN_REVOCATIONS: Final = 10_000

Watch = Duplex[pb.WatchRevocationsRequest, pb.WatchRevocationsResponse]
Watcher = WorkloadCaller | ResourceServerCaller | OperatorCaller


def by_open(message: pb.WatchRevocationsRequest) -> Named:
    """The attestation that the opening message names."""
    return Named(attestation_id=message.open.attestation_id)


class _Behind(Exception):
    """The watcher must begin anew; the text says why."""


class WatchRoom:
    """One stream a watcher. Nothing that is announced between reading and waiting is lost."""

    def __init__(self, feed: RevocationFeed, state: StateStore, drain: Drain) -> None:
        self._feed = feed
        self._state = state
        self._drain = drain

    async def run(self, first: pb.WatchRevocationsRequest, call: Call[Watcher], duplex: Watch) -> None:
        """The whole watch.

        1. subscribe, 2. catch up from the position named, or a snapshot,
        3. entries as they come, and a beat for every ping, until somebody leaves.
        """
        if first.WhichOneof("message") != "open":
            raise InvalidRequest("the first message opens the watch")
        view = await self._view(call.caller)
        subscription = self._feed.subscribe(_audience(call.caller))
        try:
            delivered = await self._begin(first.open, view, duplex)
            await _first_of(
                self._events(view, duplex, subscription, delivered),
                self._pings(duplex, subscription),
                self._leave(duplex),
            )
        except (_Behind, LimitExceeded) as error:
            reason = str(error) or "fell behind"
            await duplex.send(pb.WatchRevocationsResponse(resync=pb.Resync(reason=reason)))
        finally:
            subscription.close()

    async def _view(self, caller: Watcher) -> View:
        if isinstance(caller, OperatorCaller):
            return OperatorView()
        if isinstance(caller, ResourceServerCaller):
            return ResourceServerView(caller.server.audiences, self._state)
        attestation = await self._state.read(lambda tx: tx.attestations.get(caller.attestation_id))
        if attestation is None:
            raise NotFound("no such attestation of this key")
        if attestation.state is AttestationState.REVOKED:
            raise Denied(Reason.REVOKED, "the attestation was revoked", decision_id=attestation.decision_id)
        if attestation.state is not AttestationState.ALIVE:
            raise Denied(Reason.ATTESTATION_EXPIRED, "the attestation has ended: attest anew")
        return WorkloadView(attestation, self._state)

    # --- begin ------------------------------------------------------------------------------------

    async def _begin(self, opening: pb.WatchOpen, view: View, duplex: Watch) -> int:
        """Bring the watcher to now; the sequence it has."""
        if opening.HasField("resume"):
            return await self._resume(opening.resume, view, duplex)
        head, live = self._feed.denials.head, self._feed.denials.live()
        # Read after the head: an entry that is expanded from here on says so in an entry still to come.
        unexpanded = await self._state.read(_unexpanded)
        part: list[pb.RevocationEvent] = []
        for entry in live:
            event = await view.now(head.log_id, entry, unexpanded)
            if event is not None:
                part.append(event)
            if len(part) >= _PART:
                await self._snapshot(duplex, head, part, complete=False)
                part = []
        await self._snapshot(duplex, head, part, complete=True)
        return head.seq

    async def _snapshot(
        self, duplex: Watch, head: LogHead, part: list[pb.RevocationEvent], *, complete: bool
    ) -> None:
        snapshot = pb.Snapshot(position=convert.head(head), events=part, complete=complete)
        await duplex.send(pb.WatchRevocationsResponse(snapshot=snapshot))

    async def _resume(self, named: pb.LogPosition, view: View, duplex: Watch) -> int:
        """Entries after a position that this log really has; anything else is `_Behind`."""
        await self._feed.catch_up()
        head = self._feed.denials.head
        if named.log_id != head.log_id:
            raise _Behind("another log")
        if named.seq > head.seq:
            raise _Behind("a position beyond the log")

        async def known(tx: Transaction) -> LogEntry | None:
            return await tx.revocations.entry(named.seq)

        if named.seq:
            entry = await self._state.read(known)
            if named.seq == head.seq:
                expected = head.hash
            elif entry is not None:
                expected = entry.hash
            else:
                raise _Behind("the position was pruned")
            if named.hash != expected:
                raise _Behind("the position contradicts the log")
        seq = named.seq
        while seq < head.seq:
            after = seq
            page = await self._state.read(lambda tx, after=after: tx.revocations.since(after, _PAGE))  # type: ignore[misc]
            if not page or page[0].seq != seq + 1:
                raise _Behind("entries after the position were pruned")
            for entry in page:
                if entry.seq != seq + 1:
                    raise _Behind("entries after the position were pruned")
                await self._tell(view, duplex, entry, head.log_id)
                seq = entry.seq
        return seq

    # --- go on ------------------------------------------------------------------------------------

    async def _events(self, view: View, duplex: Watch, subscription: Subscription, delivered: int) -> None:
        log_id = self._feed.denials.head.log_id
        while True:
            entry = await subscription.next(_IDLE)
            if entry is None or entry.seq <= delivered:
                continue
            delivered = entry.seq
            await self._tell(view, duplex, entry, log_id)
            if view.ends(entry):
                return

    async def _tell(self, view: View, duplex: Watch, entry: LogEntry, log_id: str) -> None:
        event = await view.of(log_id, entry)
        if event is not None:
            await duplex.send(pb.WatchRevocationsResponse(event=event))

    async def _pings(self, duplex: Watch, subscription: Subscription) -> None:
        while (message := await duplex.receive()) is not None:
            if message.WhichOneof("message") != "ping":
                raise InvalidRequest("after the opening, only pings")
            subscription.acknowledge(message.ping.applied_seq)
            beat = pb.Beat(
                ping_id=message.ping.id,
                position=convert.head(self._feed.denials.head),
                state_age=to_duration(self._feed.age()),
            )
            await duplex.send(pb.WatchRevocationsResponse(beat=beat))

    async def _leave(self, duplex: Watch) -> None:
        await self._drain.wait()
        beat = pb.Beat(
            position=convert.head(self._feed.denials.head),
            state_age=to_duration(self._feed.age()),
            going_away=True,
            grace=to_duration(self._drain.grace),
        )
        await duplex.send(pb.WatchRevocationsResponse(beat=beat))


def _audience(caller: Watcher) -> str:
    if isinstance(caller, ResourceServerCaller):
        return ",".join(sorted(caller.server.audiences))
    return "workloads" if isinstance(caller, WorkloadCaller) else "operators"


async def _unexpanded(tx: Transaction) -> frozenset[int]:
    opened = await tx.revocations.open(_OPEN_REVOCATIONS)
    return frozenset(revocation.first_seq for revocation in opened if not revocation.expanded)


async def _first_of(*work: Coroutine[Any, Any, None]) -> None:
    """Run together until the first ends; the others are cancelled, and its error is raised."""
    tasks = [asyncio.ensure_future(item) for item in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()
