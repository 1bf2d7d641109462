"""Contract: all or nothing, nothing foreign awaited, nothing written by a read."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from broker.errors import Conflict, Denied, Misuse, Unavailable
from broker.model.attestation import AttestationState
from broker.model.credential import LeaseState
from broker.model.evidence import CodeSet
from broker.model.manifest import ManifestState
from broker.model.revocation import LogHead
from broker.ports import StateStore, Transaction
from lockstep.formats import Reason
from tests.contract.state.calls import Call
from tests.contract.state.nouns import (
    NOW,
    attestation,
    code_set,
    decision,
    detection,
    digest,
    entry,
    lease,
    manifest,
    proposal,
    revocation,
    role,
)

# Every method that writes, on an empty store; some of them with nothing to write.
WRITES: dict[str, Callable[[Transaction], Awaitable[object]]] = {
    "attestations.add": lambda tx: tx.attestations.add(attestation()),
    "attestations.refresh": lambda tx: tx.attestations.refresh(attestation()),
    "attestations.end": lambda tx: tx.attestations.end([], AttestationState.EXPIRED),
    "code.put": lambda tx: tx.code.put(code_set("a")),
    "code.index": lambda tx: tx.code.index(code_set("a"), 1),
    "code.put_names": lambda tx: tx.code.put_names(b"", "", []),
    "code.prune": lambda tx: tx.code.prune(0, 0, 1),
    "leases.open": lambda tx: tx.leases.open(lease()),
    "leases.replace": lambda tx: tx.leases.replace(lease(), LeaseState.ACTIVE),
    "leases.begin_revoking": lambda tx: tx.leases.begin_revoking([]),
    "revocations.append": lambda tx: tx.revocations.append([]),
    "revocations.prune": lambda tx: tx.revocations.prune([]),
    "revocations.begin_anew": lambda tx: tx.revocations.begin_anew(LogHead("new", 9, b"h"), "dec-1"),
    "revocations.put": lambda tx: tx.revocations.put(revocation()),
    "revocations.hit": lambda tx: tx.revocations.hit("rev-1", []),
    "detections.add": lambda tx: tx.detections.add(detection()),
    "detections.decide": lambda tx: tx.detections.decide(detection()),
    "proposals.put": lambda tx: tx.proposals.put(proposal()),
    "decisions.add": lambda tx: tx.decisions.add(decision()),
    "roles.record": lambda tx: tx.roles.record(role(), NOW),
    "manifests.add": lambda tx: tx.manifests.add(manifest()),
    "manifests.add_signatures": lambda tx: tx.manifests.add_signatures(b"", b"", []),
    "manifests.set_state": lambda tx: tx.manifests.set_state(b"", ManifestState.RETIRED),
    "manifests.raise_floor": lambda tx: tx.manifests.raise_floor("shop", 1),
    "manifests.lower_floor": lambda tx: tx.manifests.lower_floor("shop", 1),
    "manifests.put_index": lambda tx: tx.manifests.put_index("shop", 1, b"x"),
    "replays.claim": lambda tx: tx.replays.claim("proof", b"k", NOW),
    "replays.prune": lambda tx: tx.replays.prune(NOW, 1),
}


async def write_everywhere(tx: Transaction) -> None:
    """A row in every family."""
    await tx.code.put(code_set("libc", "app"))
    await tx.attestations.add(attestation())
    await tx.leases.open(lease())
    await tx.revocations.append([entry()])
    await tx.revocations.put(revocation())
    await tx.revocations.hit(revocation().id, [attestation().id])
    await tx.detections.add(detection())
    await tx.decisions.add(decision())
    await tx.roles.record(role(), NOW)
    await tx.manifests.add(manifest())
    await tx.manifests.raise_floor("shop", 7)
    await tx.manifests.put_index("shop", 7, b"index")
    await tx.replays.claim("proof", b"key", NOW)


async def everything(tx: Transaction) -> list[object]:
    """What `write_everywhere` wrote, as far as it is there."""
    return [
        await tx.code.get(code_set("libc", "app").digest),
        await tx.attestations.get(attestation().id),
        await tx.leases.get(lease().id),
        await tx.revocations.entry(1),
        await tx.revocations.get(revocation().id),
        list(await tx.revocations.hits(revocation().id, 1)) or None,
        await tx.detections.get(detection().id),
        await tx.decisions.get(decision().id),
        await tx.roles.text(role().version),
        await tx.manifests.get(manifest().manifest.digest),
        await tx.manifests.floor("shop") or None,
        await tx.manifests.reached("shop") or None,
        (await tx.manifests.last_index("shop"))[0] or None,
        (await tx.revocations.head()).seq or None,
    ]


async def test_a_transaction_leaves_everything(state: StateStore) -> None:
    await state.transact(write_everywhere)
    assert None not in await state.read(everything)
    assert not await Call(state).replays.claim("proof", b"key", NOW)


@pytest.mark.parametrize(
    "error",
    [
        Denied(Reason.BANNED, "no"),
        ValueError("bug"),
        KeyError("bug"),
        asyncio.CancelledError(),
        SystemExit(3),
    ],
    ids=repr,
)
async def test_what_raises_leaves_nothing(state: StateStore, error: BaseException) -> None:
    seen: list[object] = []

    async def work(tx: Transaction) -> None:
        await write_everywhere(tx)
        seen.extend(await everything(tx))
        raise error

    with pytest.raises(type(error)):
        await state.transact(work)
    assert None not in seen  # inside, it saw what it had written
    assert set(await state.read(everything)) == {None}
    # And the very same may be done afterwards.
    await state.transact(write_everywhere)
    assert None not in await state.read(everything)


async def test_the_result_is_handed_over(state: StateStore) -> None:
    async def work(tx: Transaction) -> tuple[int, str]:
        return (await tx.revocations.head()).seq, "done"

    assert await state.transact(work) == (0, "done")
    assert await state.transact(work, urgent=True) == (0, "done")
    assert await state.read(work) == (0, "done")


async def test_work_may_be_any_callable_that_gives_an_awaitable(state: StateStore) -> None:
    class Work:
        def __init__(self, key: bytes) -> None:
            self.key = key

        async def __call__(self, tx: Transaction) -> bool:
            return await tx.replays.claim("proof", self.key, NOW)

    assert await state.transact(Work(b"a"))
    assert await state.transact(lambda tx: tx.replays.claim("proof", b"b", NOW))
    assert not await state.transact(Work(b"b"))


FOREIGN = {
    "sleep(0)": lambda: asyncio.sleep(0),
    "sleep(1)": lambda: asyncio.sleep(1),
    "a future": None,
}


@pytest.mark.parametrize("foreign", FOREIGN)
@pytest.mark.parametrize("reading", [False, True], ids=["transact", "read"])
async def test_a_foreign_await_is_misuse(state: StateStore, foreign: str, reading: bool) -> None:
    outside = asyncio.get_running_loop().create_future()

    async def work(tx: Transaction) -> None:
        if not reading:
            await tx.replays.claim("proof", b"key", NOW)
        await (FOREIGN[foreign] or (lambda: outside))()

    with pytest.raises(Misuse):
        await (state.read if reading else state.transact)(work)
    assert await Call(state).replays.claim("proof", b"key", NOW)


async def test_stubborn_work_is_misuse_too(state: StateStore) -> None:
    async def work(tx: Transaction) -> None:
        try:
            await asyncio.sleep(0)
        finally:
            await asyncio.sleep(0)

    with pytest.raises(Misuse):
        await state.transact(work)
    assert (await Call(state).revocations.head()).seq == 0


@pytest.mark.parametrize("write", WRITES)
async def test_a_read_writes_nothing(state: StateStore, write: str) -> None:
    async def work(tx: Transaction) -> None:
        await WRITES[write](tx)

    with pytest.raises(Misuse):
        await state.read(work)
    assert set(await state.read(everything)) == {None}
    await state.transact(work)


async def test_a_read_that_hides_its_write_is_refused(state: StateStore) -> None:
    async def work(tx: Transaction) -> str:
        try:
            await tx.replays.claim("proof", b"key", NOW)
        except Misuse:
            return "swallowed"
        return "written"

    # Nothing was written, which is what counts.
    try:
        assert await state.read(work) == "swallowed"
    except Misuse:
        pass
    assert await Call(state).replays.claim("proof", b"key", NOW)


async def test_a_transaction_ends_with_its_work(state: StateStore) -> None:
    kept: list[Transaction] = []

    async def work(tx: Transaction) -> None:
        kept.append(tx)

    for call in (state.transact, state.read):
        await call(work)
        with pytest.raises(Misuse):
            await kept[-1].revocations.head()
        with pytest.raises(Misuse):
            await kept[-1].replays.claim("proof", b"key", NOW)
    assert await Call(state).replays.claim("proof", b"key", NOW)


async def test_a_conflict_that_work_swallows_does_not_spoil_it(state: StateStore) -> None:
    await Call(state).decisions.add(decision())

    async def work(tx: Transaction) -> None:
        await tx.decisions.add(decision(2))
        with pytest.raises(Conflict):
            await tx.decisions.add(decision(1))
        await tx.decisions.add(decision(3))

    await state.transact(work)
    found = await Call(state).decisions.page(0.0, 10)
    assert [item.id for item in found] == ["dec-000001", "dec-000002", "dec-000003"]


async def test_one_snapshot(state: StateStore) -> None:
    """Two looks in one read see the same, whatever is committed beside them."""
    call = Call(state)
    stop = asyncio.Event()

    async def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            await call.revocations.append([entry(number)])

    async def work(tx: Transaction) -> bool:
        head = await tx.revocations.head()
        entries = [item async for item in _each(tx, 200)]
        return head == await tx.revocations.head() and len(entries) == head.seq

    async def _each(tx: Transaction, size: int):
        seq = 0
        while page := await tx.revocations.since(seq, size):
            for item in page:
                yield item
            seq = page[-1].seq

    writer = asyncio.create_task(write())
    try:
        async with asyncio.timeout(30):
            while (await call.revocations.head()).seq < 50:
                assert await state.read(work)
    finally:
        stop.set()
        await writer


async def test_a_read_sees_what_was_committed_before_it(state: StateStore) -> None:
    call, reading = Call(state), Call(state, reading=True)
    for number in range(200):
        (written,) = await call.revocations.append([entry(number)])
        assert (await reading.revocations.head()).seq == written.seq


async def test_500_at_once(state: StateStore) -> None:
    """Every one gets its own answer, and those that fail take nobody along."""

    async def one(number: int) -> int | None:
        async def work(tx: Transaction) -> int:
            (written,) = await tx.revocations.append([entry(number)])
            await tx.decisions.add(decision(number))
            if number % 10 == 3:
                raise Denied(Reason.BANNED, str(number))
            return written.seq

        if number % 10 != 3:
            return await state.transact(work, urgent=number % 7 == 0)
        with pytest.raises(Denied, match=f"^{number}$"):
            await state.transact(work, urgent=number % 7 == 0)
        return None

    found = await asyncio.gather(*(one(number) for number in range(500)))
    kept = [number for number, seq in enumerate(found) if seq is not None]
    assert len(kept) == 450
    assert sorted(seq for seq in found if seq is not None) == list(range(1, 451))
    call = Call(state)
    assert (await call.revocations.head()).seq == 450
    decisions = await call.decisions.page(0.0, 1000)
    assert [item.id for item in decisions] == [decision(number).id for number in kept]


async def test_a_cancelled_caller_leaves_all_or_nothing(state: StateStore) -> None:
    """Whenever the cancellation comes: before, while or after the work runs."""

    def work_of(number: int) -> Callable[[Transaction], Awaitable[None]]:
        async def work(tx: Transaction) -> None:
            await tx.decisions.add(decision(number))
            await tx.detections.add(detection(number))

        return work

    for number in range(300):
        task = asyncio.create_task(state.transact(work_of(number)))
        for _ in range(number % 5):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await state.transact(work_of(1000))
    call = Call(state)
    decisions = {item.id[4:] for item in await call.decisions.page(0.0, 1000)}
    detections = {item.id[4:] for item in await call.detections.page([], 1000)}
    assert decisions == detections
    assert "001000" in decisions


async def test_closed_is_unavailable(state: StateStore) -> None:
    async def work(tx: Transaction) -> int:
        return (await tx.revocations.head()).seq

    await state.close()
    for call in (state.transact, state.read):
        with pytest.raises(Unavailable):
            await call(work)
    await state.close()


async def test_an_empty_code_set_is_a_code_set(state: StateStore) -> None:
    call = Call(state)
    await call.code.put(CodeSet.of([]))
    assert not await call.code.contains(CodeSet.of([]).digest, [digest("a")])
