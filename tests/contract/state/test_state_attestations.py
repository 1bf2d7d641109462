"""Contract: attestations and code sets, and every way to find them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broker.adapters.state.rules import LEAST_SIZE, MAX_NAMES, MAX_NAMES_TEXT
from broker.errors import Conflict, Misuse
from broker.model.appraisal import Status
from broker.model.attestation import ApplicationResult, AttestationState
from broker.model.evidence import Assurance, CodeSet, ProcessRef, UnitHint
from broker.model.identity import InstanceClaims
from broker.model.revocation import Selector, SelectorKind, process_value
from broker.ports import StateStore
from lockstep.formats import UnitKind
from tests.contract.state.calls import Call
from tests.contract.state.nouns import NOW, attestation, code_set, digest, identity, process, units


def ids(found: list) -> list[str]:
    return [item.id for item in found]


async def test_comes_back_as_it_was(state: StateStore) -> None:
    call = Call(state)
    whole = attestation()
    bare = attestation(
        2,
        identity=identity(issuer=None, subject="spiffe://td/a", claims={}),
        process=ProcessRef(),
        assurance=Assurance.SELF,
        results=(),
        unmeasured=(),
    )
    for item in (whole, bare):
        await call.attestations.add(item)
        assert await call.attestations.get(item.id) == item
    assert await call.attestations.get("att-9") is None
    with pytest.raises(Conflict):
        await call.attestations.add(whole)


async def test_refresh_replaces_the_mutable_part_only(state: StateStore) -> None:
    call = Call(state)
    old = attestation()
    await call.attestations.add(old)
    new = replace(
        old,
        identity=identity("workload", not_after=NOW + 9999),
        process=process(7, node="node-2"),
        results=(ApplicationResult("shop", Status.AFFIRMING, (digest("manifest-2"),), 0),),
        code_set=code_set("libc", "app", "plugin").digest,
        refreshed_at=NOW + 100,
        expires_at=NOW + 400,
        as_of=99,
        unmeasured=("other",),
        # What refresh does not touch:
        assurance=Assurance.HARDWARE,
        created_at=0.0,
        decision_id="dec-x",
        key=replace(old.key, algorithm="EdDSA"),
    )
    assert await call.attestations.refresh(new)
    expected = replace(
        new, assurance=old.assurance, created_at=old.created_at, decision_id=old.decision_id, key=old.key
    )
    assert await call.attestations.get(old.id) == expected

    async def hits(kind: SelectorKind, value: str) -> list[str]:
        return ids(await call.attestations.alive_by(Selector(kind, value), 10))

    assert await hits(SelectorKind.MANIFEST, digest("manifest").hex()) == []
    assert await hits(SelectorKind.MANIFEST, digest("manifest-2").hex()) == [old.id]
    assert await hits(SelectorKind.NODE, "node-1") == []
    assert await hits(SelectorKind.NODE, "node-2") == [old.id]
    assert await hits(SelectorKind.PROCESS, process_value(process(1))) == []


async def test_refresh_never_revives(state: StateStore) -> None:
    call = Call(state)
    assert not await call.attestations.refresh(attestation())
    await call.attestations.add(attestation())
    await call.attestations.end([attestation().id], AttestationState.REVOKED)
    assert not await call.attestations.refresh(attestation(expires_at=NOW + 9999))
    found = await call.attestations.get(attestation().id)
    assert (found.state, found.expires_at) == (AttestationState.REVOKED, NOW + 300)


async def test_end_names_those_that_it_ended(state: StateStore) -> None:
    call = Call(state)
    for number in (1, 2, 3):
        await call.attestations.add(attestation(number))
    every = [attestation(number).id for number in (3, 2, 1)]
    assert await call.attestations.end(every[:2], AttestationState.EXPIRED) == ["att-000002", "att-000003"]
    assert await call.attestations.end([*every, "att-9"], AttestationState.REVOKED) == ["att-000001"]
    assert await call.attestations.end([], AttestationState.REVOKED) == []
    states = [(await call.attestations.get(item)).state for item in reversed(every)]
    assert states == [AttestationState.REVOKED, AttestationState.EXPIRED, AttestationState.EXPIRED]
    assert await call.attestations.count_alive() == 0


SELECTORS = {
    SelectorKind.ATTESTATION: attestation().id,
    SelectorKind.IDENTITY: attestation().identity.name,
    SelectorKind.KEY: attestation().key.thumbprint.hex(),
    SelectorKind.MANIFEST: digest("base").hex(),
    SelectorKind.DIGEST: digest("app").hex(),
    SelectorKind.NODE: "node-1",
    SelectorKind.CONTAINER: "container-1",
    SelectorKind.POD: "pod-1",
    SelectorKind.PROCESS: process_value(process()),
}


def stranger(number: int):
    """An attestation that no selector of `SELECTORS` hits."""
    return attestation(
        number,
        identity=identity(f"other-{number}", instance=InstanceClaims("node-9", "pod-9", "container-9")),
        process=ProcessRef("node-9", "boot-9", number, 1, 0, "container-9", "pod-9"),
        results=(
            ApplicationResult("shop", Status.AFFIRMING, (digest("new"),), 0),
            # Not affirming: what it rests on is not in use.
            ApplicationResult("old", Status.CONTRAINDICATED, (digest("base"),), 3),
        ),
        code_set=code_set("other").digest,
    )


@pytest.mark.parametrize("kind", SELECTORS, ids=str)
async def test_alive_by(state: StateStore, kind: SelectorKind) -> None:
    call = Call(state)
    await call.code.index(code_set("libc", "app"), 9)
    await call.code.index(code_set("other"), 9)
    await call.attestations.add(stranger(2))
    await call.attestations.add(attestation())
    await call.attestations.add(attestation(3, state=AttestationState.EXPIRED))
    selector = Selector(kind, SELECTORS[kind])
    assert await call.attestations.alive_by(selector, 10) == [attestation()]
    assert ids(await call.attestations.alive_by(selector, 10, after=attestation().id)) == []
    for value in ("", "zz", SELECTORS[kind].upper() + "x", "00" * 32):
        assert ids(await call.attestations.alive_by(Selector(kind, value), 10)) == []
    await call.attestations.end([attestation().id], AttestationState.REVOKED)
    assert ids(await call.attestations.alive_by(selector, 10)) == []


async def test_the_last_of_a_process_is_the_newest_in_any_state(state: StateStore) -> None:
    call = Call(state)
    await call.code.index(code_set("libc", "app"), 9)
    await call.code.index(code_set("other"), 9)
    named = process_value(process())
    assert await call.attestations.last_of_process(named) is None
    await call.attestations.add(stranger(7))
    await call.attestations.add(attestation(1, process=process()))
    await call.attestations.add(attestation(2, process=process()))
    await call.attestations.end([attestation(2).id], AttestationState.REVOKED)
    found = await call.attestations.last_of_process(named)
    assert found is not None
    assert (found.id, found.state) == (attestation(2).id, AttestationState.REVOKED)
    assert await call.attestations.last_of_process("") is None


@pytest.mark.parametrize("kind", [SelectorKind.LEASE, SelectorKind.TOKEN, SelectorKind.PACKAGE], ids=str)
async def test_alive_by_what_an_attestation_does_not_know(state: StateStore, kind: SelectorKind) -> None:
    with pytest.raises(Misuse):
        await Call(state).attestations.alive_by(Selector(kind, "x"), 10)


@pytest.mark.parametrize("kind", [SelectorKind.IDENTITY, SelectorKind.MANIFEST, SelectorKind.DIGEST], ids=str)
async def test_alive_by_in_pages(state: StateStore, kind: SelectorKind) -> None:
    call = Call(state)
    await call.code.index(code_set("libc", "app"), 9)
    await call.code.index(code_set("app", "more"), 9)
    order = [4, 1, 5, 3, 2]
    for number in order:
        other = {"code_set": code_set("app", "more").digest} if number % 2 else {}
        await call.attestations.add(attestation(number, **other))
    selector = Selector(kind, SELECTORS[kind])
    pages, after = [], ""
    while page := ids(await call.attestations.alive_by(selector, 2, after)):
        pages.append(page)
        after = page[-1]
    assert pages == [["att-000001", "att-000002"], ["att-000003", "att-000004"], ["att-000005"]]


async def test_loaded_looks_at_the_dead_too(state: StateStore) -> None:
    call = Call(state)
    await call.code.index(code_set("libc", "app"), 9)
    await call.code.index(code_set("other"), 9)
    await call.attestations.add(attestation(1, refreshed_at=NOW - 10))
    await call.attestations.add(attestation(2, state=AttestationState.REVOKED, refreshed_at=NOW))
    await call.attestations.add(stranger(3))
    found = [digest("app"), digest("libc"), digest("never")]
    assert ids(await call.attestations.loaded(found, NOW - 10, 10)) == ["att-000001", "att-000002"]
    assert ids(await call.attestations.loaded(found, NOW - 9, 10)) == ["att-000002"]
    assert ids(await call.attestations.loaded(found, NOW - 10, 1)) == ["att-000001"]
    assert ids(await call.attestations.loaded([digest("never")], 0.0, 10)) == []
    assert ids(await call.attestations.loaded([], 0.0, 10)) == []
    assert ids(await call.attestations.loaded(found, NOW - 10, 10, "att-000001")) == ["att-000002"]


async def test_pages_are_of_everyone_or_of_one_identity(state: StateStore) -> None:
    call = Call(state)
    await call.attestations.add(attestation(1, refreshed_at=NOW - 10))
    await call.attestations.add(attestation(2, state=AttestationState.REVOKED, refreshed_at=NOW))
    await call.attestations.add(replace(stranger(3), refreshed_at=NOW - 20))
    assert ids(await call.attestations.page(0.0, 10)) == ["att-000001", "att-000002", "att-000003"]
    assert ids(await call.attestations.page(NOW - 10, 10)) == ["att-000001", "att-000002"]
    assert ids(await call.attestations.page(0.0, 2)) == ["att-000001", "att-000002"]
    assert ids(await call.attestations.page(0.0, 2, "att-000002")) == ["att-000003"]
    theirs = stranger(3).identity.name
    assert ids(await call.attestations.page(0.0, 10, "", theirs)) == ["att-000003"]
    assert ids(await call.attestations.page(NOW - 10, 10, "", theirs)) == []
    assert ids(await call.attestations.page(0.0, 10, "att-000003", theirs)) == []


async def test_due_and_alive(state: StateStore) -> None:
    call = Call(state)
    for number, expires in ((1, 30), (2, 10), (3, 20), (4, 10.5)):
        await call.attestations.add(attestation(number, expires_at=NOW + expires))
    await call.attestations.add(attestation(5, expires_at=NOW, state=AttestationState.EXPIRED))
    assert await call.attestations.count_alive() == 4
    await call.attestations.add(attestation(6, identity=identity("other")))
    assert await call.attestations.count_alive(identity("other").name) == 1
    assert await call.attestations.count_alive(attestation().identity.name) == 4
    assert await call.attestations.count_alive("nobody") == 0
    await call.attestations.end([attestation(6).id], AttestationState.REVOKED)
    assert await call.attestations.count_alive(identity("other").name) == 0
    assert await call.attestations.due(NOW + 9, 10) == []
    assert await call.attestations.due(NOW + 20, 10) == ["att-000002", "att-000004", "att-000003"]
    assert await call.attestations.due(NOW + 20, 1) == ["att-000002"]


async def test_code_sets(state: StateStore) -> None:
    call = Call(state)
    code = CodeSet.of([*units("a", "b"), *units("a", kind=UnitKind.MODEL)])
    assert await call.code.get(code.digest) is None
    assert not await call.code.contains(code.digest, [digest("a")])
    assert not await call.code.indexed(code.digest)
    for _ in range(2):
        await call.code.put(code)
    await call.code.put(CodeSet.of([]))
    for _ in range(2):
        assert await call.code.get(code.digest) == code
        assert await call.code.get(CodeSet.of([]).digest) == CodeSet.of([])
        assert await call.code.contains(code.digest, [digest("x"), digest("b")])
        assert not await call.code.contains(code.digest, [digest("x")])
        assert not await call.code.contains(code.digest, [])
        assert await call.code.index(code, 9)
        assert await call.code.index(CodeSet.of([]), 9)
        assert await call.code.indexed(code.digest)
        assert await call.code.indexed(CodeSet.of([]).digest)


async def test_a_code_set_may_come_after_its_attestation(state: StateStore) -> None:
    call = Call(state)
    await call.attestations.add(attestation())
    selector = Selector(SelectorKind.DIGEST, digest("app").hex())
    assert await call.code.get(attestation().code_set) is None
    assert ids(await call.attestations.alive_by(selector, 10)) == []
    await call.code.put(code_set("libc", "app"))
    assert await call.code.get(attestation().code_set) == code_set("libc", "app")
    # One that was only judged is found by nothing that it has.
    assert ids(await call.attestations.alive_by(selector, 10)) == []
    assert ids(await call.attestations.loaded([digest("app")], 0.0, 10)) == []
    await call.code.index(code_set("libc", "app"), 9)
    assert ids(await call.attestations.alive_by(selector, 10)) == ["att-000001"]
    assert ids(await call.attestations.loaded([digest("app")], 0.0, 10)) == ["att-000001"]


async def test_a_code_set_is_indexed_in_slices(state: StateStore) -> None:
    call = Call(state)
    names = [f"unit-{number}" for number in range(10)]
    code = code_set(*names)
    await call.attestations.add(attestation(code_set=code.digest))

    async def found() -> int:
        selectors = [Selector(SelectorKind.DIGEST, digest(name).hex()) for name in names]
        return sum([len(await call.attestations.alive_by(item, 10)) for item in selectors])

    progress = []
    for done in (False, False, True, True):
        assert await call.code.index(code, 4) is done
        assert await call.code.indexed(code.digest) is done
        assert await call.code.get(code.digest) == code
        assert await call.code.contains(code.digest, [digest(names[-1])])
        progress.append(await found())
    assert progress == [4, 8, 10, 10]


async def test_names_are_an_identitys_own(state: StateStore) -> None:
    call = Call(state)
    code, other = code_set("a", "b"), code_set("a")
    first, second = UnitHint(digest("a"), "/a", "a"), UnitHint(digest("a"), "/evil", "evil")
    more = UnitHint(digest("b"), "/b\udcff", "")
    await call.code.put_names(code.digest, "me", [first])
    assert list(await call.code.names(code.digest, "me")) == []  # of a set that is not kept
    await call.code.put(code)
    await call.code.put(other)
    await call.code.put_names(code.digest, "other", [second])
    await call.code.put_names(other.digest, "me", [second])
    assert list(await call.code.names(code.digest, "me")) == []
    await call.code.put_names(code.digest, "me", [first, second])
    await call.code.put_names(code.digest, "me", [second, more])
    await call.code.put_names(code.digest, "me", [])
    assert list(await call.code.names(code.digest, "me")) == [first, more]
    assert list(await call.code.names(code.digest, "other")) == [second]
    assert list(await call.code.names(other.digest, "me")) == [second]


async def test_names_are_bounded(state: StateStore) -> None:
    call = Call(state)
    code, long = code_set("a"), code_set("b")
    await call.code.put(code)
    await call.code.put(long)
    await call.code.put_names(code.digest, "me", [UnitHint(digest(n), "/", "") for n in range(MAX_NAMES + 9)])
    assert len(await call.code.names(code.digest, "me")) == MAX_NAMES
    path = "x" * (MAX_NAMES_TEXT // 4)
    await call.code.put_names(long.digest, "me", [UnitHint(digest(n), path, "") for n in range(9)])
    assert len(await call.code.names(long.digest, "me")) == 4


async def test_what_was_only_judged_is_kept_within_a_budget(state: StateStore) -> None:
    call = Call(state)
    judged = [code_set(name) for name in "abcd"]
    kept, attested = code_set("kept"), code_set("attested")
    for code in (kept, *judged[:2], attested, *judged[2:]):
        await call.code.put(code)
        await call.code.put_names(code.digest, "me", [UnitHint(digest("a"), "/a", "a")])
    await call.code.index(kept, 9)
    await call.attestations.add(attestation(code_set=attested.digest))

    async def there() -> list[bool]:
        return [await call.code.get(code.digest) is not None for code in (*judged, kept, attested)]

    assert await call.code.prune(10**6, 10**6, 9) == 0
    assert await call.code.prune(2 * LEAST_SIZE, 10**6, 1) == 1
    assert await there() == [False, True, True, True, True, True]
    assert await call.code.prune(2 * LEAST_SIZE, 10**6, 9) == 1
    assert await there() == [False, False, True, True, True, True]
    assert list(await call.code.names(judged[0].digest, "me")) == []
    assert await call.code.prune(0, 10**6, 9) == 2
    assert await there() == [False, False, False, False, True, True]
    assert await call.code.prune(0, LEAST_SIZE, 9) == 1
    assert list(await call.code.names(kept.digest, "me")) == []
    assert list(await call.code.names(attested.digest, "me")) != []
    # What was dropped may come again.
    await call.code.put(judged[0])
    assert await call.code.get(judged[0].digest) == judged[0]
