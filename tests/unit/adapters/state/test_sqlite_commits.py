"""Group commit: few syncs for many works, the urgent first, and one that fails takes nobody along."""

from __future__ import annotations

import asyncio
import sqlite3
import struct
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from broker.adapters.state.sqlite import SqliteState
from broker.errors import Conflict, InvalidRequest, Unavailable
from broker.ports import Transaction
from tests.contract.state.calls import Call
from tests.contract.state.nouns import NOW, decision, entry
from tests.unit.adapters.state.conftest import Opener

PATIENCE = 20.0


class Roadblock:
    """A work that keeps the writer's thread busy until it is lifted."""

    def __init__(self, state: SqliteState) -> None:
        self.entered = threading.Event()
        self.lifted = threading.Event()
        self.task = asyncio.create_task(state.transact(self._work))

    async def _work(self, tx: Transaction) -> None:
        self.entered.set()
        assert self.lifted.wait(PATIENCE)

    async def stands(self) -> None:
        assert await asyncio.to_thread(self.entered.wait, PATIENCE)

    async def lift(self) -> None:
        self.lifted.set()
        await self.task


def claim(name: str, order: list[str] | None = None) -> Callable[[Transaction], Awaitable[bool]]:
    """A work that claims a name and notes when it ran."""

    async def work(tx: Transaction) -> bool:
        if order is not None:
            order.append(name)
        return await tx.replays.claim("test", name.encode(), NOW)

    return work


def commits(path: Path) -> int:
    """Commits in the write-ahead log: frames that say how large the database is after them."""
    data = Path(f"{path}-wal").read_bytes()
    size = struct.unpack_from(">I", data, 8)[0]
    salts = data[16:24]
    found = 0
    for at in range(32, len(data) - 24 - size + 1, 24 + size):
        if data[at + 8 : at + 16] != salts:
            break
        found += struct.unpack_from(">I", data, at + 4)[0] > 0
    return found


async def test_500_works_in_a_few_commits(path: Path, opened: Opener) -> None:
    state = await opened()
    block = Roadblock(state)
    await block.stands()
    before = commits(path)
    works = [asyncio.create_task(state.transact(claim(str(number)))) for number in range(500)]
    await asyncio.sleep(0)
    await block.lift()
    assert all(await asyncio.gather(*works))
    assert commits(path) - before == 2  # the block took 255 along


async def test_the_urgent_overtake(opened: Opener) -> None:
    state = await opened(batch=16)
    order: list[str] = []
    answered: list[str] = []

    async def one(name: str, urgent: bool) -> None:
        await state.transact(claim(name, order), urgent=urgent)
        answered.append(name)

    block = Roadblock(state)
    await block.stands()
    works = [asyncio.create_task(one(f"n{number}", False)) for number in range(100)]
    works += [asyncio.create_task(one(f"u{number}", True)) for number in range(3)]
    await asyncio.sleep(0)
    await block.lift()
    await asyncio.gather(*works)
    assert order[:3] == answered[:3] == ["u0", "u1", "u2"]
    assert order[3:] == [f"n{number}" for number in range(100)]


async def test_the_urgent_do_not_wait_for_the_batch_that_they_meet(path: Path, opened: Opener) -> None:
    """An urgent work that comes while others run is committed before the rest of them runs."""
    state = await opened()
    order: list[str] = []
    block = Roadblock(state)
    await block.stands()
    works = [asyncio.create_task(state.transact(claim(f"n{number}", order))) for number in range(50)]
    await asyncio.sleep(0)
    before = commits(path)
    urgent = asyncio.create_task(state.transact(claim("u", order), urgent=True))
    await asyncio.sleep(0)
    await block.lift()
    await asyncio.gather(urgent, *works)
    assert order[0] == "u"
    assert commits(path) - before == 2  # the block with the urgent one, then the others


async def test_a_few_large_works_make_a_commit(path: Path, opened: Opener) -> None:
    """Or an urgent one, which has not come yet, would wait for all of them."""
    state = await opened()

    def large(name: str) -> Callable[[Transaction], Awaitable[None]]:
        async def work(tx: Transaction) -> None:
            for number in range(2_500):
                await tx.replays.claim(name, number.to_bytes(2), 1e12)

        return work

    block = Roadblock(state)
    await block.stands()
    works = [asyncio.create_task(state.transact(large(str(number)))) for number in range(6)]
    await asyncio.sleep(0)
    before = commits(path)
    await block.lift()
    await asyncio.gather(*works)
    assert commits(path) - before == 3


async def test_a_full_queue_says_so_at_once(opened: Opener) -> None:
    state = await opened(queue=10, urgent_queue=2)
    block = Roadblock(state)
    await block.stands()
    works = [asyncio.create_task(state.transact(claim(str(number)))) for number in range(10)]
    await asyncio.sleep(0)
    with pytest.raises(Unavailable) as refused:
        await state.transact(claim("one too many"))
    assert refused.value.retry_after
    # A revocation has room of its own, and reads theirs.
    works += [asyncio.create_task(state.transact(claim(f"u{n}"), urgent=True)) for n in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await state.transact(claim("urgent, too many"), urgent=True)
    assert (await Call(state, reading=True).revocations.head()).seq == 0
    await block.lift()
    assert all(await asyncio.gather(*works))
    assert await state.transact(claim("one too many"))


async def test_patience_ends_and_what_had_not_begun_never_does(opened: Opener) -> None:
    state = await opened(patience=0.05)
    order: list[str] = []
    block = Roadblock(state)
    await block.stands()
    with pytest.raises(Unavailable, match="in time"):
        await state.transact(claim("late", order))
    block.lifted.set()
    with pytest.raises(Unavailable, match="in time"):
        await block.task
    assert await state.transact(claim("late"))
    assert order == []


async def test_cancelled_in_the_queue_is_never_run(opened: Opener) -> None:
    state = await opened()
    order: list[str] = []
    block = Roadblock(state)
    await block.stands()
    works = [asyncio.create_task(state.transact(claim(str(n), order))) for n in range(4)]
    await asyncio.sleep(0)
    for work in works[:3]:
        work.cancel()
    await asyncio.sleep(0)
    await block.lift()
    assert await works[3]
    assert order == ["3"]


async def test_cancelled_while_it_runs_is_committed(opened: Opener) -> None:
    state = await opened()
    entered, lifted = threading.Event(), threading.Event()

    async def work(tx: Transaction) -> None:
        await tx.revocations.append([entry()])
        entered.set()
        assert lifted.wait(PATIENCE)

    task = asyncio.create_task(state.transact(work))
    assert await asyncio.to_thread(entered.wait, PATIENCE)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    lifted.set()
    assert (await Call(state).revocations.head()).seq == 1


async def test_close_finishes_what_is_queued(opened: Opener) -> None:
    state = await opened()
    block = Roadblock(state)
    await block.stands()
    works = [asyncio.create_task(state.transact(claim(str(number)))) for number in range(600)]
    await asyncio.sleep(0)
    closing = asyncio.create_task(state.close())
    await asyncio.sleep(0)
    block.lifted.set()
    await closing
    assert all(await asyncio.gather(*works))
    again = await opened()
    assert not await again.transact(claim("599"))


async def test_no_thread_is_left(opened: Opener) -> None:
    state = await opened(readers=3)
    names = {thread.name for thread in threading.enumerate()}
    assert {"state-write", "state-read-0", "state-read-2"} <= names
    await state.close()
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("state-")]
    for thread in threads:
        await asyncio.to_thread(thread.join, PATIENCE)
    assert not any(thread.is_alive() for thread in threads)


async def test_what_cannot_be_stored_is_the_callers_fault(opened: Opener) -> None:
    call = Call(await opened())
    with pytest.raises(InvalidRequest):
        await call.replays.claim("\ud800", b"", NOW)
    with pytest.raises(InvalidRequest):
        await call.manifests.raise_floor("shop", 2**63)
    assert (await call.revocations.head()).seq == 0


async def test_a_fault_that_work_swallows_is_a_fault(opened: Opener) -> None:
    """Were it committed, the half that succeeded would stand alone."""
    state = await opened(max_pages=150)

    async def work(tx: Transaction) -> None:
        await tx.decisions.add(decision(1))
        for number in range(2, 1000):
            try:
                await tx.decisions.add(decision(number, detail="x" * 3000))
            except Unavailable:
                return

    with pytest.raises(Unavailable):
        await state.transact(work)
    assert await Call(state).decisions.page(0.0, 10) == []


async def test_of_many_works_only_the_one_too_large_fails(opened: Opener) -> None:
    state = await opened(max_pages=150)

    async def huge(tx: Transaction) -> None:
        for number in range(1000, 2000):
            await tx.decisions.add(decision(number, detail="x" * 3000))

    block = Roadblock(state)
    await block.stands()
    works: list[asyncio.Task[object]] = []
    for number in range(50):
        work = huge if number == 25 else claim(str(number))
        works.append(asyncio.create_task(state.transact(work)))
    await asyncio.sleep(0)
    await block.lift()
    found = await asyncio.gather(*works, return_exceptions=True)
    assert isinstance(found.pop(25), Unavailable)
    assert found == [True] * 49
    assert await Call(state).decisions.page(0.0, 1) == []


async def test_after_a_full_disk_it_goes_on(opened: Opener) -> None:
    state = await opened(max_pages=150)
    call = Call(state)
    kept = 0
    full = False
    while not full:
        try:
            await call.replays.claim("test", b"%d" % kept * 300, NOW)
            kept += 1
        except Unavailable:
            full = True
    assert kept > 50
    # Reading goes on, and once there is room, so does writing.
    assert (await Call(state, reading=True).revocations.head()).seq == 0
    assert await call.replays.prune(NOW, kept // 2) == kept // 2
    await call.decisions.add(decision())
    assert await call.replays.prune(NOW, 10_000) == kept - kept // 2


async def test_a_lock_held_by_somebody_else_is_waited_for_and_then_unavailable(
    path: Path, opened: Opener
) -> None:
    state = await opened(busy=0.05)
    foreign = sqlite3.connect(path, isolation_level=None)
    foreign.execute("BEGIN IMMEDIATE")
    works = [state.transact(claim(str(number))) for number in range(20)]
    found = await asyncio.gather(*works, return_exceptions=True)
    assert {type(item) for item in found} == {Unavailable}
    assert (await Call(state, reading=True).revocations.head()).seq == 0
    foreign.execute("ROLLBACK")
    foreign.close()
    assert await state.transact(claim("1"))


async def test_conflicts_say_nothing_of_the_data(opened: Opener) -> None:
    call = Call(await opened())
    await call.decisions.add(decision())
    with pytest.raises(Conflict) as conflict:
        await call.decisions.add(decision())
    assert decision().id not in str(conflict.value)
