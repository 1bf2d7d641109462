"""Issue, renew, give back, introspect: nothing outlives what it rests on, and nobody sees what is another's."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from broker.errors import (
    InvalidRequest,
    LimitExceeded,
    LockstepError,
    NotFound,
    Unauthenticated,
    Unavailable,
)
from broker.model.caller import WorkloadCaller
from broker.model.credential import LeaseState
from broker.model.decision import DecisionKind, Effect
from broker.model.evidence import Assurance
from broker.model.identity import IdentityMatch, InstanceClaims
from broker.model.requests import IssueAnswer
from broker.model.revocation import Selector, SelectorKind
from broker.model.role import Mode, Rotate
from broker.ports import Transaction
from lockstep.formats import Reason
from tests.support.house import House, Workload, role
from tests.support.manifests import unit


async def refused(workload: Workload, name: str = "api") -> LockstepError:
    """The refusal of a credential; no lease may be left of it."""
    before = await workload.house.leases()
    with pytest.raises(LockstepError) as caught:
        await workload.issue(name)
    assert await workload.house.leases() == before
    return caught.value


async def not_renewed(workload: Workload, answer: IssueAnswer) -> LockstepError:
    before = await workload.house.lease(answer.lease.id)
    with pytest.raises(LockstepError) as caught:
        await workload.renew(answer.lease.id)
    assert (await workload.house.lease(answer.lease.id)).expires_at == before.expires_at
    return caught.value


class TestIssue:
    async def test_a_token_of_our_own_is_active_at_once(self) -> None:
        house = await House.open()
        workload = await house.attested()
        answer = await workload.issue("api")
        assert answer.credential is not None
        assert answer.credential.fields["password"] not in repr(answer)
        assert answer.lease.state is LeaseState.ACTIVE
        assert (answer.lease.attestation_id, answer.lease.identity) == (
            workload.id,
            "https://issuer.example|payments",
        )
        assert answer.lease.expires_at == house.now + 120
        assert answer.lease.audience == "https://api.example"
        assert await workload.good(answer)

    async def test_a_backend_with_an_outside_knows_of_no_lease_that_the_state_does_not(self) -> None:
        house = await House.open()
        workload = await house.attested()
        seen: list[LeaseState] = []

        async def look() -> None:
            seen.extend(item.state for item in await house.leases())

        house.db.meanwhile("issue", look)
        answer = await workload.issue("db")
        assert seen == [LeaseState.PENDING]
        row = await house.lease(answer.lease.id)
        assert row == answer.lease
        assert (row.state, row.handle) == (LeaseState.ACTIVE, "outside-1")

    async def test_it_is_a_decision_that_says_what_it_rests_on(self) -> None:
        house = await House.open()
        workload = await house.attested()
        answer = await workload.issue("api")
        decision = await house.look(lambda tx: tx.decisions.get(answer.lease.decision_id))
        assert (decision.kind, decision.verdict, decision.effect) == (
            DecisionKind.ISSUE,
            Reason.OK,
            Effect.GRANTED,
        )
        assert decision.manifests
        assert decision.code_set == workload.code.digest
        assert decision in house.people.audit

    async def test_in_observe_the_verdict_on_the_code_stays_visible(self) -> None:
        house = await House.open()
        workload = await house.attested("evil", subject="watched")
        answer = await workload.issue("watched")
        decision = await house.look(lambda tx: tx.decisions.get(answer.lease.decision_id))
        assert (decision.verdict, decision.effect) == (Reason.APPRAISAL_FAILED, Effect.GRANTED)
        assert answer.lease.mode is Mode.OBSERVE

    @pytest.mark.parametrize("request_id", ["", "x" * 65, "a\nb", "\x00"])
    async def test_a_request_has_a_printable_id(self, request_id: str) -> None:
        house = await House.open()
        workload = await house.attested()
        with pytest.raises(InvalidRequest):
            await house.issuer.issue(workload.caller(), "api", request_id)

    async def test_no_secret_is_stored(self) -> None:
        house = await House.open()
        workload = await house.attested()
        answers = [await workload.issue("api"), await workload.issue("db")]
        await workload.reattest()
        stored = repr(house.state._tables) + repr(house.people.audit)
        for answer in answers:
            assert answer.credential is not None
            assert answer.credential.fields["password"] not in stored

    async def test_a_failing_backend_is_no_place_to_leak_the_secret_either(self) -> None:
        house = await House.open()
        workload = await house.attested()
        answer = await workload.issue("db")
        assert answer.credential is not None
        await house.revoke(SelectorKind.LEASE, answer.lease.id)
        await house.tick()
        revocation = await house.only_revocation()
        assert answer.credential.fields["password"].encode() not in await house.receipt(revocation.id)


class TestWhoGetsNothing:
    @pytest.mark.parametrize("name", ["watched", "nobody", "API", "api ", ""])
    async def test_a_role_of_another_or_of_nobody(self, name: str) -> None:
        house = await House.open()
        workload = await house.attested()
        error = await refused(workload, name)
        assert error.reason is Reason.NOT_ENTITLED
        decision = await house.look(lambda tx: tx.decisions.get(error.decision_id))
        assert (decision.kind, decision.effect) == (DecisionKind.ISSUE, Effect.REFUSED)
        assert decision in house.people.audit

    async def test_an_attestation_that_has_ended(self) -> None:
        house = await House.open()
        workload = await house.attested()
        house.clock.advance(299.999)
        await workload.issue()
        house.clock.advance(0.001)
        assert (await refused(workload)).reason is Reason.ATTESTATION_EXPIRED

    async def test_one_that_was_revoked(self) -> None:
        house = await House.open()
        workload = await house.attested()
        await house.revoke(SelectorKind.ATTESTATION, workload.id)
        assert (await refused(workload)).reason is Reason.REVOKED

    async def test_one_that_was_cut_and_not_yet_found_by_upkeep(self) -> None:
        for kind, value in (
            (SelectorKind.IDENTITY, "https://issuer.example|payments"),
            (SelectorKind.NODE, "node-1"),
            (SelectorKind.DIGEST, unit("lib").digest.hex()),
        ):
            house = await House.open()
            workload = await house.attested(place=InstanceClaims(node="node-1"))
            await house.revoke(kind, value, ban=False)
            assert (await refused(workload)).reason is Reason.REVOKED

    async def test_one_with_a_digest_that_was_cut_and_expanded_while_it_was_being_stored(self) -> None:
        """Its broker died between commit and fence: the row is ALIVE, and nobody will enumerate again."""
        house = await House.open()
        other = house.verifier
        await house.start()
        workload = house.workload()

        async def meanwhile() -> None:
            await house.revoke(SelectorKind.DIGEST, unit("app").digest.hex(), ban=False)
            await house.tick()
            house.state.reads_down = True

        order = workload.order("app")
        house.state.before_write(1, meanwhile)
        with pytest.raises(Unavailable):
            await other.attest(order, house.proof(workload.thumbprint))
        house.state.calm()
        [workload.id] = await house.look(_alive)
        assert (await refused(workload)).reason is Reason.REVOKED

    async def test_a_banned_identity(self) -> None:
        house = await House.open()
        workload = await house.attested()
        made = await house.revoke(SelectorKind.KEY, workload.thumbprint.hex(), ban=True, until=house.now + 60)
        assert (await refused(workload)).reason is Reason.REVOKED
        assert made.attestations == 1

    async def test_a_role_whose_identity_or_level_changed_since(self) -> None:
        house = await House.open()
        workload = await house.attested()
        for changed, reason in (
            (role("api", identity=IdentityMatch("oidc", subject="else")), Reason.NOT_ENTITLED),
            (role("api", assurance=Assurance.WITNESSED), Reason.ASSURANCE_TOO_LOW),
            (role("api", manifests=("tools",)), Reason.STALE_EVIDENCE),
        ):
            house.people.book = replace(house.people.book, roles={"api": changed})
            assert (await refused(workload)).reason is reason

    async def test_another_key_does_not_see_the_attestation(self) -> None:
        house = await House.open()
        mine, other = await house.attested(), await house.attested()
        stolen = WorkloadCaller(mine.id, house.proof(other.thumbprint))
        with pytest.raises(NotFound):
            await house.issuer.issue(stolen, "api", "r")

    async def test_a_proof_counts_once_whatever_it_is_used_for(self) -> None:
        house = await House.open()
        workload = await house.attested()
        caller = workload.caller()
        answer = await house.issuer.issue(caller, "api", "r-1")
        for again in (
            house.issuer.issue(caller, "api", "r-2"),
            house.issuer.renew(caller, answer.lease.id),
            house.issuer.give_back(caller, answer.lease.id),
        ):
            with pytest.raises(Unauthenticated) as caught:
                await again
            assert caught.value.reason is Reason.PROOF_REJECTED
        assert await workload.good(answer)

    async def test_of_twenty_uses_of_one_proof_at_once_one_wins(self) -> None:
        house = await House.open()
        workload = await house.attested()
        caller = workload.caller()
        results = await asyncio.gather(
            *(house.issuer.issue(caller, "db", f"r-{number}") for number in range(20)), return_exceptions=True
        )
        assert sum(isinstance(item, IssueAnswer) for item in results) == 1
        assert len(house.db.living) == 1

    async def test_more_live_leases_than_an_attestation_may_have(self) -> None:
        house = await House.open()
        house.issue_limits = replace(house.issue_limits, leases=3)
        await house.start()
        workload, sibling = await house.attested(), await house.attested()
        answers = [await workload.issue(request=f"r-{number}") for number in range(3)]
        with pytest.raises(LimitExceeded):
            await workload.issue()
        await sibling.issue()
        await house.issuer.give_back(workload.caller(), answers[0].lease.id)
        with pytest.raises(LimitExceeded):
            await workload.issue()
        await house.tick()
        await workload.issue()

    async def test_without_a_state_there_is_nothing(self) -> None:
        house = await House.open()
        workload = await house.attested()
        house.state.fail_write()
        assert isinstance(await refused(workload, "db"), Unavailable)
        assert house.db.living == {}


class TestWhatItRestsOn:
    async def test_a_lease_never_outlives_its_attestation(self) -> None:
        house = await House.open()
        workload = await house.attested()
        house.clock.advance(290)
        assert (await workload.issue()).lease.expires_at == house.now + 10

    async def test_nor_the_identity_that_was_proved(self) -> None:
        house = await House.open()
        workload = await house.attested(not_after=house.now + 30)
        assert (await workload.issue()).lease.expires_at == house.now + 30

    async def test_nor_the_longest_life_however_often_it_is_renewed(self) -> None:
        house = await House.open(role("api", max_life=300.0))
        workload = await house.attested()
        answer = await workload.issue()
        for _ in range(4):
            house.clock.advance(60)
            await workload.reattest()
            answer = await workload.renew(answer.lease.id)
            assert answer.lease.expires_at <= answer.lease.max_expires_at
        assert answer.lease.expires_at == answer.lease.max_expires_at
        house.clock.advance(60)
        await workload.reattest()
        assert (await not_renewed(workload, answer)).reason is Reason.LEASE_ENDED
        assert not await workload.good(answer)

    async def test_a_backend_may_give_less(self) -> None:
        house = await House.open()
        workload = await house.attested()

        class Short(type(house.db)):  # type: ignore[misc]
            async def issue(self, grant: object) -> object:
                return replace(await super().issue(grant), expires_at=house.now + 5)

        house.backends["db"] = Short()
        answer = await workload.issue("db")
        assert answer.lease.expires_at == house.now + 5
        assert (await house.lease(answer.lease.id)).expires_at == house.now + 5

    async def test_when_the_attestation_ends_early_its_leases_end_with_it(self) -> None:
        house = await House.open()
        workload = await house.attested()
        api, db = await workload.issue("api"), await workload.issue("db")
        workload.not_after = house.now + 30
        workload.know()
        await workload.reattest()
        house.clock.advance(30)
        assert not await workload.good(api)
        await house.tick()
        assert house.db.living == {}
        assert (await house.lease(db.lease.id)).state is LeaseState.REVOKED


class TestRetry:
    async def test_the_same_request_again_kills_its_first_lease(self) -> None:
        house = await House.open()
        workload = await house.attested()
        for name in ("api", "db"):
            first = await workload.issue(name, request="again")
            second = await workload.issue(name, request="again")
            assert second.lease.id != first.lease.id
            assert not await workload.good(first)
            assert await workload.good(second)
            assert (await house.lease(first.lease.id)).state is LeaseState.REVOKING
        await house.tick()
        assert [item.id for item in house.db.living.values()] == [second.lease.id]

    async def test_while_the_first_is_still_being_made(self) -> None:
        house = await House.open()
        workload = await house.attested()

        async def again() -> None:
            answers.append(await workload.issue("db", request="again"))

        answers: list[IssueAnswer] = []
        house.db.meanwhile("issue", again)
        # Nobody has revoked anything: whoever still waits for the first answer may ask once more.
        with pytest.raises(Unavailable):
            await workload.issue("db", request="again")
        await house.tick()
        assert [item.id for item in house.db.living.values()] == [answers[0].lease.id]

    async def test_the_id_is_of_one_attestation(self) -> None:
        house = await House.open()
        mine, other = await house.attested(), await house.attested()
        answer = await mine.issue(request="same")
        await other.issue(request="same")
        assert await mine.good(answer)


class TestRenew:
    async def test_fresh_evidence_buys_more_time(self) -> None:
        house = await House.open()
        workload = await house.attested()
        for name in ("api", "db"):
            answer = await workload.issue(name)
            house.clock.advance(60)
            await workload.reattest()
            renewed = await workload.renew(answer.lease.id)
            assert renewed.lease.id == answer.lease.id
            assert renewed.lease.handle == answer.lease.handle
            assert renewed.lease.expires_at == house.now + 120
            assert (await house.lease(answer.lease.id)).expires_at == house.now + 120

    async def test_a_backend_may_give_less_than_was_asked(self) -> None:
        house = await House.open()
        workload = await house.attested()

        class Short(type(house.db)):  # type: ignore[misc]
            async def renew(self, grant: object) -> object:
                return replace(await super().renew(grant), expires_at=house.now + 5)

        house.backends["db"] = Short()
        answer = await workload.issue("db")
        house.clock.advance(60)
        await workload.reattest()
        renewed = await workload.renew(answer.lease.id)
        assert renewed.lease.expires_at == house.now + 5
        assert (await house.lease(answer.lease.id)).expires_at == house.now + 5

    async def test_what_needs_no_new_secret_brings_none(self) -> None:
        house = await House.open()
        workload = await house.attested()
        answer = await workload.issue("db")
        house.clock.advance(60)
        await workload.reattest()
        assert (await workload.renew(answer.lease.id)).credential is None

    async def test_how_it_rotates_is_told_as_the_role_says_now(self) -> None:
        house = await House.open()
        workload = await house.attested()
        answer = await workload.issue("db")
        assert answer.rotate is None
        for rotate in (Rotate(600.0, 60.0), Rotate(300.0, 30.0), None):
            book = house.people.book
            changed = replace(book.roles["db"], rotate=rotate)
            house.people.book = replace(book, roles={**book.roles, "db": changed})
            house.clock.advance(10)
            await workload.reattest()
            assert (await workload.renew(answer.lease.id)).rotate == rotate
            assert (await workload.issue("db")).rotate == rotate

    async def test_no_evidence_no_renewal(self) -> None:
        house = await House.open()
        workload = await house.attested()
        answer = await workload.issue()
        house.clock.advance(10)
        assert (await not_renewed(workload, answer)).reason is Reason.STALE_EVIDENCE
        await workload.reattest()
        await workload.renew(answer.lease.id)
        assert (await not_renewed(workload, answer)).reason is Reason.STALE_EVIDENCE

    @pytest.mark.parametrize(("late", "renews"), [(-1.0, True), (-0.001, True), (0.0, False), (0.001, False)])
    async def test_in_the_last_moment_and_after_it(self, late: float, renews: bool) -> None:
        """CVE-2021-32923: a renewal in the last second made a lease that never ended."""
        house = await House.open()
        workload = await house.attested()
        answer = await workload.issue()
        house.clock.advance(60)
        await workload.reattest()
        house.clock.advance(60 + late)
        if renews:
            renewed = await workload.renew(answer.lease.id)
            assert house.now < renewed.lease.expires_at <= house.now + 120
        else:
            assert (await not_renewed(workload, answer)).reason is Reason.LEASE_ENDED

    async def test_after_its_end_was_written_it_stays_ended(self) -> None:
        house = await House.open()
        workload = await house.attested()
        answer = await workload.issue()
        house.clock.advance(60)
        await workload.reattest()
        await house.tick(60)
        assert (await house.lease(answer.lease.id)).state is LeaseState.EXPIRED
        assert (await not_renewed(workload, answer)).reason is Reason.LEASE_ENDED

    async def test_the_lease_of_another_is_none_of_its_business(self) -> None:
        house = await House.open()
        mine, other = await house.attested(), await house.attested()
        answer = await mine.issue()
        house.clock.advance(10)
        await other.reattest()
        with pytest.raises(NotFound):
            await other.renew(answer.lease.id)

    async def test_one_that_was_revoked_by_its_id_is_over(self) -> None:
        house = await House.open()
        workload = await house.attested()
        answer = await workload.issue()
        await house.revoke(SelectorKind.LEASE, answer.lease.id)
        house.clock.advance(10)
        await workload.reattest()
        assert (await not_renewed(workload, answer)).reason is Reason.LEASE_ENDED

    async def test_one_that_only_memory_denies_yet_is_not_renewed_either(self) -> None:
        house = await House.open()
        workload = await house.attested()
        answer = await workload.issue()
        house.clock.advance(10)
        await workload.reattest()
        house.state.fail_write()
        with pytest.raises(Unavailable):
            await house.revoke(SelectorKind.TOKEN, answer.lease.handle)
        # It may never have been written: the workload is not told that it is revoked.
        assert (await not_renewed(workload, answer)).reason is Reason.STATE_UNAVAILABLE
        assert not await workload.good(answer)
        await house.revoke(SelectorKind.TOKEN, answer.lease.handle)
        assert (await not_renewed(workload, answer)).reason is Reason.LEASE_ENDED

    async def test_a_backend_that_fails_uses_up_no_evidence(self) -> None:
        house = await House.open()
        workload = await house.attested()
        answer = await workload.issue("db")
        house.clock.advance(60)
        await workload.reattest()
        house.db.fail("renew")
        with pytest.raises(Unavailable):
            await workload.renew(answer.lease.id)
        assert (await workload.renew(answer.lease.id)).lease.expires_at == house.now + 120

    async def test_a_backend_that_cannot_renew_says_so_and_the_lease_keeps_its_end(self) -> None:
        house = await House.open()
        workload = await house.attested()
        answer = await workload.issue("db")
        house.db.living.clear()
        house.clock.advance(60)
        await workload.reattest()
        assert (await not_renewed(workload, answer)).reason is Reason.LEASE_ENDED

    async def test_a_role_that_is_gone_or_moved_renews_nothing(self) -> None:
        house = await House.open()
        workload = await house.attested()
        answer = await workload.issue("api")
        house.clock.advance(10)
        await workload.reattest()
        roles = house.people.book.roles
        house.people.book = replace(house.people.book, roles={"db": roles["db"]})
        assert (await not_renewed(workload, answer)).reason is Reason.NOT_ENTITLED
        house.people.book = replace(house.people.book, roles={"api": role("api", backend="db")})
        assert (await not_renewed(workload, answer)).reason is Reason.LEASE_ENDED

    async def test_a_cut_since_the_grant_counts_although_the_evidence_is_fresh(self) -> None:
        house = await House.open()
        workload = await house.attested()
        answer = await workload.issue("api")
        await house.revoke(SelectorKind.TOKEN, answer.lease.handle)
        house.clock.advance(10)
        await workload.reattest()
        assert (await not_renewed(workload, answer)).reason in (Reason.LEASE_ENDED, Reason.REVOKED)
        assert not await workload.good(answer)

    async def test_where_the_fence_cannot_be_read_what_was_delivered_before_goes_on(self) -> None:
        house = await House.open()
        workload = await house.attested()
        answer = await workload.issue("db")
        house.clock.advance(60)
        await workload.reattest()

        async def cut_off() -> None:
            house.state.reads_down = True

        house.db.meanwhile("renew", cut_off)
        with pytest.raises(Unavailable):
            await workload.renew(answer.lease.id)
        house.state.calm()
        assert len(house.db.living) == 1
        assert await workload.good(answer)
        await workload.renew(answer.lease.id)


class TestGiveBack:
    async def test_it_ends_at_once_and_at_the_backend_soon(self) -> None:
        house = await House.open()
        workload = await house.attested()
        api, db = await workload.issue("api"), await workload.issue("db")
        for answer in (api, db):
            lease = await house.issuer.give_back(workload.caller(), answer.lease.id)
            assert lease.state is LeaseState.REVOKING
            assert not await workload.good(answer)
        await house.tick()
        assert house.db.living == {}
        for answer in (api, db):
            again = await house.issuer.give_back(workload.caller(), answer.lease.id)
            assert again.state is LeaseState.REVOKED

    async def test_another_workloads_lease_does_not_exist(self) -> None:
        house = await House.open()
        mine, other = await house.attested(), await house.attested()
        answer = await mine.issue()
        with pytest.raises(NotFound):
            await house.issuer.give_back(other.caller(), answer.lease.id)
        assert await mine.good(answer)

    async def test_an_operator_may(self) -> None:
        house = await House.open()
        workload = await house.attested()
        answer = await workload.issue()
        await house.issuer.give_back(house.operator("revoke:lease"), answer.lease.id)
        assert not await workload.good(answer)

    async def test_a_token_by_itself_and_only_by_its_identity(self) -> None:
        house = await House.open()
        workload = await house.attested()
        answer = await workload.issue()
        stranger = house.workload("stranger").identity
        await house.revoker.revoke_token(answer.lease.handle, "stranger", stranger)
        await house.revoker.revoke_token("unknown", "stranger", stranger)
        assert await workload.good(answer)
        await house.revoker.revoke_token(answer.lease.handle, "payments", workload.identity)
        assert not await workload.good(answer)


class TestLooking:
    async def test_a_workload_sees_its_own_leases_an_operator_all(self) -> None:
        house = await House.open()
        mine, other = await house.attested(), await house.attested()
        first, second = await mine.issue(), await other.issue()
        seen = await house.issuer.leases(mine.caller(), (), 100, "", other.id)
        assert [item.id for item in seen.items] == [first.lease.id]
        everything = await house.issuer.leases(house.operator("read"), (), 100, "", "")
        assert [item.id for item in everything.items] == [first.lease.id, second.lease.id]
        others = await house.issuer.leases(house.operator("read"), (), 100, "", other.id)
        assert [item.id for item in others.items] == [second.lease.id]

    async def test_pages_have_a_bound_whatever_is_asked(self) -> None:
        house = await House.open()
        workload = await house.attested()
        for _ in range(3):
            await workload.issue()
        caller = workload.caller()
        page = await house.issuer.leases(caller, (LeaseState.ACTIVE,), 0, "", "")
        assert len(page.items) == 1
        rest = await house.issuer.leases(caller, (), 10**9, page.next, "")
        assert len(rest.items) == 2

    async def test_a_resource_server_hears_of_its_audience_alone(self) -> None:
        house = await House.open()
        workload = await house.attested()
        handle = (await workload.issue()).lease.handle
        for audiences, active in (
            (frozenset({"https://api.example"}), True),
            (frozenset({"https://api.example", "https://other.example"}), True),
            (frozenset({"https://other.example"}), False),
            (frozenset(), False),
            (None, True),
        ):
            found = await house.issuer.introspect(handle, audiences)
            assert found.active is active
            assert (found.lease is None) is not active

    @pytest.mark.parametrize("late", [0.0, 0.001])
    async def test_at_its_end_it_is_not_good(self, late: float) -> None:
        house = await House.open()
        workload = await house.attested()
        answer = await workload.issue()
        house.clock.advance(119.999)
        assert await workload.good(answer)
        house.clock.advance(0.001 + late)
        assert not await workload.good(answer)

    async def test_what_is_pending_is_not_good_yet(self) -> None:
        house = await House.open()
        workload = await house.attested()
        seen = []

        async def look() -> None:
            [lease] = await house.leases()
            for handle in (lease.handle, lease.id, ""):
                seen.append((await house.issuer.introspect(handle, None)).active)

        house.db.meanwhile("issue", look)
        await workload.issue("db")
        assert seen == [False, False, False]

    @pytest.mark.parametrize(
        "selector",
        ["attestation", "identity", "key", "node", "pod", "manifest", "digest", "lease", "token"],
    )
    async def test_every_way_to_revoke_it_shows_at_once(self, selector: str) -> None:
        house = await House.open()
        workload = await house.attested(place=InstanceClaims(node="node-1", pod_uid="pod-1"))
        answer = await workload.issue()
        value = {
            "attestation": workload.id,
            "identity": "https://issuer.example|payments",
            "key": workload.thumbprint.hex(),
            "node": "node-1",
            "pod": "pod-1",
            "manifest": next(iter((await workload.row()).manifest_digests())).hex(),
            "digest": unit("lib").digest.hex(),
            "lease": answer.lease.id,
            "token": answer.lease.handle,
        }[selector]
        assert await workload.good(answer)
        await house.revoke(SelectorKind(selector), value)
        assert not await workload.good(answer)
        await house.tick()
        assert not await workload.good(answer)
        await house.start()
        assert not await workload.good(answer)


async def _alive(tx: Transaction) -> list[str]:
    selector = Selector(SelectorKind.IDENTITY, "https://issuer.example|payments")
    return [item.id for item in await tx.attestations.alive_by(selector, 10)]
