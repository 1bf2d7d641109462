"""What somebody hears of an end is what has ended it; and what ends, ends with everything that hangs on it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from broker.errors import Denied, LockstepError, Unavailable
from broker.issue import IssueLimits
from broker.ledger import Denial, Target, write
from broker.model.account import AccountState
from broker.model.credential import Grant, Issued, LeaseState
from broker.model.decision import Decision, DecisionKind, Effect
from broker.model.evidence import Assurance, ProcessRef
from broker.model.identity import IdentityMatch
from broker.model.revocation import Selector, SelectorKind
from lockstep.formats import Reason
from tests.support.house import House, role
from tests.support.manifests import unit
from tests.unit.verbs.test_accounts import accounts, opened


async def test_an_attestation_that_ends_while_a_backend_is_slow_has_expired() -> None:
    house = await House.open()
    workload = await house.attested()

    async def slow() -> None:
        house.clock.advance((await workload.row()).expires_at - house.now + 1)
        await house.tick()

    house.db.meanwhile("issue", slow)
    with pytest.raises(Denied) as caught:
        await workload.issue("db")
    assert caught.value.reason is Reason.ATTESTATION_EXPIRED
    assert house.state._tables.log == {}
    await house.tick(1)
    assert house.db.living == {}


async def test_a_renewal_is_not_answered_after_a_denial_that_was() -> None:
    house = await House.open()
    workload = await house.attested()
    lease = (await workload.issue("db")).lease
    house.clock.advance(10)
    await workload.reattest()
    renew = house.db.renew

    async def shorter(grant: Grant) -> Issued | None:
        found = await renew(grant)
        assert found is not None
        # The next write is that of the shorter life.
        house.state.before_write(1, revoked)
        return replace(found, expires_at=house.now + 30)

    async def revoked() -> None:
        await house.revoke(SelectorKind.ATTESTATION, workload.id)

    house.db.renew = shorter  # type: ignore[method-assign]
    with pytest.raises(Denied) as caught:
        await workload.renew(lease.id)
    assert caught.value.reason is Reason.REVOKED


async def test_an_instance_that_the_fence_ends_loses_its_accounts() -> None:
    house, _ = await opened()
    workload = await house.attested("app")
    lease = (await workload.issue("db")).lease
    await house.issuer.give_back(workload.caller(), lease.id)
    await house.tick(1)

    async def meanwhile() -> None:
        await house.revoke(SelectorKind.DIGEST, unit("lib").digest.hex(), ban=False)
        await house.tick()
        await house.tick(1)

    house.state.before_write(1, meanwhile)
    with pytest.raises(Denied):
        await workload.reattest("lib")
    await house.start()
    for _ in range(10):
        await house.tick(1.0)
    [account] = await accounts(house, workload)
    assert account.state is AccountState.CLOSED


async def test_a_denial_that_the_poll_has_applied_ends_its_anticipation() -> None:
    house = await House.open()
    workload = await house.attested()
    read = house.feed.catch_up
    decision = Decision("D-lost", DecisionKind.REVOKE, house.now, Reason.REVOKED, Effect.REVOKED)
    # One whose announcer was cancelled: the next is ahead of what this broker has applied.
    target = Target(Selector(SelectorKind.LEASE, "L-none"), cut=True, ban=False)
    lost = Denial("V-lost", (target,), (), False, "x", "y", decision, house.now)
    await house.state.transact(lambda tx: write(tx, lost))

    async def applied_and_not_known() -> int:
        await read()
        raise Unavailable(Reason.STATE_UNAVAILABLE, "too much waits")

    house.feed.catch_up = applied_and_not_known  # type: ignore[method-assign]
    await house.revoke(SelectorKind.IDENTITY, workload.identity.name, ban=False)
    house.feed.catch_up = read  # type: ignore[method-assign]
    assert not house.feed.denials.anticipating
    await house.workload().attest("app")


async def test_every_lease_of_an_attestation_ends_with_it() -> None:
    house = await House.open(issue_limits=IssueLimits(leases=1000))
    workload = await house.attested()
    for _ in range(230):
        await workload.issue("db")
    row = await workload.row()
    await house.state.transact(lambda tx: tx.attestations.refresh(replace(row, expires_at=house.now + 5)))
    house.clock.advance(6)
    for _ in range(4):
        await house.upkeep.tick()
        house.clock.advance(0.5)
    assert not await house.leases(LeaseState.ACTIVE)
    assert house.db.living == {}


async def test_a_backend_that_a_reload_takes_away_finishes_its_renewal() -> None:
    house = await House.open()
    workload = await house.attested()
    lease = (await workload.issue("api")).lease
    house.clock.advance(10)
    await workload.reattest()

    async def reloaded() -> None:
        del house.backends["tokens"]

    house.state.before_write(1, reloaded)
    renewed = await workload.renew(lease.id)
    assert renewed.lease.id == lease.id
    with pytest.raises(LockstepError) as caught:
        await workload.issue("api")
    assert caught.value.reason is Reason.NOT_ENTITLED


async def test_one_of_many_hears_nothing_of_the_others() -> None:
    house = await House.open(role("api"), role("orders", identity=IdentityMatch("oidc", subject="orders")))

    def at(pid: int) -> ProcessRef:
        return ProcessRef(node="node-1", boot_id="b", pid=pid, start_ticks=9, container_id=f"c-{pid}")

    both = [
        await house.attested("app", "lib", level=Assurance.WITNESSED, process=at(7)),
        await house.attested("app", subject="orders", level=Assurance.WITNESSED, process=at(8)),
    ]
    answer = await house.report(node="node-1", code="evil")
    (decision,) = [item for item in await house.decisions() if item.id == answer.decision_id]
    assert set(decision.instances) == {workload.id for workload in both}
    for workload in both:
        told = await house.explainer.explain(workload.caller(), answer.decision_id, True)
        mine = decision.identity == workload.identity.name
        assert told.decision.findings == decision.findings
        assert told.decision.detail == decision.detail
        if not mine:
            assert told.decision.identity == told.decision.attestation_id == told.decision.actor == ""
            assert told.decision.instances == (workload.id,)
            assert told.code_set is None
            assert told.hints == ()
    assert len({decision.identity, *(workload.identity.name for workload in both)}) == 2


async def test_who_hangs_up_at_the_commit_takes_nothing_from_the_record() -> None:
    house = await House.open()
    workload = await house.attested()
    gone = asyncio.Event()

    async def hangs_up() -> None:
        calling.cancel()
        gone.set()

    house.state.before_write(1, hangs_up)
    calling = asyncio.create_task(house.revoke(SelectorKind.ATTESTATION, workload.id))
    with pytest.raises(asyncio.CancelledError):
        await calling
    assert gone.is_set()
    # Whoever comes now waits for what is being decided.
    assert (await house.issue_refusal(workload)).reason is Reason.REVOKED
    assert not house.feed.denials.anticipating
    revoked = [item for item in await house.decisions() if item.effect is Effect.REVOKED]
    assert revoked
    assert all(item in house.people.audit for item in revoked)
