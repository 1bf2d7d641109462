"""What there is, page by page: nothing twice, nothing left out, and only what was asked for."""

from __future__ import annotations

from broker.model.attestation import AttestationState
from broker.model.detection import DetectionState
from broker.model.identity import InstanceClaims
from broker.model.manifest import ManifestUnit
from broker.model.reach import EVERYTHING
from broker.model.requests import AttestationQuery
from broker.model.revocation import RevocationState, SelectorKind
from tests.support.house import House
from tests.support.manifests import unit

ANY: frozenset[AttestationState] = frozenset()


async def test_instances_page_by_page() -> None:
    house = await House.open()
    everyone = [(await house.attested()).id for _ in range(5)]
    seen: list[str] = []
    after = ""
    while True:
        page = await house.overseer.attestations(EVERYTHING, AttestationQuery(), ANY, 2, after)
        assert len(page.items) <= 2
        seen += [item.id for item in page.items]
        after = page.next
        if not after:
            break
    assert seen == everyone


async def test_a_page_may_hold_less_than_it_looked_at_and_not_be_the_last() -> None:
    house = await House.open()
    workloads = [await house.attested() for _ in range(4)]
    await house.revoke(SelectorKind.ATTESTATION, workloads[3].id)
    gone = frozenset({AttestationState.REVOKED})
    first = await house.overseer.attestations(EVERYTHING, AttestationQuery(), gone, 2, "")
    assert (first.items, first.next) == ((), workloads[1].id)
    second = await house.overseer.attestations(EVERYTHING, AttestationQuery(), gone, 2, first.next)
    assert [item.id for item in second.items] == [workloads[3].id]


async def test_instances_by_what_they_have_loaded_and_by_whose_they_are() -> None:
    house = await House.open()
    await house.publish(2, "app", "lib", ManifestUnit(unit("numpy"), package="pkg:pypi/numpy@2.0"))
    plain, with_numpy = await house.attested(), await house.attested("app", "numpy")

    async def found(**query: object) -> list[str]:
        page = await house.overseer.attestations(EVERYTHING, AttestationQuery(**query), ANY, 10, "")  # type: ignore[arg-type]
        return [item.id for item in page.items]

    assert await found(digest=unit("numpy").digest) == [with_numpy.id]
    assert await found(package="pkg:pypi/numpy@2.0") == [with_numpy.id]
    assert await found(package="pkg:pypi/numpy@1.0") == []
    assert await found(digest=unit("app").digest) == [plain.id, with_numpy.id]
    assert await found(identity=plain.identity.name) == [plain.id, with_numpy.id]
    assert await found(identity="https://elsewhere.example|x") == []
    assert await found(digest=unit("app").digest, identity="https://elsewhere.example|x") == []
    assert await found(since=house.now + 1) == []


async def test_reports_and_revocations_since_a_moment() -> None:
    house = await House.open()
    first = await house.attested(place=InstanceClaims("node-1", "pod-1", ""))
    await first.report_self()
    await house.tick(60)
    moment = house.now
    second = await house.attested(place=InstanceClaims("node-1", "pod-2", ""))
    await second.report_self()
    reports = await house.overseer.detections(EVERYTHING, (), 0.0, 10, "")
    assert [item.state for item in reports.items] == [DetectionState.APPLIED] * 2
    assert len((await house.overseer.detections(EVERYTHING, (), moment, 10, "")).items) == 1
    assert (await house.overseer.detections(EVERYTHING, (DetectionState.HELD,), 0.0, 10, "")).items == ()
    revocations = await house.overseer.revocations(EVERYTHING, frozenset(), 0.0, 10, "")
    assert len(revocations.items) == 2
    [late] = (await house.overseer.revocations(EVERYTHING, frozenset(), moment, 10, "")).items
    assert late == revocations.items[1]
    one = await house.overseer.revocations(EVERYTHING, frozenset(), 0.0, 1, "")
    assert one.next == one.items[0].id
    assert (await house.overseer.revocations(EVERYTHING, frozenset(), 0.0, 1, one.next)).items == (late,)
    settled = await house.overseer.revocations(EVERYTHING, frozenset({RevocationState.SETTLED}), 0.0, 10, "")
    assert all(item.state is RevocationState.SETTLED for item in settled.items)


async def test_decisions_since_a_moment_and_no_page_is_endless() -> None:
    house = await House.open()
    await house.attested()
    await house.tick(60)
    moment = house.now
    workload = await house.attested()
    await workload.issue()
    everything = (await house.overseer.decisions(EVERYTHING, 0.0, 100_000, "")).items
    late = (await house.overseer.decisions(EVERYTHING, moment, 100, "")).items
    assert 0 < len(late) < len(everything)
    assert {item.at >= moment for item in late} == {True}
    assert len((await house.overseer.decisions(EVERYTHING, 0.0, 0, "")).items) == 1
