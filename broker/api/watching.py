"""WatchRevocations: subscribe, then read, then wait; pings are answered with how old this is."""

from __future__ import annotations

from typing import Final

from broker.api.access import GRPC
from broker.api.arrival import Call
from broker.api.callers import Named
from broker.api.convert import revocations as convert
from broker.api.drain import Drain
from broker.api.duplex import Duplex, Unread
from broker.api.following import Follower, Told, Watch
from broker.api.limits import Limits
from broker.api.metrics import Metrics
from broker.api.standing import Standing
from broker.api.viewing import Behind, OperatorView, ResourceServerView, ScopedView, View, WorkloadView
from broker.errors import Denied, InvalidRequest, LimitExceeded
from broker.model.caller import OperatorCaller, ResourceServerCaller, WorkloadCaller
from broker.model.revocation import LogEntry, LogHead, RevocationState
from broker.ports import Clock, RevocationFeed, RoleSource, StateStore, Transaction
from lockstep.v1 import revocation_pb2 as pb

_PART: Final = 500
_PAGE: Final = 1000
_UNEXPANDED: Final = 10_000

Watcher = WorkloadCaller | ResourceServerCaller | OperatorCaller


def by_open(message: pb.WatchRevocationsRequest) -> Named:
    """The attestation that the opening message names."""
    return Named(attestation_id=message.open.attestation_id)


class WatchRoom:
    """One stream a watcher. Nothing that is announced between reading and waiting is lost."""

    def __init__(
        self,
        feed: RevocationFeed,
        state: StateStore,
        roles: RoleSource,
        clock: Clock,
        drain: Drain,
        limits: Limits,
        metrics: Metrics,
    ) -> None:
        self._feed = feed
        self._state = state
        self._roles = roles
        self._clock = clock
        self._drain = drain
        self._limits = limits
        self._metrics = metrics

    async def run(
        self,
        first: pb.WatchRevocationsRequest,
        call: Call[Watcher],
        duplex: Duplex[pb.WatchRevocationsRequest, pb.WatchRevocationsResponse],
    ) -> None:
        """The whole watch.

        1. subscribe, 2. catch up from the position named, or a snapshot,
        3. entries as they come, and a beat for every ping, until somebody leaves.
        """
        if first.WhichOneof("message") != "open":
            raise InvalidRequest("the first message opens the watch")
        verifier = isinstance(call.caller, ResourceServerCaller)
        told = Told(
            [self._feed.subscribe(audience, verifier=verifier) for audience in _audiences(call.caller)]
        )
        standing = Standing(call.caller, GRPC[call.method], self._roles)
        try:
            await self._watch(first.open, await self._view(call.caller), duplex, told, standing)
        except Unread:
            raise
        except (Behind, LimitExceeded) as error:
            reason = str(error) or "fell behind"
            await duplex.send(pb.WatchRevocationsResponse(resync=pb.Resync(reason=reason)))
        finally:
            told.close()

    async def _watch(
        self, opening: pb.WatchOpen, view: View, duplex: Watch, told: Told, standing: Standing
    ) -> None:
        try:
            await view.check(self._clock.now())
        except Denied:
            # Whoever was away when it happened learns first what did.
            await self._begin(opening, view, duplex)
            raise
        position = await self._begin(opening, view, duplex)
        if position is None:
            return
        follower = Follower(
            view,
            duplex,
            told,
            position,
            standing,
            feed=self._feed,
            clock=self._clock,
            drain=self._drain,
            limits=self._limits,
            metrics=self._metrics,
        )
        await follower.run()

    async def _view(self, caller: Watcher) -> View:
        if isinstance(caller, OperatorCaller):
            reach = caller.reach("read")
            if reach.everything:
                return OperatorView(caller.identity)
            return ScopedView(caller.identity, reach, self._state, self._roles)
        if isinstance(caller, ResourceServerCaller):
            dead = self._clock.now() - self._limits.longest_life
            return ResourceServerView(caller.identity, caller.server.audiences, self._state, dead)
        return await WorkloadView.open(caller.attestation_id, self._state)

    # --- begin ------------------------------------------------------------------------------------

    async def _begin(self, opening: pb.WatchOpen, view: View, duplex: Watch) -> LogHead | None:
        """Bring the watcher to now; where it stands then, or None where nothing is left to watch."""
        if opening.HasField("resume"):
            return await self._resume(opening.resume, view, duplex)
        head, live = view.position(self._feed.denials.head), self._feed.denials.live()
        # Read after the head: an entry that is expanded from here on says so in an entry still to come.
        unexpanded, anew = await self._state.read(_standing_orders)
        part: list[pb.RevocationEvent] = []
        ended = False
        first = view.began(view.position(anew)) if anew is not None else None
        if first is not None:
            part.append(first)
        for entry in live:
            event = await view.now(head.log_id, entry, unexpanded)
            if event is not None:
                part.append(event)
                ended = ended or view.ends(entry)
            if len(part) >= _PART:
                await _send_part(duplex, head, part, complete=False)
                part = []
        await _send_part(duplex, head, part, complete=True)
        return None if ended else head

    async def _resume(self, named: pb.LogPosition, view: View, duplex: Watch) -> LogHead | None:
        """Entries after a position that this log really has; anything else is `Behind`."""
        await self._feed.catch_up()
        head = view.position(self._feed.denials.head)
        if named.log_id != head.log_id:
            raise Behind("another log")
        if named.seq > head.seq:
            self._contradicted(view)
            raise Behind("a position beyond the log")
        if named.seq:
            entry = await self._state.read(_Entry(named.seq))
            if entry is None and named.seq != head.seq:
                raise Behind("the position was pruned")
            if named.hash != (head.hash if entry is None else entry.hash):
                self._contradicted(view)
                raise Behind("the position contradicts the log")
            if entry is not None:
                view.passed(entry)
        reached = LogHead(named.log_id, named.seq, named.hash)
        while reached.seq < head.seq:
            page = await self._state.read(_Page(reached.seq))
            if not page:
                raise Behind("entries after the position were pruned")
            for entry in page:
                if entry.seq != reached.seq + 1:
                    raise Behind("entries after the position were pruned")
                event = await view.of(head.log_id, entry)
                if event is not None:
                    await duplex.send(pb.WatchRevocationsResponse(event=event))
                if view.ends(entry):
                    return None
                reached = LogHead(head.log_id, entry.seq, entry.hash)
        return reached

    def _contradicted(self, view: View) -> None:
        """An alarm and no more: who could stop grants by naming a position would hold a switch for the whole broker."""
        if not isinstance(view, WorkloadView):
            self._metrics.contradicted()


async def _send_part(duplex: Watch, head: LogHead, part: list[pb.RevocationEvent], *, complete: bool) -> None:
    snapshot = pb.Snapshot(position=convert.head(head), events=part, complete=complete)
    await duplex.send(pb.WatchRevocationsResponse(snapshot=snapshot))


def _audiences(caller: Watcher) -> tuple[str, ...]:
    """Under which names a receipt says that this watcher was told: a resource server under each audience."""
    if isinstance(caller, ResourceServerCaller):
        return tuple(sorted(caller.server.audiences)) or (caller.server.name,)
    return ("workloads",) if isinstance(caller, WorkloadCaller) else ("operators",)


async def _standing_orders(tx: Transaction) -> tuple[frozenset[int], LogHead | None]:
    """Sequences of wide entries that are not expanded, and where the log began anew after a restored copy."""
    # One that is through is COMMITTED no more, however long its receipt takes.
    opened = await tx.revocations.page(_UNEXPANDED, "", RevocationState.COMMITTED)
    unexpanded = frozenset(revocation.first_seq for revocation in opened if not revocation.expanded)
    return unexpanded, await tx.revocations.restored()


class _Entry:
    """Reads one entry."""

    def __init__(self, seq: int) -> None:
        self._seq = seq

    async def __call__(self, tx: Transaction) -> LogEntry | None:
        return await tx.revocations.entry(self._seq)


class _Page:
    """Reads the entries after a sequence."""

    def __init__(self, after: int) -> None:
        self._after = after

    async def __call__(self, tx: Transaction) -> tuple[LogEntry, ...]:
        return tuple(await tx.revocations.since(self._after, _PAGE))
