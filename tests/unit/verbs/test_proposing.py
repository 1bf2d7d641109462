"""A revocation that takes more than one operator: bound to what each was shown, and nobody agrees twice."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from broker.errors import Conflict, Denied, InvalidRequest, LimitExceeded, NotFound, Unavailable
from broker.model.attestation import AttestationState
from broker.model.caller import OperatorCaller
from broker.model.decision import DecisionKind, Effect
from broker.model.evidence import Assurance, ProcessRef
from broker.model.identity import IdentityMatch
from broker.model.proposal import Proposal, ProposalState
from broker.model.reach import EVERYTHING
from broker.model.requests import ConfirmAnswer, ConfirmOutcome, RevokeOrder
from broker.model.revocation import Selector, SelectorKind
from broker.model.role import AfterRevocation, Scope
from broker.revoke import ProposeLimits
from lockstep.formats import Reason
from tests.support.house import HOUR, House, Workload, role
from tests.support.manifests import unit

APP = Selector(SelectorKind.DIGEST, unit("app").digest.hex())
RETRY = role("api", after_revocation=AfterRevocation.RETRY)
RIGHT = "revoke:digest"
ANYBODY: frozenset[ProposalState] = frozenset()


def person(house: House, name: str, *rights: str, needs: int = 2, **facts: object) -> OperatorCaller:
    return house.operator(*(rights or (RIGHT, "read")), name=name, quorum={RIGHT: needs}, **facts)  # type: ignore[arg-type]


def order(caller: OperatorCaller, selector: Selector = APP, **changes: object) -> RevokeOrder:
    """As the door makes it."""
    right = f"revoke:{selector.kind}"
    said = {"reason": "INC-311", "ticket": "T-1", "reach": caller.reach(right), "needs": caller.needs(right)}
    return RevokeOrder(selector, caller.actor, identity=caller.identity.name, **{**said, **changes})  # type: ignore[arg-type]


async def instance(house: House, pid: int = 1) -> Workload:
    place = ProcessRef("node-1", "boot-1", pid, pid, 1, f"c-{pid}", f"pod-{pid}")
    return await house.attested(level=Assurance.WITNESSED, process=place)


async def waiting(house: House, **changes: object) -> tuple[OperatorCaller, Proposal]:
    """Ann's proposal."""
    ann = person(house, "ann")
    return ann, await house.proposer.propose(order(ann, **changes))  # type: ignore[arg-type]


async def row(house: House, proposal: Proposal) -> Proposal:
    found = await house.look(lambda tx: tx.proposals.get(proposal.id))
    assert isinstance(found, Proposal)
    return found


class TestPropose:
    async def test_nobody_is_denied_and_it_is_on_record(self) -> None:
        house = await House.open(RETRY)
        workload = await instance(house)
        await workload.issue()
        ann, proposal = await waiting(house)
        assert await house.log() == []
        assert (await workload.row()).state is AttestationState.ALIVE
        assert (proposal.preview.attestations, proposal.preview.leases) == ((workload.id,), 1)
        [shown] = proposal.preview.instances
        assert (shown.identity, shown.roles, shown.leases) == (workload.identity.name, ("api",), 1)
        said = await house.look(lambda tx: tx.decisions.get(proposal.decision_id))
        assert (said.kind, said.verdict, said.effect) == (DecisionKind.REVOKE, Reason.OK, Effect.HELD)
        assert (said.actor, said.ticket, said.revocation_id) == (ann.actor, "T-1", proposal.id)
        assert f"preview {proposal.preview.digest.hex()[:16]}" in said.detail
        assert said in house.people.audit
        asked = await house.explainer.explain(house.operator("explain"), proposal.id, False)
        assert asked.decision == said

    async def test_one_alone_cannot_revoke_and_may_look(self) -> None:
        house = await House.open(RETRY)
        workload = await instance(house)
        ann = person(house, "ann")
        with pytest.raises(Denied, match="takes 2 operators") as error:
            await house.revoker.revoke(order(ann))
        assert error.value.reason is Reason.NOT_ENTITLED
        look = await house.revoker.revoke(order(ann, dry_run=True))
        assert look.preview is not None
        assert look.preview.attestations == (workload.id,)
        assert await house.log() == []

    async def test_a_lease_that_takes_two_is_not_given_back_by_one(self) -> None:
        house = await House.open(RETRY)
        lease = (await (await instance(house)).issue()).lease
        ann = house.operator("revoke:*", quorum={"revoke:*": 2})
        with pytest.raises(Denied, match="propose it with lockstep revoke --lease"):
            await house.issuer.give_back(ann, lease.id)
        assert (await house.lease(lease.id)).state is lease.state

    async def test_what_would_be_refused_is_refused_now(self) -> None:
        house = await House.open(RETRY)
        ann = person(house, "ann")
        with pytest.raises(InvalidRequest):
            await house.proposer.propose(order(ann, reason=" "))
        with pytest.raises(InvalidRequest):
            await house.proposer.propose(order(ann, until=house.now - 1))
        with pytest.raises(NotFound):
            await house.proposer.propose(order(ann, Selector(SelectorKind.ATTESTATION, "A-none")))
        assert await house.look(lambda tx: tx.proposals.page(9)) == []

    async def test_no_more_wait_than_the_limit_says(self) -> None:
        house = await House.open(RETRY, propose_limits=ProposeLimits(waiting=2))
        _, first = await waiting(house)
        await waiting(house)
        with pytest.raises(LimitExceeded):
            await waiting(house)
        await house.proposer.withdraw(person(house, "ann"), first.id, "make room")
        await waiting(house)
        house.clock.advance(HOUR + 1)
        await waiting(house)

    def test_the_strictest_of_somebodys_operators_counts(self) -> None:
        house = House.__new__(House)
        ann = House.operator(house, RIGHT, quorum={"revoke:*": 3, RIGHT: 2})
        wide = House.operator(house, "revoke:*")
        both = OperatorCaller(ann.identity, (*wide.operators, *ann.operators))
        assert (ann.needs(RIGHT), wide.needs(RIGHT), both.needs(RIGHT)) == (3, 1, 3)
        # Of a right that the strict one has not, it says nothing.
        assert both.needs("revoke:node") == 1


class TestConfirm:
    async def test_a_second_person_revokes_before_the_answer(self) -> None:
        house = await House.open(RETRY)
        workload = await instance(house)
        await workload.issue()
        ann, proposal = await waiting(house)
        bob = person(house, "bob")
        answer = await house.proposer.confirm(bob, proposal.id, "")
        assert answer.outcome is ConfirmOutcome.REVOKED
        assert answer.answer is not None
        assert answer.answer.revocation_id == proposal.id
        assert (answer.answer.attestations, answer.answer.leases) == (1, 1)
        assert (await house.issue_refusal(workload)).reason is Reason.REVOKED
        await house.tick()
        assert await house.settled(proposal.id)
        done = await house.revocation(proposal.id)
        assert (done.actor, done.reason, done.ticket) == (f"{ann.actor} and {bob.actor}", "INC-311", "T-1")
        assert done.ban
        said = await house.look(lambda tx: tx.decisions.get(answer.answer.decision_id))
        assert said.effect is Effect.REVOKED
        assert (
            f"proposed by {ann.actor}, confirmed by {bob.actor}; it was {proposal.decision_id}" in said.detail
        )
        assert said in house.people.audit
        kept = await row(house, proposal)
        assert (kept.state, kept.ended_by) == (ProposalState.CONFIRMED, bob.actor)

    async def test_nobody_confirms_what_is_their_own(self) -> None:
        house = await House.open(RETRY)
        workload = await instance(house)
        ann, proposal = await waiting(house)
        # The same person, whichever operator of the book she comes as.
        for again in (ann, house.operator("revoke:*", name="ann")):
            with pytest.raises(Denied, match="another operator") as error:
                await house.proposer.confirm(again, proposal.id, "")
            assert error.value.reason is Reason.NOT_ENTITLED
        assert (await workload.row()).state is AttestationState.ALIVE

    async def test_only_with_the_right_and_within_its_scope(self) -> None:
        # All that it hits is the team's; its ban would keep out whoever loads that later.
        house = await House.open(RETRY)
        await instance(house)
        _, proposal = await waiting(house)
        for caller in (
            person(house, "bob", "revoke:attestation", "read"),
            person(house, "bob", scope=Scope(owners=("team",))),
        ):
            for act in (house.proposer.confirm, house.proposer.withdraw):
                with pytest.raises(Denied) as error:
                    await act(caller, proposal.id, "0" * 16)
                assert error.value.reason is Reason.NOT_ENTITLED
        assert (await row(house, proposal)).state is ProposalState.OPEN
        assert await house.log() == []

    async def test_saying_it_again_is_the_same_answer(self) -> None:
        house = await House.open(RETRY)
        await instance(house)
        ann, proposal = await waiting(house)
        bob = person(house, "bob")
        first = await house.proposer.confirm(bob, proposal.id, "")
        log, decisions = await house.log(), await house.decisions()
        again = await house.proposer.confirm(bob, proposal.id, "")
        assert again.outcome is ConfirmOutcome.REVOKED
        assert first.answer is not None
        assert again.answer is not None
        assert again.answer.decision_id == first.answer.decision_id
        assert (await house.log(), await house.decisions()) == (log, decisions)
        for late in (ann, person(house, "eve")):
            with pytest.raises(Conflict, match="confirmed by operator:bob"):
                await house.proposer.confirm(late, proposal.id, "")

    async def test_three_people_where_it_takes_three(self) -> None:
        house = await House.open(RETRY)
        workload = await instance(house)
        ann, bob, eve = [person(house, name, needs=3) for name in ("ann", "bob", "eve")]
        proposal = await house.proposer.propose(order(ann))
        second = await house.proposer.confirm(bob, proposal.id, "")
        assert (second.outcome, len(second.proposal.agreed)) == (ConfirmOutcome.WAITING, 2)
        assert await house.log() == []
        assert (await house.proposer.confirm(bob, proposal.id, "")).outcome is ConfirmOutcome.WAITING
        assert len((await row(house, proposal)).agreed) == 2
        third = await house.proposer.confirm(eve, proposal.id, "")
        assert third.outcome is ConfirmOutcome.REVOKED
        await house.tick()
        assert (await workload.row()).state is AttestationState.REVOKED
        told = [item.detail for item in await house.decisions() if item.revocation_id == proposal.id]
        assert len(told) == 3
        assert "agreed by 2 of 3" in told[1]

    async def test_whoever_confirms_under_a_stricter_rule_is_held_to_it(self) -> None:
        house = await House.open(RETRY)
        await instance(house)
        _, proposal = await waiting(house)
        answer = await house.proposer.confirm(person(house, "bob", needs=3), proposal.id, "")
        assert (answer.outcome, answer.proposal.needs) == (ConfirmOutcome.WAITING, 3)
        assert await house.log() == []

    async def test_it_ends_with_its_time_over_a_restart_as_well(self) -> None:
        house = await House.open(RETRY)
        await instance(house)
        _, proposal = await waiting(house)
        house.clock.advance(HOUR - 1)
        await house.start()
        assert [
            item.state for item in (await house.proposer.proposals(EVERYTHING, ANYBODY, 9, "")).items
        ] == [ProposalState.OPEN]
        house.clock.advance(1)
        with pytest.raises(Conflict, match="in time"):
            await house.proposer.confirm(person(house, "bob"), proposal.id, "")
        with pytest.raises(Conflict, match="in time"):
            await house.proposer.withdraw(person(house, "bob"), proposal.id, "late")
        [shown] = (await house.proposer.proposals(EVERYTHING, ANYBODY, 9, "")).items
        assert shown.state is ProposalState.EXPIRED
        assert await house.log() == []

    async def test_a_ban_that_would_be_over_is_not_confirmed(self) -> None:
        house = await House.open(RETRY)
        await instance(house)
        _, proposal = await waiting(house, until=house.now + 60)
        house.clock.advance(61)
        with pytest.raises(Conflict, match="ended by now"):
            await house.proposer.confirm(person(house, "bob"), proposal.id, "")

    async def test_without_a_state_it_waits_on(self) -> None:
        house = await House.open(RETRY)
        workload = await instance(house)
        _, proposal = await waiting(house)
        house.state.fail_write()
        with pytest.raises(Unavailable):
            await house.proposer.confirm(person(house, "bob"), proposal.id, "")
        assert (await row(house, proposal)).state is ProposalState.OPEN
        answer = await house.proposer.confirm(person(house, "bob"), proposal.id, "")
        assert answer.outcome is ConfirmOutcome.REVOKED
        await house.tick()
        assert (await workload.row()).state is AttestationState.REVOKED

    async def test_what_is_not_there(self) -> None:
        house = await House.open(RETRY)
        with pytest.raises(NotFound):
            await house.proposer.confirm(person(house, "bob"), "V-none", "")
        with pytest.raises(NotFound):
            await house.proposer.withdraw(person(house, "bob"), "V-none", "no")
        for name in ("abc", "g" * 16):
            with pytest.raises(InvalidRequest, match="hexadecimal"):
                await house.proposer.confirm(person(house, "bob"), "V-none", name)


class TestGrowth:
    async def grown(self, house: House) -> tuple[Proposal, ConfirmAnswer]:
        """One instance more than was proposed."""
        await instance(house)
        _, proposal = await waiting(house)
        await instance(house, 2)
        answer = await house.proposer.confirm(person(house, "bob"), proposal.id, "")
        assert answer.outcome is ConfirmOutcome.GROWN
        return proposal, answer

    async def test_more_than_was_shown_is_said_and_not_revoked(self) -> None:
        house = await House.open(RETRY)
        proposal, answer = await self.grown(house)
        assert answer.before is not None
        assert len(answer.before.attestations) == 1
        assert len(answer.proposal.preview.attestations) == 2
        assert len(answer.proposal.preview.instances) == 2
        assert await house.log() == []
        kept = await row(house, proposal)
        assert (kept.state, kept.grown, len(kept.agreed)) == (ProposalState.OPEN, True, 1)

    async def test_the_new_preview_has_to_be_named(self) -> None:
        house = await House.open(RETRY)
        proposal, answer = await self.grown(house)
        bob = person(house, "bob")
        old = proposal.preview.digest.hex()[:16]
        for name in ("", old):
            again = await house.proposer.confirm(bob, proposal.id, name)
            assert again.outcome is ConfirmOutcome.GROWN
            assert len(again.proposal.preview.instances) == 2
        assert await house.log() == []
        name = answer.proposal.preview.digest.hex()[:16]
        done = await house.proposer.confirm(bob, proposal.id, name.upper())
        assert done.outcome is ConfirmOutcome.REVOKED
        assert done.answer is not None
        assert done.answer.attestations == 2

    async def test_it_may_grow_again_in_between(self) -> None:
        house = await House.open(RETRY)
        proposal, answer = await self.grown(house)
        await instance(house, 3)
        name = answer.proposal.preview.digest.hex()[:16]
        again = await house.proposer.confirm(person(house, "bob"), proposal.id, name)
        assert again.outcome is ConfirmOutcome.GROWN
        assert again.before is not None
        assert (len(again.before.attestations), len(again.proposal.preview.attestations)) == (2, 3)
        assert await house.log() == []

    @pytest.mark.parametrize("shown", [False, True])
    async def test_who_confirmed_less_has_not_confirmed_more(self, shown: bool) -> None:
        """Neither where the one after is shown the more, nor where that one has looked by itself."""
        house = await House.open(RETRY)
        await instance(house)
        ann, bob, eve = [person(house, name, needs=3) for name in ("ann", "bob", "eve")]
        proposal = await house.proposer.propose(order(ann))
        await house.proposer.confirm(bob, proposal.id, "")
        await instance(house, 2)
        look = await house.proposer.confirm(eve, proposal.id, "", dry_run=not shown)
        assert look.outcome is (ConfirmOutcome.GROWN if shown else ConfirmOutcome.SHOWN)
        name = look.proposal.preview.digest.hex()[:16]
        third = await house.proposer.confirm(eve, proposal.id, name)
        assert third.outcome is ConfirmOutcome.WAITING
        assert [item.actor for item in third.proposal.agreed] == [ann.actor, eve.actor]
        assert await house.log() == []
        assert (await house.proposer.confirm(bob, proposal.id, "")).outcome is ConfirmOutcome.GROWN
        again = await house.proposer.confirm(bob, proposal.id, name)
        assert again.outcome is ConfirmOutcome.REVOKED

    async def test_another_lease_is_more(self) -> None:
        house = await House.open(RETRY)
        workload = await instance(house)
        await workload.issue()
        _, proposal = await waiting(house)
        await workload.issue()
        answer = await house.proposer.confirm(person(house, "bob"), proposal.id, "")
        assert answer.outcome is ConfirmOutcome.GROWN
        # Whoever names what was shown has looked at the instances; their leases come and go.
        await workload.issue()
        name = answer.proposal.preview.digest.hex()[:16]
        named = await house.proposer.confirm(person(house, "bob"), proposal.id, name)
        assert named.outcome is ConfirmOutcome.REVOKED

    async def test_fewer_are_no_matter(self) -> None:
        house = await House.open(RETRY)
        workload = await instance(house)
        lease = (await workload.issue()).lease
        _, other = await waiting(house)
        await house.issuer.give_back(house.operator("revoke:lease"), lease.id)
        await house.tick()
        done = await house.proposer.confirm(person(house, "bob"), other.id, "")
        assert done.outcome is ConfirmOutcome.REVOKED

    async def test_another_instead_of_one_that_is_gone_is_not_the_same(self) -> None:
        house = await House.open(RETRY)
        first = await instance(house)
        _, proposal = await waiting(house)
        await house.revoke(SelectorKind.ATTESTATION, first.id)
        await instance(house, 2)
        answer = await house.proposer.confirm(person(house, "bob"), proposal.id, "")
        assert answer.outcome is ConfirmOutcome.GROWN

    async def test_naming_what_was_proposed_is_no_fault(self) -> None:
        house = await House.open(RETRY)
        await instance(house)
        _, proposal = await waiting(house)
        bob = person(house, "bob")
        wrong = await house.proposer.confirm(bob, proposal.id, "0" * 16)
        assert wrong.outcome is ConfirmOutcome.GROWN
        assert await house.log() == []
        done = await house.proposer.confirm(bob, proposal.id, proposal.preview.digest.hex())
        assert done.outcome is ConfirmOutcome.REVOKED

    async def test_whoever_has_looked_agrees_to_just_that_and_a_look_changes_nothing(self) -> None:
        house = await House.open(RETRY)
        await instance(house)
        ann, proposal = await waiting(house)
        second = await instance(house, 2)
        bob = person(house, "bob")
        decisions = await house.decisions()
        for caller in (bob, ann):
            look = await house.proposer.confirm(caller, proposal.id, "", dry_run=True)
            assert look.outcome is ConfirmOutcome.SHOWN
            assert look.before is not None
            assert (len(look.before.attestations), len(look.proposal.preview.attestations)) == (1, 2)
            assert second.id in {item.attestation_id for item in look.proposal.preview.instances}
        assert await row(house, proposal) == replace(
            proposal, preview=replace(proposal.preview, instances=())
        )
        assert (await house.log(), await house.decisions()) == ([], decisions)
        name = look.proposal.preview.digest.hex()[:16]
        with pytest.raises(Denied):
            await house.proposer.confirm(ann, proposal.id, name)
        done = await house.proposer.confirm(bob, proposal.id, name)
        assert done.outcome is ConfirmOutcome.REVOKED
        assert len((await row(house, proposal)).preview.attestations) == 2

    async def test_what_came_after_the_look_was_not_looked_at(self) -> None:
        house = await House.open(RETRY)
        await instance(house)
        _, proposal = await waiting(house)
        bob = person(house, "bob")
        look = await house.proposer.confirm(bob, proposal.id, "", dry_run=True)
        await instance(house, 2)
        answer = await house.proposer.confirm(bob, proposal.id, look.proposal.preview.digest.hex()[:16])
        assert answer.outcome is ConfirmOutcome.GROWN
        assert await house.log() == []

    async def test_who_may_not_confirm_may_not_look(self) -> None:
        house = await House.open(RETRY)
        await instance(house)
        _, proposal = await waiting(house)
        with pytest.raises(Denied):
            await house.proposer.confirm(
                person(house, "bob", "revoke:attestation"), proposal.id, "", dry_run=True
            )

    async def test_the_digest_is_of_all_that_it_is_bound_to(self) -> None:
        house = await House.open(RETRY)
        await instance(house)
        seen = {(await waiting(house))[1].preview.digest}
        seen.add((await waiting(house, ban=False))[1].preview.digest)
        seen.add((await waiting(house, until=house.now + 60))[1].preview.digest)
        await house.revoke(SelectorKind.NODE, "elsewhere")
        seen.add((await waiting(house))[1].preview.digest)
        await instance(house, 2)
        seen.add((await waiting(house))[1].preview.digest)
        assert len(seen) == 5


class TestWithdraw:
    async def test_it_ends_with_who_and_why(self) -> None:
        house = await House.open(RETRY)
        workload = await instance(house)
        ann, proposal = await waiting(house)
        ended = await house.proposer.withdraw(ann, proposal.id, "wrong digest")
        assert (ended.state, ended.ended_by, ended.ended_reason) == (
            ProposalState.WITHDRAWN,
            ann.actor,
            "wrong digest",
        )
        decisions = await house.decisions()
        assert "withdrawn: wrong digest" in decisions[-1].detail
        assert decisions[-1] in house.people.audit
        bob = person(house, "bob")
        assert (await house.proposer.withdraw(bob, proposal.id, "me too")).ended_by == ann.actor
        assert await house.decisions() == decisions
        with pytest.raises(Conflict, match="withdrawn by operator:ann"):
            await house.proposer.confirm(bob, proposal.id, "")
        assert (await workload.row()).state is AttestationState.ALIVE

    @pytest.mark.parametrize("rush", range(6))
    async def test_a_confirmation_and_a_withdrawal_at_once_end_in_one_outcome(self, rush: int) -> None:
        house = await House.open(RETRY)
        workload = await instance(house)
        ann, proposal = await waiting(house)
        calls = [
            house.proposer.confirm(person(house, "bob"), proposal.id, ""),
            house.proposer.withdraw(ann, proposal.id, "no"),
        ]
        ends = await asyncio.gather(*(calls if rush % 2 else calls[::-1]), return_exceptions=True)
        assert sum(isinstance(end, Conflict) for end in ends) == 1, ends
        await house.tick()
        state = (await row(house, proposal)).state
        revoked = (await workload.row()).state is AttestationState.REVOKED
        assert revoked is (state is ProposalState.CONFIRMED)
        assert state in (ProposalState.CONFIRMED, ProposalState.WITHDRAWN)
        assert not house.feed.denials.anticipating

    async def test_two_confirmations_at_once_are_one_revocation(self) -> None:
        house = await House.open(RETRY)
        await instance(house)
        _, proposal = await waiting(house)
        ends = await asyncio.gather(
            *(house.proposer.confirm(person(house, name), proposal.id, "") for name in ("bob", "eve")),
            return_exceptions=True,
        )
        assert sum(isinstance(end, ConfirmAnswer) for end in ends) == 1
        assert sum(isinstance(end, Conflict) for end in ends) == 1
        assert len(await house.look(lambda tx: tx.revocations.page(9))) == 1

    async def test_the_last_two_of_three_at_once_are_both_heard(self) -> None:
        house = await House.open(RETRY)
        await instance(house)
        ann = person(house, "ann", needs=3)
        proposal = await house.proposer.propose(order(ann))
        ends = await asyncio.gather(
            *(
                house.proposer.confirm(person(house, name, needs=3), proposal.id, "")
                for name in ("bob", "eve")
            )
        )
        assert {end.outcome for end in ends} == {ConfirmOutcome.WAITING, ConfirmOutcome.REVOKED}


async def test_lists_are_pages_of_what_is_in_scope_and_in_a_state() -> None:
    shop = role("shop", owner="team-shop", manifests=("payments",))
    house = await House.open(RETRY, shop)
    workload = await instance(house)
    ann = house.operator("revoke:*", "read", quorum={"revoke:*": 2})
    first = await house.proposer.propose(order(ann, Selector(SelectorKind.ATTESTATION, workload.id)))
    second = await house.proposer.propose(order(ann, Selector(SelectorKind.NODE, "node-9")))
    await house.proposer.withdraw(ann, second.id, "nothing there")

    async def found(*states: ProposalState, scope: Scope | None = None, size: int = 9) -> list[str]:
        reach = house.operator("read", scope=scope).reach("read")
        page = await house.proposer.proposals(reach, frozenset(states), size, "")
        return [item.id for item in page.items]

    assert await found() == [first.id, second.id]
    assert await found(size=1) == [first.id]
    assert await found(ProposalState.WITHDRAWN) == [second.id]
    assert await found(scope=Scope(owners=("team",))) == [first.id]
    assert await found(scope=Scope(owners=("nobody",))) == []


async def test_a_scoped_operator_proposes_what_is_within_its_scope() -> None:
    house = await House.open(RETRY)
    workload = await instance(house)
    facts: dict[str, object] = {"scope": Scope(owners=("team",)), "quorum": {"revoke:*": 2}}
    ann, bob = [house.operator("revoke:*", name=name, **facts) for name in ("ann", "bob")]  # type: ignore[arg-type]
    with pytest.raises(Denied):
        await house.proposer.propose(order(ann))
    proposal = await house.proposer.propose(order(ann, Selector(SelectorKind.ATTESTATION, workload.id)))
    answer = await house.proposer.confirm(bob, proposal.id, "")
    assert answer.outcome is ConfirmOutcome.REVOKED
    assert (await workload.row()).state is AttestationState.REVOKED


async def test_a_scoped_word_does_not_carry_what_is_outside_its_scope() -> None:
    other = role("other", owner="others", identity=IdentityMatch("oidc", subject="other"))
    house = await House.open(RETRY, other)
    workload = await instance(house)
    facts: dict[str, object] = {"quorum": {"revoke:*": 2}}
    ann = house.operator("revoke:*", name="ann", scope=Scope(owners=("team",)), **facts)  # type: ignore[arg-type]
    bob = house.operator("revoke:*", name="bob", **facts)  # type: ignore[arg-type]
    proposal = await house.proposer.propose(order(ann, ban=False))
    await house.attested(
        subject="other", level=Assurance.WITNESSED, process=ProcessRef("n", "b", 9, 9, 1, "c", "p")
    )
    shown = await house.proposer.confirm(bob, proposal.id, "", dry_run=True)
    for name in ("", shown.proposal.preview.digest.hex()[:16]):
        with pytest.raises(Conflict, match="outside the scope of who agreed"):
            await house.proposer.confirm(bob, proposal.id, name)
    assert await house.log() == []
    assert (await workload.row()).state is AttestationState.ALIVE
