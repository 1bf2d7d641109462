"""The verbs on the real state: one story through all of them, with a crowd at once and a restart in the middle."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from broker.adapters.state.sqlite import SqliteState
from broker.errors import Denied, Unauthenticated
from broker.model.attestation import AttestationState
from broker.model.credential import LeaseState
from broker.model.detection import DetectionState
from broker.model.evidence import Assurance, ProcessRef
from broker.model.identity import InstanceClaims
from broker.model.manifest import ManifestUnit
from broker.model.requests import AttestAnswer, IssueAnswer
from broker.model.revocation import EntryKind, SelectorKind
from broker.model.role import AfterRevocation, Cap, Mode
from lockstep.formats import Reason
from tests.fakes.clock import FakeClock
from tests.fakes.entropy import CounterEntropy
from tests.support.house import HOUR, START, House, book, policy, role
from tests.support.manifests import unit

PACKAGE = "pkg:pypi/lib@1.0"


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    clock = FakeClock(START)
    state = await SqliteState.open(tmp_path / "state.db", clock, CounterEntropy("state"))
    found = await House.open(
        role("api", after_revocation=AfterRevocation.RETRY),
        role("db", backend="db", after_revocation=AfterRevocation.RETRY),
        state=state,
        clock=clock,
        publish=False,
    )
    await found.publish(1, "app", "extra", ManifestUnit(unit("lib"), package=PACKAGE))
    yield found
    await state.close()


async def test_the_whole_story(house: House) -> None:
    place = InstanceClaims(node="node-1", pod_uid="pod-1")
    workload = await house.attested("app", "lib", place=place)
    spared = await house.attested("app", place=InstanceClaims(node="node-2", pod_uid="pod-2"))
    api, db, other = await workload.issue("api"), await workload.issue("db"), await spared.issue("api")
    house.clock.advance(10)
    await workload.reattest("extra")
    assert (await workload.renew(api.lease.id)).lease.expires_at == house.now + 120
    assert (await workload.renew(db.lease.id)).credential is None
    assert await workload.good(api)
    answer = await house.report(pod_uid="pod-1", event="e-1")
    assert answer.state is DetectionState.APPLIED
    assert (await house.report(pod_uid="pod-1", event="e-1")).state is DetectionState.DUPLICATE
    assert (await house.report(pod_uid="pod-1")).state is DetectionState.DUPLICATE
    assert not await workload.good(api)
    assert (await house.attest_refusal(house.workload(place=place), "app")).reason is Reason.BANNED
    await house.start()
    await house.tick(1)
    assert house.db.living == {}
    assert await spared.good(other)
    revocation = await house.only_revocation()
    receipt = json.loads(await house.receipt(revocation.id))
    assert (receipt["attestations"], receipt["leases"]) == (1, 2)
    await house.lift(revocation.id)
    await house.workload(place=place).attest("app")
    assert (await house.issue_refusal(workload)).reason is Reason.REVOKED


async def test_a_wide_revocation_finds_whom_it_hits(house: House) -> None:
    fleet = [await house.attested("app", "lib") for _ in range(220)]
    spared = await house.attested("app")
    db = await fleet[7].issue("db")
    made = await house.revoke(SelectorKind.PACKAGE, PACKAGE)
    assert made.attestations == 220
    await house.tick()
    assert {(await item.row()).state for item in fleet} == {AttestationState.REVOKED}
    assert (await spared.row()).state is AttestationState.ALIVE
    assert (await house.lease(db.lease.id)).state is LeaseState.REVOKED
    assert (await house.log())[-1].body.kind is EntryKind.EXPANDED
    await house.tick(9)
    assert json.loads(await house.receipt(made.revocation_id))["attestations"] == 220


async def test_a_crowd_at_once(house: House) -> None:
    workload = house.workload()
    nonce = workload.challenge()
    orders = [workload.order("app", nonce=nonce) for _ in range(50)]
    results = await asyncio.gather(*(workload.send(item) for item in orders), return_exceptions=True)
    assert sum(isinstance(item, AttestAnswer) for item in results) == 1
    caller = workload.caller()
    issued = await asyncio.gather(
        *(house.issuer.issue(caller, "db", f"r-{number}") for number in range(20)), return_exceptions=True
    )
    assert sum(isinstance(item, IssueAnswer) for item in issued) == 1
    assert sum(isinstance(item, Unauthenticated) for item in issued) == 19
    again = [workload.later("lib"), workload.later("extra")]
    proofs = [house.proof(workload.thumbprint) for _ in again]
    both = await asyncio.gather(
        *(house.verifier.reattest(order, use) for order, use in zip(again, proofs, strict=True)),
        return_exceptions=True,
    )
    assert sorted(type(item).__name__ for item in both) == ["AttestAnswer", "Conflict"]


async def test_a_flood_of_reports_stays_under_the_cap(house: House) -> None:
    detector = policy(cap=Cap(3, 1.0, HOUR))
    fleet = [
        await house.attested(
            "app", level=Assurance.WITNESSED, process=ProcessRef("n", "b", number + 1, 1, 0, f"c-{number}")
        )
        for number in range(12)
    ]
    answers = await asyncio.gather(*(house.report(detector=detector, attestation=item.id) for item in fleet))
    states = [item.state for item in answers]
    assert (states.count(DetectionState.APPLIED), states.count(DetectionState.HELD)) == (3, 9)


async def test_what_is_only_judged_is_one_row_and_what_is_kept_is_found(house: House, tmp_path: Path) -> None:
    house.people.book = book(role("api", mode=Mode.OBSERVE), role("strict"))
    names = [f"unit {number}" for number in range(1200)]
    counts = []
    with closing(sqlite3.connect(tmp_path / "state.db")) as connection:

        def members() -> int:
            return int(connection.execute("SELECT count(*) FROM code_set_units").fetchone()[0])

        counts.append(members())
        await house.workload().attest(*names, roles=("strict",), dry_run=True)
        with pytest.raises(Denied):
            await house.workload().attest(*names, roles=("strict",))
        counts.append(members())
        workload = await house.attested(*names)
        counts.append(members())
        await house.attested(*names)
        counts.append(members())
    assert [count - counts[0] for count in counts] == [0, 0, 1200, 1200]
    await house.revoke(SelectorKind.DIGEST, unit(names[-1]).digest.hex())
    await house.tick()
    assert (await workload.row()).state is AttestationState.REVOKED


async def test_revoked_in_the_middle_of_an_issue(house: House) -> None:
    workload = await house.attested("app")
    house.db.meanwhile("issue", lambda: house.revoke(SelectorKind.ATTESTATION, workload.id))
    with pytest.raises(Denied):
        await workload.issue("db")
    await house.tick()
    assert house.db.living == {}
    assert [item.state for item in await house.leases()] == [LeaseState.REVOKED]
