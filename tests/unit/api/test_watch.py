"""WatchRevocations over real TLS: what each watcher sees, and that none is told to be up to date when it is not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from broker.adapters.feed.local import FeedLimits
from broker.api.convert import revocations as convert
from broker.api.limits import Limits
from broker.model.revocation import EntryKind, LogHead, NewEntry, Selector, SelectorKind
from lockstep.formats import PROOF_METADATA
from lockstep.v1 import revocation_pb2 as pb
from tests.fakes.feed import announced, appended
from tests.support.house import START
from tests.unit.api.porch import AUDIENCE, REVOCATION, Guest, Line, Porch, bearer, call, porch

WATCH = REVOCATION + "WatchRevocations"


def entry(target: SelectorKind, value: str, **changes: Any) -> NewEntry:
    """A cut, of a revocation of its own."""
    fields: dict[str, Any] = {
        "kind": EntryKind.REVOKED,
        "revocation_id": f"V-{value}",
        "selector": Selector(target, value),
        "cut": True,
        "ban": False,
        "at": START,
        "until": None,
        "actor": "operator:ann",
        "reason": "because",
        "decision_id": "D-1",
    }
    return NewEntry(**{**fields, **changes})


async def opened(found: Porch, token: str = "", resume: pb.LogPosition | None = None) -> Line:
    """A watch of an identified caller."""
    opening = pb.WatchOpen()
    if resume is not None:
        opening.resume.CopyFrom(resume)
    message = pb.WatchRevocationsRequest(open=opening)
    line = Line(found.channel(), WATCH, pb.WatchRevocationsResponse)
    line.open(message.SerializeToString(), bearer(token or found.operator("ann", "read")))
    await line.begin()
    return line


async def opened_by(guest: Guest, resume: pb.LogPosition | None = None, **bent: Any) -> Line:
    """A workload's watch of itself."""
    opening = pb.WatchOpen(attestation_id=guest.id)
    if resume is not None:
        opening.resume.CopyFrom(resume)
    raw = pb.WatchRevocationsRequest(open=opening).SerializeToString()
    line = Line(guest.channel, WATCH, pb.WatchRevocationsResponse)
    line.open(raw, [(PROOF_METADATA, guest.proof(WATCH, raw, **bent))])
    await line.begin()
    return line


async def snapshot(line: Line) -> tuple[list[pb.RevocationEvent], pb.LogPosition]:
    """All parts of a snapshot."""
    events: list[pb.RevocationEvent] = []
    while True:
        answer = await line.read()
        assert answer.WhichOneof("message") == "snapshot", answer
        assert len(answer.snapshot.events) <= 500
        events.extend(answer.snapshot.events)
        if answer.snapshot.complete:
            return events, answer.snapshot.position


async def ping(line: Line, number: int, applied: int = 0) -> None:
    await line.send(pb.WatchRevocationsRequest(ping=pb.WatchPing(id=number, applied_seq=applied)))


async def events(line: Line, count: int) -> list[pb.RevocationEvent]:
    """The next events."""
    found = []
    for _ in range(count):
        answer = await line.read()
        assert answer.WhichOneof("message") == "event", answer
        found.append(answer.event)
    return found


async def until_beat(line: Line, number: int) -> tuple[list[pb.RevocationEvent], pb.Beat]:
    """Pings; what is told until the beat, and the beat."""
    await ping(line, number)
    told = []
    while (answer := await line.read()).WhichOneof("message") == "event":
        told.append(answer.event)
    assert answer.beat.ping_id == number
    return told, answer.beat


def seqs(found: Sequence[pb.RevocationEvent]) -> list[int]:
    return [event.position.seq for event in found]


# --- operators: everything, in order ------------------------------------------------------------------


async def test_an_operator_sees_the_live_set_and_then_what_comes(tmp_path: Path) -> None:
    async with porch(tmp_path) as found:
        house = found.house
        await announced(
            house.state, house.feed, [entry(SelectorKind.NODE, "n1"), entry(SelectorKind.POD, "p1")]
        )
        line = await opened(found)
        live, position = await snapshot(line)
        assert [event.selector.WhichOneof("target") for event in live] == ["node", "pod_uid"]
        assert (position.seq, position.log_id) == (2, house.feed.denials.head.log_id)
        await announced(house.state, house.feed, [entry(SelectorKind.IDENTITY, "i1")])
        [event] = await events(line, 1)
        assert (event.position.seq, event.reason, event.decision_id) == (3, "because", "D-1")
        told, beat = await until_beat(line, 7)
        assert not told
        assert beat.position == event.position


async def test_a_large_snapshot_comes_in_parts(tmp_path: Path) -> None:
    async with porch(tmp_path) as found:
        house = found.house
        await announced(
            house.state, house.feed, [entry(SelectorKind.NODE, f"n{number}") for number in range(1201)]
        )
        line = await opened(found)
        live, position = await snapshot(line)
        assert seqs(live) == list(range(1, 1202))
        assert position.seq == 1201


async def test_a_beat_comes_after_everything_that_it_claims(tmp_path: Path) -> None:
    async with porch(tmp_path) as found:
        house = found.house
        line = await opened(found)
        await snapshot(line)
        for number in range(1, 40):
            await ping(line, number)
            await announced(
                house.state, house.feed, [entry(SelectorKind.POD, f"{number}-{n}") for n in range(3)]
            )
        told, beats = 0, 0
        while beats < 39:
            answer = await line.read()
            if answer.WhichOneof("message") == "event":
                told = answer.event.position.seq
            else:
                beats += 1
                assert answer.beat.position.seq <= told


async def test_acknowledgements_reach_the_feed(tmp_path: Path) -> None:
    async with porch(tmp_path) as found:
        house = found.house
        line = await opened(found)
        await snapshot(line)
        server = await opened(found, found.resource_server("gateway", "a", "b"))
        await snapshot(server)
        await announced(house.state, house.feed, [entry(SelectorKind.IDENTITY, "i1")])
        assert house.feed.told(1) == {"operators": (1, 0), "a": (1, 0), "b": (1, 0)}
        for each in (line, server):
            await events(each, 1)
            await ping(each, 1, applied=1)
            await each.read()
        assert house.feed.told(1) == {"operators": (1, 1), "a": (1, 1), "b": (1, 1)}
        line.cancel()
        server.cancel()


async def test_a_verifier_whose_stream_broke_is_not_forgotten_at_once(tmp_path: Path) -> None:
    async with porch(tmp_path, feed=FeedLimits()) as found:
        house = found.house
        lines = [await opened(found), await opened(found, found.resource_server("gateway", "a"))]
        for line in lines:
            await snapshot(line)
        await announced(house.state, house.feed, [entry(SelectorKind.IDENTITY, "i1")])
        assert house.feed.told(1) == {"operators": (1, 0), "a": (1, 0)}
        for line in lines:
            await line.done()
            await line.ended()
        assert house.feed.told(1) == {"a": (1, 0)}
        house.clock.advance(6)
        assert house.feed.told(1) == {}


async def test_a_stale_replica_does_not_beat(tmp_path: Path) -> None:
    async with porch(tmp_path) as found:
        line = await opened(found)
        await snapshot(line)
        house = found.house
        await announced(house.state, house.feed, [entry(SelectorKind.POD, "p1")])
        await events(line, 1)
        house.clock.advance(2.5)
        await ping(line, 1, applied=1)
        # The ping has arrived: its acknowledgement counts, its beat is not sent.
        while house.feed.told(1) != {"operators": (1, 1)}:
            await call(found.channel(), "/none", b"")
        await house.feed.catch_up()
        told, beat = await until_beat(line, 2)
        assert (told, beat.ping_id) == ([], 2)


async def test_a_cut_that_can_hit_nothing_any_more_is_in_no_verifiers_snapshot(tmp_path: Path) -> None:
    async with porch(tmp_path, limits=Limits(longest_life=3600.0)) as found:
        house = found.house
        for value in ("a" * 64, "b" * 64):
            await house.revoke(SelectorKind.KEY, value)
            house.clock.advance(3000)
        line = await opened(found, found.resource_server("gateway", "a"))
        seen, _ = await snapshot(line)
        assert [event.selector.instance_key.hex() for event in seen] == ["b" * 64]
        # Both still ban, as an operator sees.
        everything = await opened(found)
        seen, _ = await snapshot(everything)
        assert len(seen) == 2


# --- resume --------------------------------------------------------------------------------------------


async def test_a_watch_resumes_where_it_was(tmp_path: Path) -> None:
    async with porch(tmp_path) as found:
        house = found.house
        written = await announced(
            house.state, house.feed, [entry(SelectorKind.POD, f"p{n}") for n in range(5)]
        )
        at = pb.LogPosition(log_id=house.feed.denials.head.log_id, seq=2, hash=written[1].hash)
        line = await opened(found, resume=at)
        assert seqs(await events(line, 3)) == [3, 4, 5]
        told, beat = await until_beat(line, 1)
        assert (told, beat.position.seq, beat.position.hash) == ([], 5, written[4].hash)
        await announced(house.state, house.feed, [entry(SelectorKind.POD, "more")])
        assert seqs(await events(line, 1)) == [6]


async def test_what_no_announcement_told_is_read_at_resume(tmp_path: Path) -> None:
    async with porch(tmp_path) as found:
        house = found.house
        log_id = house.feed.denials.head.log_id
        await appended(house.state, [entry(SelectorKind.POD, "p1")])
        line = await opened(found, resume=pb.LogPosition(log_id=log_id))
        assert seqs(await events(line, 1)) == [1]


@pytest.mark.parametrize("fault", ["log", "beyond", "hash", "pruned", "gap"])
async def test_a_position_that_this_log_never_had_means_resync(tmp_path: Path, fault: str) -> None:
    async with porch(tmp_path) as found:
        house = found.house
        written = await announced(
            house.state, house.feed, [entry(SelectorKind.POD, f"p{n}") for n in range(4)]
        )
        at = pb.LogPosition(log_id=house.feed.denials.head.log_id, seq=2, hash=written[1].hash)
        if fault == "log":
            at.log_id = "another"
        elif fault == "beyond":
            at.seq = 9
        elif fault == "hash":
            at.hash = written[2].hash
        else:
            gone = [2] if fault == "pruned" else [3]
            await house.state.transact(lambda tx: tx.revocations.prune(gone))
        line = await opened(found, resume=at)
        answer = await line.read()
        assert answer.WhichOneof("message") == "resync"
        assert answer.resync.reason
        assert (await line.ended()).ok
        # Opening again without a position brings everything.
        again = await opened(found)
        _, position = await snapshot(again)
        assert position.seq == 4


async def test_a_watcher_that_falls_behind_is_sent_back_to_the_start(tmp_path: Path) -> None:
    async with porch(tmp_path) as found:
        house = found.house
        line = await opened(found)
        await snapshot(line)
        # More at once than the queue of one watcher holds.
        await announced(house.state, house.feed, [entry(SelectorKind.POD, f"p{n}") for n in range(1100)])
        answer = await line.read()
        assert answer.WhichOneof("message") == "resync"
        assert (await line.ended()).ok


async def test_a_watcher_that_does_not_read_is_let_go(tmp_path: Path) -> None:
    async with porch(tmp_path, limits=Limits(write=0.2)) as found:
        house = found.house
        line = await opened(found)
        await snapshot(line)
        while len(found.seats):
            filler = [entry(SelectorKind.POD, f"{n}", reason="x" * 900) for n in range(100)]
            await announced(house.state, house.feed, filler)
        assert not found.lines
        line.cancel()


# --- workloads: their own ------------------------------------------------------------------------------


async def test_a_workload_is_told_of_itself_alone_and_then_let_go(tmp_path: Path) -> None:
    async with porch(tmp_path) as found:
        house = found.house
        guest, other = await found.attested(), await found.attested("watched")
        line = await opened_by(guest)
        live, _ = await snapshot(line)
        assert not live
        await house.revoke(SelectorKind.ATTESTATION, other.id)
        told, beat = await until_beat(line, 1)
        assert not told
        assert beat.position.seq == house.feed.denials.seq
        answer = await house.revoke(SelectorKind.ATTESTATION, guest.id)
        [event] = await events(line, 1)
        assert event.selector.attestation_id == guest.id
        assert (event.reason, event.decision_id) == ("because", answer.decision_id)
        assert (await line.ended()).ok


async def test_a_workload_is_told_of_a_lease_of_its_own(tmp_path: Path) -> None:
    async with porch(tmp_path) as found:
        guest, other = await found.attested(), await found.attested()
        mine, others = await guest.issue(), await other.issue()
        line = await opened_by(guest)
        await snapshot(line)
        await found.house.revoke(SelectorKind.LEASE, others.lease.lease_id)
        await found.house.revoke(SelectorKind.LEASE, mine.lease.lease_id)
        [event] = await events(line, 1)
        assert event.selector.lease_id == mine.lease.lease_id
        told, _ = await until_beat(line, 1)
        assert not told


async def test_a_wide_revocation_reaches_a_workload_by_its_own_name(tmp_path: Path) -> None:
    async with porch(tmp_path) as found:
        guest = await found.attested()
        line = await opened_by(guest)
        await snapshot(line)
        attestation = await found.house.attestation(guest.id)
        code = await found.house.look(lambda tx: tx.code.get(attestation.code_set))
        await found.house.revoke(SelectorKind.DIGEST, next(iter(code.units)).digest.hex())
        await found.house.tick()
        [event] = await events(line, 1)
        assert event.selector.attestation_id == guest.id
        assert (await line.ended()).ok


async def test_who_was_away_when_it_was_revoked_learns_why(tmp_path: Path) -> None:
    async with porch(tmp_path) as found:
        guest = await found.attested()
        answer = await found.house.revoke(SelectorKind.ATTESTATION, guest.id)
        line = await opened_by(guest)
        live, _ = await snapshot(line)
        assert answer.decision_id in {event.decision_id for event in live}
        reply = await line.ended()
        assert (reply.code, reply.reason) == (grpc.StatusCode.PERMISSION_DENIED, "revoked")
        assert reply.nonce


async def test_a_watch_ends_with_its_attestation(tmp_path: Path) -> None:
    async with porch(tmp_path) as found:
        guest = await found.attested()
        line = await opened_by(guest)
        await snapshot(line)
        found.house.clock.advance(400)
        await ping(line, 1)
        reply = await line.ended()
        assert (reply.code, reply.reason) == (grpc.StatusCode.PERMISSION_DENIED, "attestation_expired")


async def test_the_proof_is_over_the_opening_message(tmp_path: Path) -> None:
    async with porch(tmp_path) as found:
        guest = await found.attested()
        for bent in ({"dig": "AAAA"}, {"htm": "/other"}, {"nonce": "AAAA"}):
            reply = await (await opened_by(guest, **bent)).ended()
            assert (reply.code, reply.reason) == (grpc.StatusCode.UNAUTHENTICATED, "proof_rejected")
        raw = pb.WatchRevocationsRequest(open=pb.WatchOpen(attestation_id=guest.id)).SerializeToString()
        metadata = [(PROOF_METADATA, guest.proof(WATCH, raw))]
        for expected in (grpc.StatusCode.OK, grpc.StatusCode.UNAUTHENTICATED):
            line = Line(guest.channel, WATCH, pb.WatchRevocationsResponse).open(raw, metadata)
            await line.begin()
            await line.done()
            assert (await line.ended()).code is expected


# --- resource servers: handles --------------------------------------------------------------------------


async def test_a_resource_server_sees_handles_of_its_audience_without_reasons(tmp_path: Path) -> None:
    async with porch(tmp_path) as found:
        guest, silent = await found.attested(), await found.attested()
        issued = await guest.issue()
        line = await opened(found, found.resource_server())
        stranger = await opened(found, found.resource_server("other", "https://other.example"))
        await snapshot(line)
        await snapshot(stranger)
        await found.house.revoke(SelectorKind.LEASE, issued.lease.lease_id)
        await found.house.revoke(SelectorKind.ATTESTATION, silent.id)
        await found.house.revoke(SelectorKind.ATTESTATION, guest.id)
        told, _ = await until_beat(line, 1)
        assert [event.selector.WhichOneof("target") for event in told] == ["lease_id", "attestation_id"]
        assert told[1].selector.attestation_id == guest.id
        assert all(not (event.reason or event.decision_id or event.revocation_id) for event in told)
        unheard, beat = await until_beat(stranger, 1)
        assert not unheard
        assert beat.position.seq == found.house.feed.denials.seq


@pytest.mark.parametrize(
    "selector",
    [
        (SelectorKind.NODE, "n1"),
        (SelectorKind.POD, "p1"),
        (SelectorKind.CONTAINER, "c1"),
        (SelectorKind.PROCESS, "n1/b1/7/8"),
        (SelectorKind.DIGEST, "ab" * 32),
        (SelectorKind.PACKAGE, "pkg:pypi/litellm@1.82.8"),
    ],
)
async def test_what_no_token_carries_is_introspect_until_expanded(
    tmp_path: Path, selector: tuple[SelectorKind, str]
) -> None:
    async with porch(tmp_path) as found:
        token = found.resource_server()
        line = await opened(found, token)
        await snapshot(line)
        await found.house.revoke(*selector)
        [wide] = await events(line, 1)
        assert wide.kind == pb.EVENT_KIND_INTROSPECT
        assert not wide.HasField("selector")
        # One who comes meanwhile is told the same.
        late, _ = await snapshot(await opened(found, token))
        assert [event.kind for event in late] == [pb.EVENT_KIND_INTROSPECT]
        await found.house.tick()
        [end] = await events(line, 1)
        assert (end.kind, end.refers_to) == (pb.EVENT_KIND_EXPANDED, wide.position.seq)
        after, _ = await snapshot(await opened(found, token))
        assert not after


async def test_the_places_of_one_revoked_instance_ask_for_no_introspection(tmp_path: Path) -> None:
    """Nothing would ever end it: an instance is not expanded."""
    async with porch(tmp_path) as found:
        line = await opened(found, found.resource_server())
        _, start = await snapshot(line)
        own = {"revocation_id": "V-1"}
        written = await announced(
            found.house.state,
            found.house.feed,
            [
                entry(SelectorKind.ATTESTATION, "A-1", ban=True, **own),
                entry(SelectorKind.KEY, "ab" * 32, cut=False, ban=True, **own),
                entry(SelectorKind.PROCESS, "n1/b1/7/8", **own),
            ],
        )
        told, beat = await until_beat(line, 1)
        assert not told
        assert beat.position.seq == 3
        # Nor where a watch resumes between them.
        at = pb.LogPosition(log_id=start.log_id, seq=2, hash=written[1].hash)
        resumed = await opened(found, found.resource_server(), resume=at)
        told, _ = await until_beat(resumed, 1)
        assert not told


async def test_bans_and_lifts_say_nothing_about_tokens(tmp_path: Path) -> None:
    async with porch(tmp_path) as found:
        line = await opened(found, found.resource_server())
        await snapshot(line)
        ban = {"cut": False, "ban": True}
        await announced(
            found.house.state,
            found.house.feed,
            [
                entry(SelectorKind.IDENTITY, "i1", **ban),
                entry(SelectorKind.DIGEST, "ab" * 32, **ban),
                entry(SelectorKind.IDENTITY, "i1", kind=EntryKind.LIFTED, cut=False, refers_to=1),
                entry(SelectorKind.IDENTITY, "i2", audience="https://other.example"),
                entry(SelectorKind.IDENTITY, "i3"),
            ],
        )
        told, _ = await until_beat(line, 1)
        assert [event.selector.identity for event in told] == ["i3"]


async def test_a_watch_ends_with_the_identity_that_opened_it(tmp_path: Path) -> None:
    async with porch(tmp_path) as found:
        found.resource_server("gateway")
        line = await opened(found, found.know("gateway", not_after=START + 60))
        await snapshot(line)
        found.house.clock.advance(61)
        await ping(line, 1)
        reply = await line.ended()
        assert (reply.code, reply.reason) == (grpc.StatusCode.UNAUTHENTICATED, "no_identity")


async def test_who_checks_tokens_is_told_to_ask_about_those_of_before_a_restored_copy(tmp_path: Path) -> None:
    async with porch(tmp_path) as found:
        house = found.house
        server, operator = found.resource_server(), found.operator("ann", "read")
        lines = [await opened(found, server), await opened(found, operator)]
        known = [(await snapshot(line))[1] for line in lines]
        for line in lines:
            line.cancel()
        anew = LogHead("another", 2**32, b"h" * 32)
        await house.state.transact(lambda tx: tx.revocations.begin_anew(anew, "D-1"))
        # The broker was not running meanwhile.
        house.feed.denials.reload([], anew)
        for token, position in zip((server, operator), known, strict=True):
            assert (await (await opened(found, token, resume=position)).read()).HasField("resync")
        [event], position = await snapshot(await opened(found, server))
        assert (event.kind, event.position.seq) == (pb.EVENT_KIND_INTROSPECT, 2**32)
        assert position.seq == 2**32
        assert await snapshot(await opened(found, operator)) == ([], convert.head(anew))


@pytest.mark.parametrize("beyond", [True, False])
async def test_a_position_that_contradicts_the_log_is_an_alarm_but_not_a_workload_s(
    tmp_path: Path, beyond: bool
) -> None:
    async with porch(tmp_path) as found:
        house = found.house
        guest = await found.attested()
        await announced(house.state, house.feed, [entry(SelectorKind.NODE, "n1")])
        token = found.resource_server()
        _, known = await snapshot(await opened(found, token))
        _, own = await snapshot(await opened_by(guest))
        for position in (known, own):
            if beyond:
                position.seq += 1
            else:
                position.hash = b"x" * 32
        assert (await (await opened_by(guest, own)).read()).HasField("resync")
        assert b"lockstep_log_contradictions_total 0.0" in found.metrics.exposition()
        assert (await (await opened(found, token, resume=known)).read()).HasField("resync")
        assert b"lockstep_log_contradictions_total 1.0" in found.metrics.exposition()


# --- rights of now ----------------------------------------------------------------------------------------


async def test_a_watch_ends_with_the_right_to_it(tmp_path: Path) -> None:
    async with porch(tmp_path) as found:
        lines = [await opened(found), await opened(found, found.resource_server("gateway"))]
        for line in lines:
            await snapshot(line)
        found.reload(operators={}, resource_servers={})
        # What comes after it is not told any more.
        await announced(found.house.state, found.house.feed, [entry(SelectorKind.IDENTITY, "i1")])
        for line in lines:
            with pytest.raises(grpc.aio.AioRpcError):
                await line.read()
            reply = await line.ended()
            assert (reply.code, reply.reason) == (grpc.StatusCode.PERMISSION_DENIED, "not_entitled")


async def test_a_reload_that_changes_nothing_for_it_ends_no_watch(tmp_path: Path) -> None:
    async with porch(tmp_path) as found:
        lines = [await opened(found), await opened(found, found.resource_server("gateway"))]
        for line in lines:
            await snapshot(line)
        found.resource_server("another")
        found.operator("ben", "lift")
        for line in lines:
            await until_beat(line, 1)


@pytest.mark.parametrize("live", [True, False])
async def test_other_audiences_are_another_log(tmp_path: Path, live: bool) -> None:
    """Who resumed with what it knew of one audience would never hear of the tokens that another has lost already."""
    async with porch(tmp_path) as found:
        guest = await found.attested()
        issued = await guest.issue()
        token = found.resource_server("gateway", "another")
        line = await opened(found, token)
        _, position = await snapshot(line)
        await found.house.revoke(SelectorKind.LEASE, issued.lease.lease_id)
        told, beat = await until_beat(line, 1)
        assert not told
        found.resource_server("gateway", "another", AUDIENCE)
        if live:
            await ping(line, 2)
        else:
            line.cancel()
            line = await opened(found, token, resume=beat.position)
        answer = await line.read()
        assert answer.WhichOneof("message") == "resync", answer
        assert (await line.ended()).ok
        fresh, _ = await snapshot(await opened(found, token))
        assert [event.selector.lease_id for event in fresh] == [issued.lease.lease_id]
        assert position.log_id == beat.position.log_id


# --- streams of any kind --------------------------------------------------------------------------------


async def test_a_drain_says_farewell_and_ends_the_watch(tmp_path: Path) -> None:
    async with porch(tmp_path) as found:
        line = await opened(found)
        await snapshot(line)
        await announced(found.house.state, found.house.feed, [entry(SelectorKind.POD, "last")])
        found.drain.begin(12.0)
        [event] = await events(line, 1)
        answer = await line.read()
        assert answer.beat.going_away
        assert answer.beat.grace.seconds == 12
        assert answer.beat.position == event.position
        assert (await line.ended()).ok


async def test_the_first_message_has_its_time_and_its_kind(tmp_path: Path) -> None:
    async with porch(tmp_path, limits=Limits(opening=0.2)) as found:
        token = bearer(found.operator("ann", "read"))
        silent = Line(found.channel(), WATCH, pb.WatchRevocationsResponse).open(b"", token)
        assert (await silent.ended()).code is grpc.StatusCode.INVALID_ARGUMENT
        for first in (pb.WatchRevocationsRequest(ping=pb.WatchPing(id=1)).SerializeToString(), b"\xff"):
            line = Line(found.channel(), WATCH, pb.WatchRevocationsResponse).open(first, token)
            await line.begin()
            assert (await line.ended()).code is grpc.StatusCode.INVALID_ARGUMENT


async def test_later_messages_are_checked_too(tmp_path: Path) -> None:
    async with porch(tmp_path, limits=Limits(small=2000)) as found:
        for later, code in (
            (
                pb.WatchRevocationsRequest(open=pb.WatchOpen()).SerializeToString(),
                grpc.StatusCode.INVALID_ARGUMENT,
            ),
            (b"\xff", grpc.StatusCode.INVALID_ARGUMENT),
        ):
            line = await opened(found)
            await snapshot(line)
            await line.send(later)
            assert (await line.ended()).code is code


async def test_seats_are_bounded_and_given_back(tmp_path: Path) -> None:
    async with porch(tmp_path, limits=Limits(streams_per_caller=2)) as found:
        token = found.operator("ann", "read")
        lines = [await opened(found, token) for _ in range(2)]
        for line in lines:
            await snapshot(line)
        refused = await (await opened(found, token)).ended()
        assert (refused.code, refused.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "rate_limited")
        other = await opened(found, found.operator("bob", "read"))
        await snapshot(other)
        await lines[0].done()
        assert (await lines[0].ended()).ok
        again = await opened(found, token)
        await snapshot(again)
        assert found.house.feed.told(0) == {"operators": (3, 3)}


async def test_a_stream_needs_a_right(tmp_path: Path) -> None:
    async with porch(tmp_path) as found:
        reply = await (await opened(found, found.operator("bob", "publish"))).ended()
        assert (reply.code, reply.reason) == (grpc.StatusCode.PERMISSION_DENIED, "not_entitled")
        guest = await found.attested()
        raw = pb.WatchRevocationsRequest(open=pb.WatchOpen(attestation_id=guest.id)).SerializeToString()
        line = Line(found.channel(), WATCH, pb.WatchRevocationsResponse).open(raw, bearer(guest.token))
        await line.begin()
        assert (await line.ended()).reason == "not_entitled"
