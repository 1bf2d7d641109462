"""The twins agree: whatever is done to both, SQLite and memory answer alike."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.adapters.state.sqlite import SqliteState
from broker.errors import LockstepError, Misuse
from broker.model.appraisal import Status
from broker.model.attestation import ApplicationResult, Attestation, AttestationState
from broker.model.credential import LeaseState
from broker.model.detection import DetectionState
from broker.model.evidence import Assurance, UnitHint
from broker.model.identity import InstanceClaims
from broker.model.manifest import ManifestState
from broker.model.proposal import ProposalState
from broker.model.revocation import LogHead, RevocationState, Selector, SelectorKind, process_value
from broker.ports import StateStore, Transaction
from tests.contract.state.nouns import (
    NOW,
    attestation,
    code_set,
    decision,
    detection,
    digest,
    entry,
    identity,
    lease,
    manifest,
    process,
    proposal,
    revocation,
    role,
)
from tests.fakes.clock import FakeClock
from tests.fakes.entropy import CounterEntropy
from tests.fakes.state import MemoryState

numbers = st.integers(1, 5)
times = st.sampled_from([0.0, NOW, NOW + 1, NOW + 2.5, NOW + 10])
limits = st.sampled_from([1, 2, 100])
units = st.sampled_from("abcd")
codes = st.lists(units, max_size=3).map(lambda names: code_set(*names))
digests = st.lists(units.map(digest), max_size=3)


def some(values: Any) -> Any:
    return st.lists(st.sampled_from(list(values)), max_size=2)


def ids(prefix: str) -> st.SearchStrategy[str]:
    return st.one_of(numbers.map(lambda number: f"{prefix}-{number:06}"), st.just(""))


def id_lists(prefix: str) -> st.SearchStrategy[list[str]]:
    return st.lists(ids(prefix), max_size=4)


@st.composite
def attestations(draw: st.DrawFn) -> Attestation:
    place = draw(
        st.sampled_from(
            [InstanceClaims(), InstanceClaims("node-1", "pod-1", ""), InstanceClaims("n", "", "c")]
        )
    )
    return attestation(
        draw(numbers),
        identity=identity(draw(st.sampled_from(["a", "b"])), instance=place),
        process=draw(st.sampled_from([process(1), process(2), process(1, node=""), process(2, pid=0)])),
        assurance=draw(st.sampled_from(Assurance)),
        results=tuple(
            ApplicationResult(name, draw(st.sampled_from(Status)), tuple(draw(digests)), 0)
            for name in draw(st.lists(st.sampled_from(["shop", "base"]), unique=True))
        ),
        code_set=draw(codes).digest,
        state=draw(st.sampled_from(AttestationState)),
        refreshed_at=draw(times),
        expires_at=draw(times),
    )


leases = st.builds(
    lambda number, owner, state, due, ends, handle, request: lease(
        number,
        attestation_id=f"att-{owner:06}",
        state=state,
        next_attempt_at=due,
        expires_at=ends,
        handle=handle,
        request_id=request,
    ),
    numbers,
    numbers,
    st.sampled_from(LeaseState),
    times,
    times,
    st.sampled_from(["", "h1", "h2", "h1:a", "h1:b"]),
    st.sampled_from(["", "r1"]),
)
selectors = st.one_of(
    st.builds(Selector, st.just(SelectorKind.ATTESTATION), ids("att")),
    st.builds(
        Selector,
        st.sampled_from([SelectorKind.KEY, SelectorKind.MANIFEST, SelectorKind.DIGEST]),
        st.one_of(units.map(lambda name: digest(name).hex()), st.just(digest("key-1").hex()), st.just("zz")),
    ),
    st.builds(
        Selector,
        st.sampled_from(SelectorKind),
        st.sampled_from(
            ["", "node-1", "n", "c", "pod-1", "container-2", identity("a").name, process_value(process(1))]
        ),
    ),
)
heads = st.builds(
    LogHead, st.sampled_from(["log-2", "log-3"]), st.sampled_from([1, 100, 200, 2**40]), st.just(b"h" * 32)
)
entries = st.lists(
    st.builds(
        lambda number, cut, until: entry(number, cut=cut, until=until),
        numbers,
        st.booleans(),
        st.none() | times,
    ),
    max_size=3,
)
revocations = st.builds(
    lambda number, state, at: revocation(number, state=state, at=at),
    numbers,
    st.sampled_from(RevocationState),
    times,
)
proposals = st.builds(
    lambda number, state, until: proposal(number, state=state, expires_at=until),
    numbers,
    st.sampled_from(ProposalState),
    times,
)
detections = st.builds(
    lambda number, event, state, at, hits, more: replace(
        detection(number, state=state, received_at=at, instances=tuple(hits), siblings=more),
        detection=replace(detection(number).detection, event_id=event),
    ),
    numbers,
    st.sampled_from(["e1", "e2"]),
    st.sampled_from(DetectionState),
    times,
    id_lists("att"),
    st.integers(0, 3),
)
manifests = st.builds(
    lambda version, name, state: manifest(version, name, state=state),
    numbers,
    st.sampled_from(["shop", "base"]),
    st.sampled_from(ManifestState),
)
manifest_digests = st.builds(
    lambda name, version: digest(f"{name}/{version}"), st.sampled_from(["shop", "base"]), numbers
)
hints = st.lists(
    st.builds(UnitHint, units.map(digest), st.text("xy", max_size=2), st.text("xy", max_size=2)), max_size=3
)
identities = st.sampled_from(["a", "b"])
budgets = st.sampled_from([0, 5_000, 10_000, 1_000_000])
applications = st.sampled_from(["", "shop", "base"])

METHODS: dict[str, tuple[Any, ...]] = {
    "attestations.add": (attestations(),),
    "attestations.get": (ids("att"),),
    "attestations.refresh": (attestations(),),
    "attestations.end": (id_lists("att"), st.sampled_from(list(AttestationState)[1:])),
    "attestations.alive_by": (selectors, limits, ids("att")),
    "attestations.loaded": (digests, times, limits),
    "attestations.count_alive": (st.sampled_from(["", identity("a").name, "nobody"]),),
    "attestations.due": (times, limits),
    "code.put": (codes,),
    "code.get": (codes.map(lambda code: code.digest),),
    "code.contains": (codes.map(lambda code: code.digest), digests),
    "code.index": (codes, st.sampled_from([0, 1, 2, 100])),
    "code.indexed": (codes.map(lambda code: code.digest),),
    "code.put_names": (codes.map(lambda code: code.digest), identities, hints),
    "code.names": (codes.map(lambda code: code.digest), identities),
    "code.prune": (budgets, budgets, limits),
    "leases.open": (leases,),
    "leases.get": (ids("lea"),),
    "leases.by_request": (ids("att"), st.sampled_from(["", "r1"])),
    "leases.by_handle": (st.sampled_from(["", "h1", "h2"]),),
    "leases.by_stem": (st.sampled_from(["", "h1", "h2", "h"]),),
    "leases.replace": (leases, st.sampled_from(LeaseState)),
    "leases.begin_revoking": (id_lists("att"),),
    "leases.of_attestation": (ids("att"),),
    "leases.page": (some(LeaseState), limits, ids("lea"), ids("att")),
    "leases.due": (times, limits),
    "leases.unsettled": (id_lists("att"),),
    "leases.count": (),
    "revocations.head": (),
    "revocations.append": (entries,),
    "revocations.since": (numbers, limits),
    "revocations.entry": (numbers,),
    "revocations.live": (),
    "revocations.prune": (st.lists(numbers, max_size=2),),
    "revocations.begin_anew": (heads, st.just("dec-000001")),
    "revocations.restored": (),
    "revocations.put": (revocations,),
    "revocations.get": (ids("rev"),),
    "revocations.newest": (limits, st.sampled_from(RevocationState)),
    "revocations.page": (limits, ids("rev"), st.none() | st.sampled_from(RevocationState)),
    "revocations.hit": (ids("rev"), id_lists("att")),
    "revocations.hits": (ids("rev"), limits, ids("att")),
    "proposals.put": (proposals,),
    "proposals.get": (ids("rev"),),
    "proposals.page": (limits, ids("rev")),
    "proposals.waiting": (times,),
    "detections.add": (detections,),
    "detections.get": (ids("det"),),
    "detections.decide": (detections,),
    "detections.by_event": (st.just("falco"), st.sampled_from(["e1", "e2"])),
    "detections.applied_instances": (st.just("falco"), times),
    "detections.denied_instances": (st.just("falco"), times),
    "detections.siblings": (st.just("falco"), times, st.booleans()),
    "detections.page": (some(DetectionState), limits, ids("det")),
    "decisions.add": (st.builds(lambda number, at: decision(number, at=at), numbers, times),),
    "decisions.get": (ids("dec"),),
    "decisions.page": (times, limits, ids("dec")),
    "roles.record": (st.builds(lambda text: role(bytes(32), text), st.sampled_from(["a", "b"])), times),
    "roles.text": (st.just(bytes(32)),),
    "manifests.add": (manifests,),
    "manifests.add_signatures": (
        manifest_digests,
        st.binary(max_size=2),
        st.lists(st.sampled_from("ab"), max_size=2),
    ),
    "manifests.get": (manifest_digests,),
    "manifests.by_version": (applications, numbers),
    "manifests.of_application": (applications, some(ManifestState)),
    "manifests.set_state": (manifest_digests, st.sampled_from(ManifestState)),
    "manifests.floor": (applications,),
    "manifests.raise_floor": (applications, numbers),
    "manifests.lower_floor": (applications, numbers),
    "manifests.reached": (applications,),
    "manifests.last_index": (applications,),
    "manifests.put_index": (applications, numbers, st.binary(max_size=2)),
    "manifests.digests_of_package": (st.sampled_from(["pkg:pypi/app@1", "pkg:deb/libc6@2", ""]),),
    "manifests.packages_of_digests": (
        st.lists(st.sampled_from([digest("app"), digest("libc"), b"x"]), max_size=3),
    ),
    "replays.claim": (st.sampled_from(["proof", "nonce"]), st.binary(max_size=1), times),
    "replays.prune": (times, limits),
}

# Families that touch one another; a run stays in one, or it would seldom meet what it wrote.
FAMILIES = [
    ("attestations", "code"),
    ("leases",),
    ("revocations",),
    ("detections",),
    ("detections", "revocations"),
    ("decisions", "roles", "replays"),
    ("manifests",),
]


def transactions(
    families: tuple[str, ...],
) -> st.SearchStrategy[list[tuple[str, list[tuple[str, tuple[Any, ...]]]]]]:
    """Transactions: how each ends (or that it only reads), and what it does."""
    names = [name for name in METHODS if name.partition(".")[0] in families]
    operation = st.sampled_from(names).flatmap(
        lambda name: st.tuples(st.just(name), st.tuples(*METHODS[name]))
    )
    ends = st.sampled_from(["commit", "commit", "commit", "raise", "read"])
    return st.lists(st.tuples(ends, st.lists(operation, min_size=1, max_size=10)), min_size=1, max_size=10)


class Undone(Exception):
    """Ends a transaction that must leave nothing."""


def plain(value: Any) -> Any:
    """A result, so that equal sequences compare equal whatever their type."""
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, list | tuple) else value


async def perform(state: StateStore, how: str, operations: list[tuple[str, tuple[Any, ...]]]) -> list[Any]:
    """What each operation gave or raised."""
    seen: list[Any] = []

    async def work(tx: Transaction) -> None:
        seen.clear()
        for name, arguments in operations:
            family, method = name.split(".")
            try:
                result = await getattr(getattr(tx, family), method)(*arguments)
            except (LockstepError, Misuse) as error:
                seen.append(type(error))
            else:
                seen.append(plain(result))
        if how == "raise":
            raise Undone

    try:
        await (state.read if how == "read" else state.transact)(work)
    except (Undone, Misuse) as error:
        seen.append(type(error))
    return seen


async def everything(state: StateStore) -> list[Any]:
    """Whatever can be listed."""
    asked: list[tuple[str, tuple[Any, ...]]] = [
        ("attestations.count_alive", ()),
        ("attestations.due", (NOW + 1e9, 100)),
        ("attestations.loaded", ([digest(name) for name in "abcd"], 0.0, 100)),
        *(("attestations.get", (f"att-{number:06}",)) for number in range(1, 6)),
        ("leases.page", ([], 100)),
        ("leases.due", (NOW + 1e9, 100)),
        ("revocations.head", ()),
        ("revocations.live", ()),
        ("revocations.page", (100,)),
        *(("revocations.hits", (f"rev-{number:06}", 100)) for number in range(1, 6)),
        ("detections.page", ([], 100)),
        ("decisions.page", (0.0, 100)),
        ("manifests.of_application", ("", [])),
        *(("code.names", (code_set(*names).digest, "a")) for names in ("", "a", "b", "c", "d")),
        *(("code.get", (code_set(*names).digest,)) for names in ("", "a", "b", "c", "d")),
    ]
    return await perform(state, "read", asked)


@pytest.mark.parametrize("families", FAMILIES, ids="+".join)
@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(data=st.data())
def test_the_twins_agree(families: tuple[str, ...], data: st.DataObject) -> None:
    done = data.draw(transactions(families))

    async def run(path: Path) -> None:
        memory = MemoryState(log_id=CounterEntropy().token(16).hex())
        sqlite = await SqliteState.open(path, FakeClock(), CounterEntropy())
        try:
            for how, operations in done:
                expected = await perform(memory, how, operations)
                assert await perform(sqlite, how, operations) == expected, operations
            assert await everything(sqlite) == await everything(memory)
        finally:
            await sqlite.close()
        again = await SqliteState.open(path, FakeClock(), CounterEntropy())
        try:
            assert await everything(again) == await everything(memory)
        finally:
            await again.close()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder) / "state.db"))
