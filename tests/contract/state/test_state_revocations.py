"""Contract: the log counts without gaps and chains; the acts and whom they hit."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from broker.errors import Conflict, InvalidRequest
from broker.model.revocation import (
    GENESIS,
    EntryKind,
    LogEntry,
    LogHead,
    RevocationState,
    chain,
    chain_hash,
)
from broker.ports import StateStore
from tests.contract.state.calls import Call
from tests.contract.state.nouns import NOW, entry, revocation


def follow(head: LogHead, entries: list[LogEntry]) -> LogHead:
    """The head after some entries, each of which must continue the one before."""
    for item in entries:
        assert item.seq == head.seq + 1
        assert item.hash == chain_hash(head.hash, item.seq, item.body)
        head = replace(head, seq=item.seq, hash=item.hash)
    return head


async def test_begins_at_zero(state: StateStore) -> None:
    call = Call(state)
    head = await call.revocations.head()
    assert (head.seq, head.hash) == (0, GENESIS)
    assert head.log_id
    assert list(await call.revocations.since(0, 10)) == []
    assert list(await call.revocations.live()) == []
    assert await call.revocations.entry(1) is None
    assert list(await call.revocations.append([])) == []
    assert await call.revocations.head() == head


async def test_counts_and_chains(state: StateStore) -> None:
    call = Call(state)
    start = await call.revocations.head()
    bodies = [
        entry(1),
        entry(2, until=NOW + 0.000001, cut=False),
        entry(3, kind=EntryKind.LIFTED, refers_to=2, ban=False, audience="", ticket=""),
        entry(4, kind=EntryKind.EXPANDED, refers_to=1),
    ]
    written = [*await call.revocations.append(bodies[:1]), *await call.revocations.append(bodies[1:])]
    assert written == list(chain(start, bodies))
    assert follow(start, written) == await call.revocations.head()
    assert list(await call.revocations.since(0, 10)) == written
    assert list(await call.revocations.since(1, 2)) == written[1:3]
    assert list(await call.revocations.since(4, 2)) == []
    assert list(await call.revocations.live()) == written
    assert await call.revocations.entry(3) == written[2]


async def test_a_text_without_bytes_is_refused(state: StateStore) -> None:
    call = Call(state)
    with pytest.raises(InvalidRequest):
        await call.revocations.append([entry(1), entry(2, reason="\ud800")])
    assert (await call.revocations.head()).seq == 0
    assert list(await call.revocations.live()) == []


async def test_concurrent_appends_leave_no_gap(state: StateStore) -> None:
    call = Call(state)
    start = await call.revocations.head()
    written = await asyncio.gather(
        *(call.revocations.append([entry(n), entry(n + 1000)]) for n in range(100))
    )
    found: list[LogEntry] = []
    while page := await call.revocations.since(found[-1].seq if found else 0, 33):
        found.extend(page)
    assert follow(start, found) == await call.revocations.head()
    assert sorted((item for pair in written for item in pair), key=lambda item: item.seq) == found
    assert all(pair[1].seq == pair[0].seq + 1 for pair in written)


async def test_pruned_entries_are_missing_and_the_count_goes_on(state: StateStore) -> None:
    call = Call(state)
    await call.revocations.append([entry(n) for n in range(4)])
    head = await call.revocations.head()
    await call.revocations.prune([2, 4, 77])
    await call.revocations.prune([])
    assert [item.seq for item in await call.revocations.since(0, 10)] == [1, 3]
    assert [item.seq for item in await call.revocations.live()] == [1, 3]
    assert await call.revocations.entry(2) is None
    assert await call.revocations.head() == head
    (after,) = await call.revocations.append([entry(9)])
    assert after == chain(head, [entry(9)])[0]


async def test_a_log_that_begins_anew_goes_on_from_there(state: StateStore) -> None:
    call = Call(state)
    old = (await call.revocations.append([entry(1), entry(2)]))[-1]
    before = await call.revocations.head()
    assert await call.revocations.restored() is None
    for head in (replace(before, log_id="new"), replace(before, seq=9), LogHead("new", 1, b"h" * 32)):
        with pytest.raises(Conflict):
            await call.revocations.begin_anew(head, "dec-000001")
    assert (await call.revocations.head(), await call.revocations.restored()) == (before, None)
    for anew in (LogHead("new", 2**32, b"h" * 32), LogHead("newer", 2**33, b"i" * 32)):
        await call.revocations.begin_anew(anew, "dec-000001")
        assert await call.revocations.head() == anew
        assert await call.revocations.restored() == anew
        written = await call.revocations.append([entry(3)])
        assert follow(anew, list(written)) == await call.revocations.head()
    # What it denied before, it denies still.
    assert [item.seq for item in await call.revocations.live()] == [1, 2, 2**32 + 1, 2**33 + 1]
    assert await call.revocations.entry(2) == old


async def test_acts(state: StateStore) -> None:
    call = Call(state)
    bare = revocation(
        2, until=None, steps=(), unconfirmed=(), receipt=b"", state=RevocationState.SETTLED, expanded=False
    )
    for item in (revocation(1), bare):
        await call.revocations.put(item)
        assert await call.revocations.get(item.id) == item
    assert await call.revocations.get("never") is None
    later = revocation(1, state=RevocationState.SETTLED, receipt=b"signed", at=NOW + 99)
    await call.revocations.put(later)
    assert await call.revocations.get(later.id) == later


async def test_newest_acts_of_a_state(state: StateStore) -> None:
    call = Call(state)
    for number in (3, 1, 4, 2, 5):
        how = RevocationState.SETTLED if number == 4 else RevocationState.CLEANING
        await call.revocations.put(revocation(number, state=how))

    async def newest(limit: int) -> list[int]:
        return [int(item.id[4:]) for item in await call.revocations.newest(limit, RevocationState.CLEANING)]

    assert await newest(10) == [5, 3, 2, 1]
    assert await newest(2) == [5, 3]
    await call.revocations.put(revocation(5, state=RevocationState.SETTLED))
    assert await newest(2) == [3, 2]
    assert list(await call.revocations.newest(10, RevocationState.COMMITTED)) == []


async def test_pages_of_acts(state: StateStore) -> None:
    call = Call(state)
    for number in (3, 1, 4, 2):
        settled = RevocationState.SETTLED if number % 2 else RevocationState.COMMITTED
        await call.revocations.put(revocation(number, state=settled))

    async def page(*arguments: object, **named: object) -> list[int]:
        return [int(item.id[4:]) for item in await call.revocations.page(*arguments, **named)]

    assert await page(10) == [1, 2, 3, 4]
    assert await page(2, after="rev-000001") == [2, 3]
    assert await page(10, state=RevocationState.SETTLED) == [1, 3]
    assert await page(10, "rev-000001", RevocationState.SETTLED) == [3]


async def test_hits(state: StateStore) -> None:
    call = Call(state)
    await call.revocations.hit("rev-1", ["att-3", "att-1"])
    await call.revocations.hit("rev-1", ["att-1", "att-2"])
    await call.revocations.hit("rev-2", ["att-9"])
    await call.revocations.hit("rev-2", [])
    assert list(await call.revocations.hits("rev-1", 10)) == ["att-1", "att-2", "att-3"]
    assert list(await call.revocations.hits("rev-1", 1, "att-1")) == ["att-2"]
    assert list(await call.revocations.hits("never", 10)) == []
