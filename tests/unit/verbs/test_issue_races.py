"""A credential between two steps: whatever happens there, none is alive that the broker does not know of."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from broker.errors import Denied, LockstepError, Unavailable
from broker.model.credential import LeaseState
from broker.model.decision import DecisionKind, Effect
from broker.model.requests import IssueAnswer
from broker.model.revocation import SelectorKind
from lockstep.formats import Reason
from tests.support.house import House, Workload
from tests.support.manifests import unit

Revoke = Callable[[House, Workload], Awaitable[object]]


async def _by_attestation(house: House, workload: Workload) -> object:
    return await house.revoke(SelectorKind.ATTESTATION, workload.id)


async def _by_identity(house: House, workload: Workload) -> object:
    return await house.revoke(SelectorKind.IDENTITY, "https://issuer.example|payments")


async def _by_digest(house: House, workload: Workload) -> object:
    return await house.revoke(SelectorKind.DIGEST, unit("lib").digest.hex(), ban=False)


async def _by_ban(house: House, workload: Workload) -> object:
    return await house.revoke(SelectorKind.KEY, workload.thumbprint.hex())


async def _by_report(house: House, workload: Workload) -> object:
    return await house.report(attestation=workload.id)


async def _and_cleaned(house: House, workload: Workload) -> object:
    made = await house.revoke(SelectorKind.ATTESTATION, workload.id)
    await house.tick()
    return made


async def _digest_and_cleaned(house: House, workload: Workload) -> object:
    made = await _by_digest(house, workload)
    await house.tick()
    return made


WAYS: list[Revoke] = [
    _by_attestation,
    _by_identity,
    _by_digest,
    _by_ban,
    _by_report,
    _and_cleaned,
    _digest_and_cleaned,
]


async def nothing_left(house: House) -> None:
    """After upkeep, and after the longest time that an answer may be on its way."""
    await house.tick()
    await house.tick(61)
    assert house.db.living == {}
    assert [item for item in await house.leases() if item.state.live] == []


class TestRevokedBetweenSteps:
    @pytest.mark.parametrize("revoke", WAYS)
    async def test_while_the_backend_makes_it(self, revoke: Revoke) -> None:
        house = await House.open()
        workload = await house.attested()
        house.db.meanwhile("issue", lambda: revoke(house, workload))
        with pytest.raises(Denied) as caught:
            await workload.issue("db")
        assert caught.value.reason is Reason.REVOKED
        decision = await house.look(lambda tx: tx.decisions.get(caught.value.decision_id))
        assert (decision.kind, decision.verdict, decision.effect) == (
            DecisionKind.ISSUE,
            Reason.REVOKED,
            Effect.REFUSED,
        )
        assert decision in house.people.audit
        assert house.db.living == {}
        await nothing_left(house)

    @pytest.mark.parametrize("write", [1, 2])
    @pytest.mark.parametrize("revoke", WAYS)
    async def test_right_before_each_commit_also_by_another_broker(self, revoke: Revoke, write: int) -> None:
        house = await House.open()
        here = house.issuer
        workload = await house.attested()
        await house.start()  # who revokes is another broker; this one learns of it by reading only
        house.state.before_write(write, lambda: revoke(house, workload))
        with pytest.raises(Denied) as caught:
            await here.issue(workload.caller(), "db", "r")
        assert caught.value.reason in (Reason.REVOKED, Reason.BANNED)
        assert house.db.living == {}
        await nothing_left(house)

    @pytest.mark.parametrize("revoke", WAYS)
    async def test_a_token_of_our_own(self, revoke: Revoke) -> None:
        house = await House.open()
        workload = await house.attested()
        house.tokens.meanwhile("issue", lambda: revoke(house, workload))
        with pytest.raises(Denied):
            await workload.issue("api")
        for lease in await house.leases():
            assert not (await house.issuer.introspect(lease.handle, None)).active

    @pytest.mark.parametrize("revoke", WAYS)
    async def test_while_it_is_renewed(self, revoke: Revoke) -> None:
        house = await House.open()
        workload = await house.attested()
        answer = await workload.issue("db")
        house.clock.advance(10)
        await workload.reattest()
        house.db.meanwhile("renew", lambda: revoke(house, workload))
        with pytest.raises(Denied):
            await workload.renew(answer.lease.id)
        assert not await workload.good(answer)
        await nothing_left(house)

    async def test_a_ban_alone_stops_what_is_being_made(self) -> None:
        house = await House.open()
        here = house.issuer
        workload = await house.attested()
        sibling = await house.attested()
        await house.start()
        # Its sibling falls, the identity waits for a lift: no cut of this one, and yet nothing new.
        house.state.before_write(2, lambda: house.revoke(SelectorKind.ATTESTATION, sibling.id))
        with pytest.raises(Denied) as caught:
            await here.issue(workload.caller(), "db", "r")
        assert caught.value.reason is Reason.BANNED
        await nothing_left(house)

    async def test_a_ban_alone_refuses_a_renewal_and_kills_nothing(self) -> None:
        house = await House.open()
        workload, sibling = await house.attested(), await house.attested()
        answer = await workload.issue("db")
        house.clock.advance(60)
        await workload.reattest()
        house.db.meanwhile("renew", lambda: house.revoke(SelectorKind.ATTESTATION, sibling.id))
        with pytest.raises(Denied) as caught:
            await workload.renew(answer.lease.id)
        assert caught.value.reason is Reason.BANNED
        decision = await house.look(lambda tx: tx.decisions.get(caught.value.decision_id))
        assert (decision.kind, decision.effect) == (DecisionKind.RENEW, Effect.REFUSED)
        row = await house.lease(answer.lease.id)
        assert (row.state, row.expires_at) == (LeaseState.ACTIVE, answer.lease.expires_at)
        assert await workload.good(answer)
        await nothing_left(house)

    async def test_what_does_not_concern_it_stops_nothing(self) -> None:
        house = await House.open()
        workload, other = await house.attested(), await house.attested(subject="watched")
        house.db.meanwhile("issue", lambda: house.revoke(SelectorKind.ATTESTATION, other.id))
        answer = await workload.issue("db")
        assert (await house.lease(answer.lease.id)).state is LeaseState.ACTIVE

    async def test_a_sibling_is_not_cut_while_a_taint_is_being_written(self) -> None:
        house = await House.open()
        workload, sibling = await house.attested(), await house.attested()
        api = await sibling.issue("api")
        seen = []

        async def look() -> None:
            seen.append(await sibling.good(api))

        house.state.before_write(1, look)
        await house.report(attestation=workload.id)
        assert seen == [True]


class TestBackendThatFails:
    async def test_its_lease_is_cleaned_and_not_forgotten(self) -> None:
        house = await House.open()
        workload = await house.attested()
        house.db.fail("issue")
        with pytest.raises(Unavailable) as caught:
            await workload.issue("db")
        assert caught.value.decision_id
        [lease] = await house.leases()
        assert lease.state is LeaseState.REVOKING
        await nothing_left(house)
        assert (await house.lease(lease.id)).state is LeaseState.REVOKED

    async def test_a_secret_that_was_made_and_whose_answer_was_lost_dies_too(self) -> None:
        house = await House.open()
        workload = await house.attested()

        async def lost() -> None:
            raise Unavailable(Reason.BACKEND_UNAVAILABLE, "lost")

        house.db.meanwhile("issue", lost)
        with pytest.raises(Unavailable):
            await workload.issue("db")
        assert len(house.db.living) == 1
        await nothing_left(house)

    async def test_one_that_never_answers_is_given_up_and_cleaned(self) -> None:
        house = await House.open()
        house.issue_limits = type(house.issue_limits)(pending=0.05)
        await house.start()
        workload = await house.attested()
        house.db.hold("issue")
        with pytest.raises(Unavailable) as caught:
            await workload.issue("db")
        assert caught.value.reason is Reason.BACKEND_UNAVAILABLE
        [lease] = await house.leases()
        assert lease.state is LeaseState.REVOKING


class TestStateThatFails:
    @pytest.mark.parametrize("committed", [False, True])
    async def test_between_the_secret_and_its_row(self, committed: bool) -> None:
        house = await House.open()
        workload = await house.attested()
        house.state.fail_write(2, committed=committed)
        with pytest.raises(Unavailable):
            await workload.issue("db")
        assert house.db.living == {}
        await nothing_left_after_expiry(house)

    async def test_from_there_on(self) -> None:
        house = await House.open()
        workload = await house.attested()

        async def outage() -> None:
            house.state.down = True

        house.db.meanwhile("issue", outage)
        with pytest.raises(Unavailable):
            await workload.issue("db")
        house.state.calm()
        assert house.db.living == {}
        [lease] = await house.leases()
        assert lease.state is LeaseState.PENDING
        await nothing_left(house)

    async def test_at_the_fence(self) -> None:
        house = await House.open()
        workload = await house.attested()
        writes = house.state.writes

        async def cut_off() -> None:
            house.state.reads_down = True

        house.state.before_write(2, cut_off)
        with pytest.raises(Unavailable):
            await workload.issue("db")
        assert house.state.writes > writes
        house.state.calm()
        assert house.db.living == {}
        await nothing_left(house)

    async def test_with_the_backend_down_as_well_the_rows_remember(self) -> None:
        house = await House.open()
        workload = await house.attested()

        async def outage() -> None:
            house.state.down = True

        house.db.meanwhile("issue", outage)
        house.db.fail("revoke")
        with pytest.raises(Unavailable):
            await workload.issue("db")
        assert len(house.db.living) == 1
        house.state.calm()
        await nothing_left(house)


class TestCancelled:
    @pytest.mark.parametrize("call", ["issue", "before the row", "after the row"])
    async def test_a_call_that_is_cancelled_leaves_nothing_for_long(self, call: str) -> None:
        house = await House.open()
        workload = await house.attested()
        reached, forever = asyncio.Event(), asyncio.Event()

        async def stall() -> None:
            reached.set()
            await forever.wait()

        if call == "issue":
            house.db.meanwhile("issue", stall)
        else:
            house.state.before_write(1 if call == "before the row" else 2, stall)
        task = asyncio.create_task(workload.issue("db"))
        await asyncio.wait_for(reached.wait(), 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        house.state.calm()
        await nothing_left_after_expiry(house)


class TestLateAnswers:
    async def test_upkeep_does_not_call_it_gone_while_the_answer_may_still_come(self) -> None:
        house = await House.open()
        workload = await house.attested()

        async def meanwhile() -> None:
            await house.revoke(SelectorKind.ATTESTATION, workload.id)
            await house.tick()
            [lease] = await house.leases()
            assert lease.state is LeaseState.REVOKING
            assert not await house.settled((await house.only_revocation()).id)

        house.db.meanwhile("issue", meanwhile)
        with pytest.raises(Denied):
            await workload.issue("db")
        [lease] = await house.leases()
        assert lease.handle == "outside-1"
        await house.tick()
        assert (await house.lease(lease.id)).state is LeaseState.REVOKED
        assert await house.settled((await house.only_revocation()).id)

    async def test_an_answer_after_its_row_was_settled_gets_a_row_of_its_own(self) -> None:
        house = await House.open()
        workload = await house.attested()

        async def meanwhile() -> None:
            await house.revoke(SelectorKind.ATTESTATION, workload.id)
            await house.tick()
            await house.tick(61)
            [lease] = await house.leases()
            assert lease.state is LeaseState.REVOKED

        # The first cleaning took nothing, since nothing was there; the secret comes after it.
        house.db.meanwhile("before issue", meanwhile)
        with pytest.raises(Denied):
            await workload.issue("db")
        first, late = await house.leases()
        assert first.state is LeaseState.REVOKED
        assert (late.state, late.handle) == (LeaseState.REVOKING, "outside-1")
        await nothing_left(house)

    async def test_also_where_the_backend_is_down_just_then(self) -> None:
        house = await House.open()
        workload = await house.attested()

        async def meanwhile() -> None:
            await house.revoke(SelectorKind.ATTESTATION, workload.id)
            await house.tick()
            await house.tick(61)
            house.db.fail("revoke")

        house.db.meanwhile("before issue", meanwhile)
        with pytest.raises(Denied):
            await workload.issue("db")
        assert len(house.db.living) == 1
        await nothing_left(house)

    async def test_an_answer_just_while_upkeep_calls_it_gone(self) -> None:
        house = await House.open()
        workload = await house.attested()
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def slowly() -> None:
            begun.set()
            await go_on.wait()

        house.db.meanwhile("before issue", slowly)
        issuing = asyncio.create_task(workload.issue("db"))
        await asyncio.wait_for(begun.wait(), 5)
        await house.revoke(SelectorKind.ATTESTATION, workload.id)
        await house.tick()

        async def answered() -> None:
            house.db.fail("revoke")  # and it cannot be taken back at once
            go_on.set()
            await asyncio.wait({issuing})

        house.db.meanwhile("confirm", answered)
        await house.tick(61)
        with pytest.raises(Denied):
            await issuing
        [lease] = await house.leases()
        assert (lease.state.live, lease.handle) == (True, "outside-1")
        await nothing_left(house)

    async def test_where_the_backend_is_down_just_then_its_row_still_knows(self) -> None:
        house = await House.open()
        workload = await house.attested()
        house.db.meanwhile("issue", lambda: _by_attestation(house, workload))
        house.db.fail("revoke")
        with pytest.raises(Denied):
            await workload.issue("db")
        assert len(house.db.living) == 1
        await nothing_left(house)


async def test_many_at_once_with_a_revocation_among_them() -> None:
    house = await House.open()
    workload = await house.attested()

    async def one(number: int) -> IssueAnswer | LockstepError:
        try:
            return await workload.issue("db", request=f"r-{number}")
        except LockstepError as error:
            return error

    tasks = [asyncio.create_task(one(number)) for number in range(40)]
    await asyncio.sleep(0)
    await _by_attestation(house, workload)
    results = await asyncio.gather(*tasks)
    assert any(isinstance(item, LockstepError) for item in results)
    await nothing_left(house)
    for item in results:
        if isinstance(item, IssueAnswer):
            assert not await workload.good(item)


async def nothing_left_after_expiry(house: House) -> None:
    await house.tick(130)
    await house.tick(61)
    assert house.db.living == {}
    assert [item for item in await house.leases() if item.state.live] == []
