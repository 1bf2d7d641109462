"""Restore: whatever a copy knows of ends, whatever it has forgotten is asked about, and the log begins anew."""

from __future__ import annotations

import pytest

from broker.errors import InvalidRequest, LockstepError
from broker.model.attestation import AttestationState
from broker.model.credential import LeaseState
from broker.model.decision import DecisionKind, Effect
from broker.model.identity import InstanceClaims
from broker.model.revocation import SelectorKind
from broker.restore import STRIDE, Restored, Restorer
from lockstep.formats import Reason
from tests.support.house import House


async def a_house() -> House:
    house = await House.open(publish=False)
    await house.publish(1, "app")
    return house


async def begin_anew(house: House, **changes: str) -> Restored:
    """The command, and the start after it."""
    words = {"actor": "console:ann", "reason": "the disk was lost", "ticket": "INC-1", **changes}
    restorer = Restorer(clock=house.clock, entropy=house.entropy, state=house.state)
    done = await restorer.restored(**words)
    await house.start()
    return done


async def test_what_the_copy_knows_is_taken_back_and_may_come_again() -> None:
    house = await a_house()
    places = [InstanceClaims(pod_uid=f"p{number}") for number in range(3)]
    workloads = [await house.attested("app", place=place) for place in places]
    issued = [await workload.issue(role) for workload in workloads for role in ("api", "db")]
    await house.revoke(SelectorKind.ATTESTATION, workloads[0].id)
    await house.tick(9)
    before = house.feed.denials.head
    done = await begin_anew(house)
    # The one that was revoked before is none of its business.
    assert (done.instances, done.leases) == (2, 4)
    assert [(await workload.row()).state for workload in workloads] == [AttestationState.REVOKED] * 3
    assert not any([await workloads[0].good(answer) for answer in issued])
    await house.tick(9)
    assert await house.leases(LeaseState.REVOKED, LeaseState.EXPIRED) == await house.leases()
    assert house.db.living == {}
    assert done.before == before
    assert (await house.look(lambda tx: tx.revocations.head())).log_id == done.head.log_id != before.log_id
    # What was banned before the copy was made stays away; from the others their way back is not taken.
    assert (await house.attest_refusal(workloads[0], "app")).reason is Reason.BANNED
    await workloads[1].attest("app")
    assert await workloads[1].good(await workloads[1].issue())


async def test_positions_lie_beyond_any_that_the_lost_log_had() -> None:
    house = await a_house()
    copy = house.state._tables.copy()
    lost = [await house.attested("app") for _ in range(2)]
    for number in range(5):
        await house.revoke(SelectorKind.NODE, f"n{number}")
    late = await house.attested("app")
    assert late.answer is not None
    house.state._tables = copy
    first = await begin_anew(house)
    assert first.head.seq == STRIDE > late.answer.as_of
    again = await begin_anew(house)
    assert again.head.seq == 2 * STRIDE
    assert len({first.before.log_id, first.head.log_id, again.head.log_id}) == 3
    # Whoever attests from here on was granted after it.
    new = await house.attested("app")
    assert new.answer is not None
    assert new.answer.as_of >= again.head.seq
    await house.revoke(SelectorKind.ATTESTATION, new.id)
    assert (await house.log())[0].seq == 2 * STRIDE + 1
    for workload in lost:
        with pytest.raises(LockstepError):
            await workload.issue()


async def test_it_is_a_decision_with_a_reason() -> None:
    house = await a_house()
    workload = await house.attested("app")
    for reason, ticket in (("", ""), (" ", ""), ("r\x00", ""), ("r" * 1001, ""), ("r", "\x1b[2J")):
        with pytest.raises(InvalidRequest):
            await begin_anew(house, reason=reason, ticket=ticket)
    assert (await workload.row()).state is AttestationState.ALIVE
    assert await house.look(lambda tx: tx.revocations.restored()) is None
    done = await begin_anew(house)
    stored = await house.look(lambda tx: tx.decisions.get(done.decision.id))
    assert stored == done.decision
    assert (stored.kind, stored.effect, stored.actor, stored.ticket, stored.instances) == (
        DecisionKind.REVOKE,
        Effect.REVOKED,
        "console:ann",
        "INC-1",
        (workload.id,),
    )
    assert "the disk was lost" in stored.detail


async def test_more_instances_than_one_batch() -> None:
    house = await a_house()
    for _ in range(5):
        await house.attested("app")
    restorer = Restorer(clock=house.clock, entropy=house.entropy, state=house.state, batch=2)
    assert (await restorer.restored("console:ann", "the disk was lost", "")).instances == 5
    assert (await begin_anew(house)).instances == 0
