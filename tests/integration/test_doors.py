"""The doors as a whole: leaving in order, and many at once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest

from broker.api.limits import Limits
from broker.model.revocation import SelectorKind
from lockstep.formats import PROOF_METADATA
from lockstep.v1 import credential_pb2, revocation_pb2
from tests.unit.api.porch import CREDENTIAL, Line, bearer, call, porch
from tests.unit.api.test_rooms import healthy
from tests.unit.api.test_watch import WATCH, events, opened, opened_by, snapshot, until_beat
from tests.unit.api.web import ask

pytestmark = pytest.mark.integration

ISSUE = CREDENTIAL + "IssueCredential"
LIST = CREDENTIAL + "ListLeases"


async def test_a_drain_tells_watchers_ends_calls_and_refuses_new_ones(tmp_path: Path) -> None:
    async with porch(tmp_path, http=True) as found:
        guest = await found.attested()
        lines = [await opened(found), await opened_by(guest)]
        for line in lines:
            await snapshot(line)
        held = found.house.db.hold("issue")
        raw = guest.issuing("db").SerializeToString()
        metadata = ((PROOF_METADATA, guest.proof(ISSUE, raw)),)
        pending = guest.channel.unary_unary(ISSUE)(raw, metadata=metadata, timeout=20.0)
        pending = asyncio.ensure_future(pending)  # type: ignore[arg-type]
        while not found.house.db.calls:
            assert await healthy(found) == 1
        draining = asyncio.create_task(found.doors.drain(15.0))
        for line in lines:
            answer = await line.read()
            assert answer.beat.going_away
            assert answer.beat.grace.seconds == 15
            assert (await line.ended()).ok
        assert (await ask(found, "GET", "/readyz")).json["reasons"] == ["draining"]
        late = await call(found.channel(), LIST, b"", timeout=3.0)
        assert late.code is grpc.StatusCode.UNAVAILABLE
        assert not draining.done()
        held.set()
        issued = credential_pb2.IssueCredentialResponse.FromString(await pending)
        assert issued.lease.state == credential_pb2.LEASE_STATE_ACTIVE
        async with asyncio.timeout(10):
            await draining


async def test_a_stop_sees_a_grant_through_that_nobody_awaits(tmp_path: Path) -> None:
    async with porch(tmp_path) as found:
        guest = await found.attested()
        held = found.house.db.hold("issue")
        raw = guest.issuing("db").SerializeToString()
        metadata = ((PROOF_METADATA, guest.proof(ISSUE, raw)),)
        pending = guest.channel.unary_unary(ISSUE)(raw, metadata=metadata, timeout=20.0)
        while not found.house.db.calls:
            assert await healthy(found) == 1
        stopping = asyncio.create_task(found.doors.stop())
        with pytest.raises(grpc.aio.AioRpcError):
            await pending
        assert not stopping.done()
        held.set()
        await stopping
        [lease] = await found.house.leases()
        assert lease.state.value == "active"


async def test_doors_leave_no_task_behind(tmp_path: Path) -> None:
    async with porch(tmp_path, http=True) as found:
        line = await opened(found)
        await snapshot(line)
        await ask(found, "GET", "/healthz")
    own = asyncio.current_task()
    left = {
        task.get_coro().__qualname__  # type: ignore[union-attr]
        for task in asyncio.all_tasks()
        if task is not own and not task.done()
    }
    # What is gRPC's own goes with its next poll; nothing of the house may be there.
    assert not {name for name in left if "broker" in name or "Doors" in name or "Follower" in name}, left


@pytest.mark.slow
async def test_many_watchers_starve_nobody(tmp_path: Path) -> None:
    """A server with a thread a stream dies of ten of them."""
    limits = Limits(streams_per_caller=2_000, streams_per_connection=1_000)
    async with porch(tmp_path, limits=limits) as found:
        token = bearer(found.operator("ann", "read"))
        channel = found.channel()
        raw = revocation_pb2.WatchRevocationsRequest(open=revocation_pb2.WatchOpen()).SerializeToString()
        lines = [Line(channel, WATCH, revocation_pb2.WatchRevocationsResponse) for _ in range(300)]
        for line in lines:
            line.open(raw, token)
            await line.begin()
        for line in lines:
            await snapshot(line)
        guest = await found.attested()
        await guest.issue()
        await found.house.revoke(SelectorKind.ATTESTATION, guest.id)
        count = found.house.feed.denials.seq
        for line in lines:
            assert len(await events(line, count)) == count
        told, beat = await until_beat(lines[0], 1)
        assert (told, beat.position.seq) == ([], count)
        assert len(found.seats) == 300
        for line in lines:
            line.cancel()


async def test_a_client_that_vanishes_gives_its_seat_back(tmp_path: Path) -> None:
    async with porch(tmp_path) as found:
        guest = await found.attested()
        line = await opened_by(guest)
        await snapshot(line)
        assert len(found.seats) == 1
        assert found.house.feed.told(0) == {"workloads": (1, 1)}
        await guest.channel.close()
        async with asyncio.timeout(10):
            while len(found.seats):
                assert await healthy(found) == 1
        assert found.house.feed.told(0) == {}
