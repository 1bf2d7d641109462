"""Retention: tables stay flat however long a broker serves, and what is still needed stays."""

from __future__ import annotations

from dataclasses import replace

from broker.model.credential import LeaseState
from broker.model.detection import DetectionState
from broker.model.revocation import SelectorKind
from broker.upkeep.limits import UpkeepLimits
from tests.contract.state.nouns import decision, detection
from tests.support.house import DAY, House


async def counts(house: House) -> tuple[int, int]:
    """(decisions, leases)."""
    return len(await house.decisions()), len(await house.leases())


async def settle(house: House) -> None:
    """Enough turns of upkeep for whatever is due."""
    for _ in range(4):
        await house.tick(20)


async def news(house: House) -> None:
    """A decision of now, safe in the audit log: without one, nothing of before is dropped."""
    made = decision(7_000_000 + int(house.now) % 900_000, at=house.now, attestation_id="", revocation_id="")
    await house.state.transact(lambda tx: tx.decisions.add(made))
    house.people.audit.append(made)


async def test_rows_stay_flat_under_churn() -> None:
    house = await House.open(
        upkeep_limits=UpkeepLimits(
            look_again=0.0, keep_leases=DAY, keep_detections=DAY, keep_decisions=2 * DAY
        )
    )
    seen = []
    for _ in range(6):
        workload = await house.attested(not_after=house.now + DAY)
        await workload.issue("api")
        await workload.issue("db")
        await house.tick(400)
        await house.tick(10 * DAY)
        await news(house)
        await settle(house)
        seen.append(await counts(house))
    assert seen[-1][1] == 0
    # What stays of each turn is what says when it was: the news, at most that of the turn before.
    assert seen[-1] == seen[-2] == seen[-3]
    assert len(house.people.audit) > 3 * seen[-1][0]
    assert not house.errors


async def test_a_living_instance_and_its_lease_stay() -> None:
    house = await House.open()
    workload = await house.attested()
    lease = (await workload.issue("api")).lease
    row = await workload.row()
    other = await house.attested()
    gone = (await other.issue("api")).lease
    far = house.now + 400 * DAY
    living = replace(row, expires_at=far)
    kept = replace(await house.lease(lease.id), expires_at=far, max_expires_at=far)
    await house.state.transact(lambda tx: tx.attestations.refresh(living))
    await house.state.transact(lambda tx: tx.leases.replace(kept, LeaseState.ACTIVE))
    await house.tick(400)
    await house.tick(200 * DAY)
    await news(house)
    await settle(house)
    assert (await house.lease(lease.id)).state is LeaseState.ACTIVE
    there = {item.id for item in await house.decisions()}
    assert {row.decision_id, lease.decision_id} <= there
    assert gone.decision_id not in there
    assert gone.id not in {item.id for item in await house.leases()}


async def test_what_was_banned_and_what_is_held_stays_explained() -> None:
    house = await House.open()
    workload = await house.attested()
    done = await house.revoke(SelectorKind.ATTESTATION, workload.id)
    await settle(house)
    held = detection(1, state=DetectionState.HELD, received_at=house.now, revocation_id="")
    applied = detection(2, received_at=house.now, revocation_id="")
    why = decision(1, at=house.now, detection_id=held.id, revocation_id="", attestation_id="")
    await house.state.transact(lambda tx: tx.detections.add(held))
    await house.state.transact(lambda tx: tx.detections.add(applied))
    await house.state.transact(lambda tx: tx.decisions.add(why))
    await house.tick(500 * DAY)
    await news(house)
    await settle(house)
    assert await house.look(lambda tx: tx.decisions.get(done.decision_id)) is not None
    assert await house.look(lambda tx: tx.decisions.get(why.id)) is not None
    assert await house.look(lambda tx: tx.detections.get(held.id)) is not None
    assert await house.look(lambda tx: tx.detections.get(applied.id)) is None


async def test_a_decision_that_is_not_safe_in_the_audit_log_stays() -> None:
    house = await House.open()
    workload = await house.attested()
    await workload.issue("api")
    before = len(await house.decisions())
    written, house.people.audit = house.people.audit, []
    await house.tick(200 * DAY)
    await settle(house)
    assert len(await house.decisions()) == before
    # Nor does one go that is about as new as the last that is safe.
    house.people.audit = written
    await settle(house)
    assert len(await house.decisions()) == before
    await news(house)
    await settle(house)
    assert len(await house.decisions()) < before
