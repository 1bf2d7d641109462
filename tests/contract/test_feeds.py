"""Contract: a feed applies the log in order, loses nothing, and says when it cannot know."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from broker.adapters.feed.local import FeedLimits, LocalFeed
from broker.adapters.state.sqlite import SqliteState
from broker.errors import LimitExceeded, Misuse, Unavailable
from broker.model.revocation import LogEntry, NewEntry, Selector, SelectorKind
from broker.ports import StateStore, Subscription, Transaction
from lockstep_client.watch import DEAF_AFTER
from tests.contract.state.nouns import entry
from tests.fakes.clock import FakeClock
from tests.fakes.entropy import CounterEntropy
from tests.fakes.feed import announced, appended
from tests.fakes.state import MemoryState


@pytest.fixture(params=["memory", "sqlite"])
async def state(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[StateStore]:
    store: StateStore
    if request.param == "memory":
        store = MemoryState()
    else:
        store = await SqliteState.open(tmp_path / "state.db", FakeClock(), CounterEntropy())
    yield store
    await store.close()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def feed(state: StateStore, clock: FakeClock) -> LocalFeed:
    return await LocalFeed.load(state, clock)


def ban(number: int) -> NewEntry:
    return entry(number, selector=Selector(SelectorKind.NODE, f"node-{number}"))


def denies(feed: LocalFeed, number: int) -> bool:
    return feed.denials.banned([Selector(SelectorKind.NODE, f"node-{number}")], 0.0) is not None


async def drain(subscription: Subscription) -> list[int]:
    found = []
    while (item := await subscription.next(0.0)) is not None:
        found.append(item.seq)
    return found


async def test_load_knows_what_denies(state: StateStore, clock: FakeClock) -> None:
    await appended(state, [ban(1), ban(2), ban(3)])

    async def prune(tx: Transaction) -> None:
        await tx.revocations.prune([2])

    await state.transact(prune)
    feed = await LocalFeed.load(state, clock)
    assert [denies(feed, number) for number in (1, 2, 3, 4)] == [True, False, True, False]
    assert feed.denials.seq == 3
    assert feed.age() == 0.0
    await announced(state, feed, [ban(4)])
    assert denies(feed, 4)


async def test_announced_is_applied_and_told(state: StateStore, feed: LocalFeed) -> None:
    watcher = feed.subscribe("a")
    written = await announced(state, feed, [ban(1), ban(2)])
    assert denies(feed, 1)
    assert denies(feed, 2)
    assert [await watcher.next(1.0), await watcher.next(1.0)] == list(written)
    assert await watcher.next(0.0) is None


async def test_announcements_in_any_order(state: StateStore, feed: LocalFeed) -> None:
    watcher = feed.subscribe("a")
    written = list(await appended(state, [ban(number) for number in range(50)]))
    mixed = written * 2
    random.Random(7).shuffle(mixed)
    for item in mixed:
        feed.announce([item])
    assert feed.denials.seq == 50
    assert await drain(watcher) == list(range(1, 51))


async def test_a_gap_waits_for_what_is_missing(state: StateStore, feed: LocalFeed) -> None:
    watcher = feed.subscribe("a")
    first, second, third = await appended(state, [ban(1), ban(2), ban(3)])
    feed.announce([third, first])
    assert feed.denials.seq == 1
    # Whoever was to announce the second was cancelled after the commit: the poll finds it.
    assert await feed.catch_up() == 3
    assert await drain(watcher) == [1, 2, 3]
    feed.announce([second])
    assert await drain(watcher) == []


async def test_what_waits_for_a_gap_is_bounded(state: StateStore, clock: FakeClock) -> None:
    feed = await LocalFeed.load(state, clock, FeedLimits(ahead=10))
    written = await appended(state, [ban(number) for number in range(100)])
    for item in written[1:]:
        feed.announce([item])
    assert feed.denials.seq == 0
    feed.announce(written[:1])
    assert feed.denials.seq < 100
    assert await feed.catch_up() == 100


async def test_subscribe_then_read_loses_nothing(state: StateStore, feed: LocalFeed) -> None:
    """The order that watchers use, while revocations go on: what was read and what is told make up the log."""
    stop = asyncio.Event()

    async def revoke() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            await announced(state, feed, [ban(number)])

    async def watch() -> list[int]:
        for _ in range(random.randrange(20)):
            await asyncio.sleep(0)
        watcher = feed.subscribe("a")

        async def read(tx: Transaction) -> list[LogEntry]:
            return list(await tx.revocations.since(0, 100_000))

        found = [item.seq for item in await state.read(read)]
        for _ in range(5):
            item = await watcher.next(10.0)
            assert item is not None
            if item.seq > len(found):
                found.append(item.seq)
        watcher.close()
        return found

    revokers = [asyncio.create_task(revoke()) for _ in range(4)]
    try:
        for found in await asyncio.gather(*(watch() for _ in range(50))):
            assert found == list(range(1, len(found) + 1))
            assert found
    finally:
        stop.set()
        await asyncio.gather(*revokers)
    await feed.catch_up()


async def test_a_slow_watcher_is_told_to_begin_anew(state: StateStore, clock: FakeClock) -> None:
    feed = await LocalFeed.load(state, clock, FeedLimits(queue=3))
    slow, quick = feed.subscribe("a"), feed.subscribe("a")
    for number in range(3):
        await announced(state, feed, [ban(number)])
    assert await drain(quick) == [1, 2, 3]
    await announced(state, feed, [ban(4)])
    assert await drain(quick) == [4]
    for _ in range(2):
        with pytest.raises(LimitExceeded):
            await slow.next(0.0)
    slow.close()
    assert await drain(feed.subscribe("a")) == []


async def test_overflow_wakes_who_waits(state: StateStore, clock: FakeClock) -> None:
    feed = await LocalFeed.load(state, clock, FeedLimits(queue=1))
    watcher = feed.subscribe("a")
    waiting = asyncio.create_task(watcher.next(30.0))
    await asyncio.sleep(0)
    await announced(state, feed, [ban(1), ban(2), ban(3)])
    with pytest.raises(LimitExceeded):
        await waiting


async def test_next_waits_until_told_closed_or_late(state: StateStore, feed: LocalFeed) -> None:
    watcher = feed.subscribe("a")
    assert await watcher.next(0.01) is None
    waiting = asyncio.create_task(watcher.next(30.0))
    await asyncio.sleep(0)
    with pytest.raises(Misuse):
        await watcher.next(0.0)
    (written,) = await announced(state, feed, [ban(1)])
    assert await waiting == written
    # A reader that is cancelled takes nothing with it.
    waiting = asyncio.create_task(watcher.next(30.0))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    (written,) = await announced(state, feed, [ban(2)])
    assert await watcher.next(1.0) == written
    waiting = asyncio.create_task(watcher.next(30.0))
    await asyncio.sleep(0)
    watcher.close()
    assert await waiting is None
    watcher.close()
    await announced(state, feed, [ban(3)])
    assert await watcher.next(30.0) is None


async def test_watchers_are_bounded(state: StateStore, clock: FakeClock) -> None:
    feed = await LocalFeed.load(state, clock, FeedLimits(subscribers=2))
    first, _ = feed.subscribe("a"), feed.subscribe("b")
    with pytest.raises(LimitExceeded):
        feed.subscribe("c")
    first.close()
    feed.subscribe("c")


async def test_a_thousand_watchers_hear_every_entry(state: StateStore, feed: LocalFeed) -> None:
    watchers = [feed.subscribe("a") for _ in range(1_000)]
    waiting = [asyncio.create_task(watcher.next(30.0)) for watcher in watchers]
    await asyncio.sleep(0)
    (written,) = await announced(state, feed, [ban(1)])
    assert set(await asyncio.gather(*waiting)) == {written}


async def test_told_counts_by_audience(state: StateStore, feed: LocalFeed) -> None:
    a, b, other = feed.subscribe("db"), feed.subscribe("db"), feed.subscribe("api")
    await announced(state, feed, [ban(1), ban(2)])
    assert feed.told(1) == {"db": (2, 0), "api": (1, 0)}
    a.acknowledge(1)
    b.acknowledge(2)
    b.acknowledge(1)  # never goes back
    assert feed.told(1) == {"db": (2, 2), "api": (1, 0)}
    assert feed.told(2) == {"db": (2, 1), "api": (1, 0)}
    # Nobody has applied what is not there.
    other.acknowledge(2**62)
    assert feed.told(3) == {"db": (2, 0), "api": (1, 0)}
    await announced(state, feed, [ban(3)])
    assert feed.told(3)["api"] == (1, 0)
    a.close()
    a.acknowledge(3)
    assert feed.told(3) == {"db": (1, 0), "api": (1, 0)}


async def test_told_at_is_when_the_last_of_them_said_so(
    state: StateStore, feed: LocalFeed, clock: FakeClock
) -> None:
    assert feed.told_at(1) is None  # nobody watches
    a, b = feed.subscribe("db"), feed.subscribe("api")
    await announced(state, feed, [ban(1), ban(2)])
    clock.advance(1)
    a.acknowledge(1)
    first = clock.now()
    assert feed.told_at(1) is None
    clock.advance(1)
    b.acknowledge(2)
    second = clock.now()
    assert first < second
    assert feed.told_at(1) == second
    clock.advance(5)
    a.acknowledge(2)
    # What came later does not move what was said before.
    assert feed.told_at(1) == second
    assert feed.told_at(2) == clock.now()
    b.close()
    assert feed.told_at(1) == first


async def test_a_verifier_that_has_gone_counts_until_it_has_failed_closed(
    state: StateStore, clock: FakeClock
) -> None:
    feed = await LocalFeed.load(state, clock, FeedLimits(patience=6.0))
    first, second = feed.subscribe("db", verifier=True), feed.subscribe("db", verifier=True)
    workload = feed.subscribe("workloads")
    await announced(state, feed, [ban(1)])
    first.acknowledge(1)
    for gone in (first, second, second, workload):
        gone.close()
    # What it had acknowledged it knows, and what came after that it may never have heard of.
    assert feed.told(1) == {"db": (1, 0)}
    await announced(state, feed, [ban(2)])
    assert feed.told(2) == {"db": (2, 0)}
    clock.advance(3.0)
    back = feed.subscribe("db", verifier=True)
    back.acknowledge(2)
    assert feed.told(2) == {"db": (3, 1)}
    clock.advance(2.999)
    assert feed.told(2) == {"db": (3, 1)}
    clock.advance(0.001)
    assert feed.told(2) == {"db": (1, 1)}
    back.close()
    assert feed.told(2) == {}
    assert feed.told(3) == {"db": (1, 0)}


async def test_a_new_process_does_not_know_who_watched_the_one_before(
    state: StateStore, clock: FakeClock
) -> None:
    feed = await LocalFeed.load(state, clock, FeedLimits(patience=6.0))
    assert not feed.knows_verifiers
    clock.advance(5.999)
    assert not feed.knows_verifiers
    clock.advance(0.001)
    assert feed.knows_verifiers


def test_the_patience_of_a_verifier_is_that_of_ours() -> None:
    assert FeedLimits().patience == DEAF_AFTER


async def test_wait_acknowledged(state: StateStore, feed: LocalFeed) -> None:
    assert await feed.wait_acknowledged(0, 0.0)
    assert await feed.wait_acknowledged(7, 0.0)  # nobody watches
    a, b, gone = feed.subscribe("a"), feed.subscribe("a"), feed.subscribe("a")
    await announced(state, feed, [ban(1), ban(2)])
    assert not await feed.wait_acknowledged(1, 0.01)
    waiting = asyncio.create_task(feed.wait_acknowledged(1, 30.0))
    await asyncio.sleep(0)
    a.acknowledge(1)
    gone.close()
    # Who comes later reads the log, where the entry is.
    feed.subscribe("a")
    await asyncio.sleep(0)
    assert not waiting.done()
    b.acknowledge(2)
    assert await waiting
    assert not await feed.wait_acknowledged(2, 0.01)


async def test_age_counts_from_when_it_asked(state: StateStore, clock: FakeClock) -> None:
    feed = await LocalFeed.load(state, clock)
    clock.advance(3.0)
    assert feed.age() == 3.0
    reading = asyncio.create_task(feed.catch_up())
    await asyncio.sleep(0)
    clock.advance(1.0)
    await reading
    assert feed.age() == 1.0


async def test_a_state_that_does_not_answer_makes_it_older(state: StateStore, clock: FakeClock) -> None:
    feed = await LocalFeed.load(state, clock)
    await state.close()
    clock.advance(5.0)
    with pytest.raises(Unavailable):
        await feed.catch_up()
    assert feed.age() == 5.0


async def test_another_log_is_never_current(clock: FakeClock) -> None:
    """A restored backup: shorter, or of the same length with another content, or with another id."""
    original, restored = MemoryState("log"), MemoryState("log")
    feed = await LocalFeed.load(original, clock)
    written = await announced(original, feed, [ban(1), ban(2)])
    for content in ([], [ban(1)], [ban(1), ban(3)], [ban(3), ban(2), ban(4)]):
        other = MemoryState("log")
        await appended(other, content)
        moved = LocalFeed(other, clock, feed.denials, FeedLimits())
        with pytest.raises(Unavailable):
            await moved.catch_up()
        assert moved.age() == math.inf
    renamed = MemoryState("new-log")
    await appended(renamed, [ban(1), ban(2)])
    with pytest.raises(Unavailable):
        await LocalFeed(renamed, clock, feed.denials, FeedLimits()).catch_up()
    await appended(restored, [ban(1), ban(2)])
    assert await LocalFeed(restored, clock, feed.denials, FeedLimits()).catch_up() == len(written)


async def test_a_forged_announcement_stops_the_feed(state: StateStore, feed: LocalFeed) -> None:
    (written,) = await appended(state, [ban(1)])
    feed.announce([replace(written, body=ban(2))])
    assert feed.age() == math.inf
    assert not denies(feed, 2)
    assert await feed.catch_up() == 1
    assert denies(feed, 1)
    assert feed.age() == 0.0


@pytest.mark.parametrize("gone", [[1], [2], [3], [1, 2, 3]], ids=str)
async def test_what_was_pruned_before_it_was_heard(
    state: StateStore, feed: LocalFeed, gone: list[int]
) -> None:
    watcher = feed.subscribe("a")
    held = ban(9)
    feed.denials.anticipate([held])
    await appended(state, [ban(1), ban(2), ban(3)])

    async def prune(tx: Transaction) -> None:
        await tx.revocations.prune(gone)

    await state.transact(prune)
    assert await feed.catch_up() == 3
    assert [number for number in (1, 2, 3) if not denies(feed, number)] == gone
    assert feed.denials.early.banned([held.selector], 0.0) == held
    with pytest.raises(LimitExceeded):
        await watcher.next(0.0)
    await announced(state, feed, [ban(4)])
    assert denies(feed, 4)


async def test_catching_up_over_many_pages(state: StateStore, feed: LocalFeed) -> None:
    await appended(state, [ban(number) for number in range(2_500)])
    assert await feed.catch_up() == 2_500


async def test_catching_up_while_announcements_arrive(state: StateStore, feed: LocalFeed) -> None:
    watcher = feed.subscribe("a")

    async def revoke(start: int) -> None:
        for number in range(50):
            await announced(state, feed, [ban(start + number)])

    async def poll() -> None:
        while feed.denials.seq < 200:
            await feed.catch_up()

    async with asyncio.timeout(30):
        await asyncio.gather(*(revoke(start) for start in (0, 1000, 2000, 3000)), poll(), poll())
    assert await drain(watcher) == list(range(1, 201))


# --- the fence -----------------------------------------------------------------------------------------


async def test_a_fence_reads_what_another_replica_wrote(state: StateStore, feed: LocalFeed) -> None:
    await appended(state, [ban(1)])
    assert await feed.fence() == 1
    assert denies(feed, 1)


async def test_the_only_writer_reads_nothing_for_a_fence(state: StateStore, clock: FakeClock) -> None:
    feed = await LocalFeed.load(state, clock, alone=True)
    await announced(state, feed, [ban(1)])
    clock.advance(FeedLimits().fresh)
    await state.close()
    assert await feed.fence() == 1


async def test_the_only_writer_grants_nothing_once_its_view_is_too_old(
    state: StateStore, clock: FakeClock
) -> None:
    feed = await LocalFeed.load(state, clock, alone=True)
    clock.advance(FeedLimits().fresh + 0.001)
    assert await feed.fence() == 0
    assert feed.age() == 0.0
    clock.advance(FeedLimits().fresh + 0.001)
    await state.close()
    with pytest.raises(Unavailable):
        await feed.fence()


async def test_the_only_writer_reads_where_an_announcement_is_missing(
    state: StateStore, clock: FakeClock
) -> None:
    feed = await LocalFeed.load(state, clock, alone=True)
    _, second = await appended(state, [ban(1), ban(2)])
    feed.announce([second])
    assert await feed.fence() == 2
    assert denies(feed, 1)


async def test_the_only_writer_reads_once_it_has_lost_its_way(state: StateStore, clock: FakeClock) -> None:
    feed = await LocalFeed.load(state, clock, alone=True)
    (written,) = await appended(state, [ban(1)])
    feed.announce([replace(written, body=ban(2))])
    assert feed.age() == math.inf
    assert await feed.fence() == 1
    assert denies(feed, 1)
