"""What a cap held back: a person approves it, and it happens as if it had not been held; or dismisses it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from broker.errors import Conflict, InvalidRequest, NotFound, Unavailable
from broker.model.attestation import AttestationState
from broker.model.credential import LeaseState
from broker.model.decision import DecisionKind, Effect
from broker.model.detection import DetectionRecord, DetectionState
from broker.model.evidence import Assurance, ProcessRef
from broker.model.requests import ReportAnswer
from broker.model.revocation import EntryKind, SelectorKind
from broker.model.role import Action, AfterRevocation, Cap
from lockstep.formats import Reason
from tests.support.house import HOUR, House, Workload, policy, role

ONE = policy(cap=Cap(1, 1.0, HOUR))
RETRY = (role("api", after_revocation=AfterRevocation.RETRY),)


async def witnessed(house: House, pid: int, **changes: object) -> Workload:
    place = ProcessRef("node-1", "boot-1", pid, pid, 1, f"c-{pid}", f"pod-{pid}")
    return await house.attested(level=Assurance.WITNESSED, process=replace(place, **changes))  # type: ignore[arg-type]


async def one_too_many(house: House) -> tuple[Workload, ReportAnswer]:
    """An instance that was named after the cap was used up: banned for a time, and it keeps what it has."""
    await house.report(detector=ONE, attestation=(await witnessed(house, 1)).id)
    workload = await witnessed(house, 2)
    answer = await house.report(detector=ONE, attestation=workload.id, code="later")
    assert answer.state is DetectionState.HELD
    return workload, answer


async def record(house: House, answer: ReportAnswer) -> DetectionRecord:
    found = await house.look(lambda tx: tx.detections.get(answer.detection_id))
    assert isinstance(found, DetectionRecord)
    return found


class TestApprove:
    async def test_it_happens_before_the_answer_and_for_good(self) -> None:
        house = await House.open(*RETRY)
        workload, answer = await one_too_many(house)
        # It came to its credential before, so that nothing but the approval takes it away.
        approved = await house.approver.approve(
            house.operator("approve"), answer.detection_id, "seen it", "INC-1"
        )
        assert approved == await record(house, answer)
        assert approved.state is DetectionState.APPLIED
        assert approved.decided_by.startswith("operator:ann:")
        assert (await workload.row()).state is AttestationState.REVOKED
        assert (await house.issue_refusal(workload)).reason is Reason.REVOKED
        revocation = await house.revocation(approved.revocation_id)
        assert (revocation.actor, revocation.ticket) == (approved.decided_by, "INC-1")
        assert revocation.detection_id == answer.detection_id
        assert revocation.reason == "library: later; approved: seen it"
        # The timed ban is over by then; the approval's is not.
        house.clock.advance(HOUR)
        again = house.workload(level=Assurance.WITNESSED, process=workload.process)
        assert (await house.attest_refusal(again)).reason is Reason.BANNED

    async def test_its_credentials_end_as_those_of_any_revocation(self) -> None:
        house = await House.open(*RETRY)
        workload = await witnessed(house, 2)
        api = await workload.issue()
        await house.report(detector=ONE, attestation=(await witnessed(house, 1)).id)
        answer = await house.report(detector=ONE, attestation=workload.id)
        assert await workload.good(api)
        approved = await house.approver.approve(house.operator("approve"), answer.detection_id, "", "")
        assert not await workload.good(api)
        await house.tick()
        assert (await house.lease(api.lease.id)).state is LeaseState.REVOKED
        assert await house.settled(approved.revocation_id)

    async def test_both_decisions_are_on_record(self) -> None:
        house = await House.open(*RETRY)
        workload, answer = await one_too_many(house)
        approved = await house.approver.approve(house.operator("approve"), answer.detection_id, "", "")
        held = await house.look(lambda tx: tx.decisions.get(answer.decision_id))
        said = await house.look(lambda tx: tx.decisions.get(approved.decision_id))
        assert (held.effect, said.effect) == (Effect.QUARANTINED, Effect.REVOKED)
        assert said.kind is DecisionKind.DETECTION
        assert (said.actor, said.instances) == (approved.decided_by, (workload.id,))
        assert said.findings == held.findings
        assert answer.decision_id in said.detail
        assert [item.id for item in house.people.audit[-2:]] == [held.id, said.id]
        asked = await house.explainer.explain(house.operator("explain"), answer.detection_id, False)
        assert asked.decision == said

    async def test_a_wide_cut_falls_on_all_whom_it_named(self) -> None:
        house = await House.open()
        fleet = [await house.attested() for _ in range(4)]
        process = {"spiffe": fleet[0].identity.name}
        held = await house.report(**process)
        assert held.state is DetectionState.HELD
        assert await house.log() == []
        approved = await house.approver.approve(house.operator("approve"), held.detection_id, "", "")
        for workload in fleet:
            assert (await workload.row()).state is AttestationState.REVOKED
        assert set(approved.instances) == {workload.id for workload in fleet}
        # Nothing tells its instances apart and the role holds: so would the report have stopped the identity.
        await house.attest_refusal(house.workload())

    async def test_a_guess_falls_on_those_that_fit_and_stops_no_identity(self) -> None:
        house = await House.open()
        guessed = await house.attested(process=ProcessRef(node="node-1"))
        sibling = await house.attested(process=ProcessRef(node="node-2"))
        held = await house.report(node="node-1")
        assert held.state is DetectionState.HELD
        await house.approver.approve(house.operator("approve"), held.detection_id, "", "")
        assert (await guessed.row()).state is AttestationState.REVOKED
        assert (await sibling.row()).state is AttestationState.ALIVE
        await sibling.issue()
        await house.attested()

    async def test_what_would_only_have_been_quarantined_is(self) -> None:
        house = await House.open()
        fleet = [await house.attested() for _ in range(4)]
        lazy = policy(default_action=Action.QUARANTINE)
        held = await house.report(detector=lazy, spiffe=fleet[0].identity.name)
        assert held.state is DetectionState.HELD
        approved = await house.approver.approve(house.operator("approve"), held.detection_id, "", "")
        said = await house.look(lambda tx: tx.decisions.get(approved.decision_id))
        assert said.effect is Effect.QUARANTINED
        for workload in fleet:
            assert (await workload.row()).state is AttestationState.ALIVE
            assert (await house.issue_refusal(workload)).reason is Reason.BANNED
        house.clock.advance(901)
        await house.attested()

    async def test_the_same_process_attested_anew_is_still_the_one_that_was_meant(self) -> None:
        house = await House.open(*RETRY)
        workload, answer = await one_too_many(house)
        house.clock.advance(901)
        anew = house.workload(level=Assurance.WITNESSED, process=workload.process)
        await anew.attest("app")
        await house.approver.approve(house.operator("approve"), answer.detection_id, "", "")
        assert (await anew.row()).state is AttestationState.REVOKED
        assert anew.id in (await record(house, answer)).instances

    async def test_the_policy_of_now_is_not_asked(self) -> None:
        house = await House.open(*RETRY)
        workload, answer = await one_too_many(house)
        house.people.book = replace(house.people.book, detectors={})
        await house.approver.approve(house.operator("approve"), answer.detection_id, "", "")
        assert (await workload.row()).state is AttestationState.REVOKED

    async def test_it_takes_the_room_that_it_would_have_taken(self) -> None:
        house = await House.open(*RETRY)
        wide = policy(cap=Cap(2, 1.0, HOUR))
        first = await witnessed(house, 1)
        held = await house.report(detector=policy(cap=Cap(2, 0.1, HOUR)), node="node-1")
        assert held.state is DetectionState.HELD
        await house.approver.approve(house.operator("approve"), held.detection_id, "", "")
        assert (await first.row()).state is AttestationState.REVOKED
        second, third = await witnessed(house, 2), await witnessed(house, 3)
        assert (await house.report(detector=wide, attestation=second.id)).state is DetectionState.APPLIED
        assert (await house.report(detector=wide, attestation=third.id)).state is DetectionState.HELD


class TestDismiss:
    async def test_the_report_ends_and_so_does_the_ban_that_held_it(self) -> None:
        house = await House.open(*RETRY)
        workload, answer = await one_too_many(house)
        assert (await house.issue_refusal(workload)).reason is Reason.BANNED
        dismissed = await house.approver.dismiss(
            house.operator("approve"), answer.detection_id, "a test of ours", "INC-2"
        )
        assert dismissed == await record(house, answer)
        assert dismissed.state is DetectionState.DISMISSED
        assert dismissed.reason == "dismissed: a test of ours"
        await workload.issue()
        said = await house.look(lambda tx: tx.decisions.get(dismissed.decision_id))
        assert (said.verdict, said.effect, said.ticket) == (Reason.OK, Effect.LIFTED, "INC-2")
        assert house.people.audit[-1].id != said.id  # the lease came after
        assert said in house.people.audit
        kinds = [entry.body.kind for entry in await house.log() if entry.body.decision_id == said.id]
        assert set(kinds) == {EntryKind.LIFTED}

    async def test_where_nobody_was_banned_there_is_only_the_record(self) -> None:
        house = await House.open()
        fleet = [await house.attested() for _ in range(4)]
        held = await house.report(spiffe=fleet[0].identity.name)
        dismissed = await house.approver.dismiss(house.operator("approve"), held.detection_id, "no", "")
        said = await house.look(lambda tx: tx.decisions.get(dismissed.decision_id))
        assert (said.effect, said.actor) == (Effect.RECORDED, dismissed.decided_by)
        assert await house.log() == []
        for workload in fleet:
            await workload.issue()

    async def test_the_ban_of_the_one_that_a_colleague_lifted_before(self) -> None:
        house = await House.open(*RETRY)
        _, answer = await one_too_many(house)
        await house.lift((await record(house, answer)).revocation_id)
        dismissed = await house.approver.dismiss(house.operator("approve"), answer.detection_id, "no", "")
        said = await house.look(lambda tx: tx.decisions.get(dismissed.decision_id))
        assert said.effect is Effect.RECORDED


class TestOnce:
    async def test_the_same_again_is_the_same_answer_and_no_second_act(self) -> None:
        house = await House.open(*RETRY)
        _, answer = await one_too_many(house)
        ann = house.operator("approve")
        first = await house.approver.approve(ann, answer.detection_id, "yes", "")
        log, decisions = await house.log(), await house.decisions()
        assert await house.approver.approve(ann, answer.detection_id, "yes, yes", "") == first
        assert (await house.log(), await house.decisions()) == (log, decisions)
        with pytest.raises(Conflict, match="approved by operator:ann"):
            await house.approver.dismiss(ann, answer.detection_id, "no", "")
        assert await record(house, answer) == first

    async def test_what_is_dismissed_is_not_approved(self) -> None:
        house = await House.open(*RETRY)
        workload, answer = await one_too_many(house)
        ann = house.operator("approve")
        first = await house.approver.dismiss(ann, answer.detection_id, "no", "")
        assert await house.approver.dismiss(ann, answer.detection_id, "no!", "") == first
        with pytest.raises(Conflict, match="dismissed by operator:ann"):
            await house.approver.approve(ann, answer.detection_id, "yes", "")
        assert (await workload.row()).state is AttestationState.ALIVE

    @pytest.mark.parametrize("rush", range(6))
    async def test_two_operators_at_once_end_in_one_outcome(self, rush: int) -> None:
        house = await House.open(*RETRY)
        workload, answer = await one_too_many(house)
        ann = house.operator("approve")
        calls = [
            house.approver.approve(ann, answer.detection_id, "yes", ""),
            house.approver.dismiss(ann, answer.detection_id, "no", ""),
        ]
        ends = await asyncio.gather(*(calls if rush % 2 else calls[::-1]), return_exceptions=True)
        assert sum(isinstance(end, Conflict) for end in ends) == 1
        [done] = [end for end in ends if isinstance(end, DetectionRecord)]
        assert await record(house, answer) == done
        revoked = (await workload.row()).state is AttestationState.REVOKED
        assert revoked is (done.state is DetectionState.APPLIED)
        said = [item for item in await house.decisions() if item.detection_id == answer.detection_id]
        assert [item.id for item in said] == [answer.decision_id, done.decision_id]
        assert not house.feed.denials.anticipating

    async def test_two_approvals_at_once_are_one_revocation(self) -> None:
        house = await House.open(*RETRY)
        _, answer = await one_too_many(house)
        ann = house.operator("approve")
        both = await asyncio.gather(
            *(house.approver.approve(ann, answer.detection_id, "yes", "") for _ in range(2))
        )
        assert both[0] == both[1] == await record(house, answer)
        acts = await house.look(lambda tx: tx.revocations.page(10))
        assert [item.detection_id for item in acts].count(
            answer.detection_id
        ) == 2  # the ban, and the approval

    async def test_without_a_state_nothing_is_promised_and_it_is_still_held(self) -> None:
        house = await House.open(*RETRY)
        workload, answer = await one_too_many(house)
        house.state.fail_write()
        with pytest.raises(Unavailable):
            await house.approver.approve(house.operator("approve"), answer.detection_id, "", "")
        assert (await record(house, answer)).state is DetectionState.HELD
        await house.approver.approve(house.operator("approve"), answer.detection_id, "", "")
        assert (await workload.row()).state is AttestationState.REVOKED


class TestWhatCannotBeDecided:
    async def test_only_what_is_held(self) -> None:
        house = await House.open()
        workload = await house.attested()
        applied = await house.report(attestation=workload.id)
        unmatched = await house.report(node="nowhere")
        ann = house.operator("approve")
        for answer, state in ((applied, "applied"), (unmatched, "unmatched")):
            before = await record(house, answer)
            with pytest.raises(Conflict, match=f"not held but {state}"):
                await house.approver.approve(ann, answer.detection_id, "", "")
            with pytest.raises(Conflict, match=f"not held but {state}"):
                await house.approver.dismiss(ann, answer.detection_id, "no", "")
            assert await record(house, answer) == before

    async def test_what_is_not_there(self) -> None:
        house = await House.open()
        with pytest.raises(NotFound):
            await house.approver.approve(house.operator("approve"), "R-none", "", "")
        with pytest.raises(NotFound):
            await house.approver.dismiss(house.operator("approve"), "R-none", "no", "")

    async def test_a_dismissal_says_why(self) -> None:
        house = await House.open(*RETRY)
        _, answer = await one_too_many(house)
        with pytest.raises(InvalidRequest, match="reason"):
            await house.approver.dismiss(house.operator("approve"), answer.detection_id, " ", "")
        with pytest.raises(InvalidRequest, match="printable"):
            await house.approver.approve(house.operator("approve"), answer.detection_id, "\x1b[2J", "")
        assert (await record(house, answer)).state is DetectionState.HELD

    async def test_what_an_older_broker_held_says_what_to_do_instead(self) -> None:
        house = await House.open(*RETRY)
        _, answer = await one_too_many(house)
        old = replace(await record(house, answer), id="R-old", held=None)
        await house.state.transact(lambda tx: tx.detections.add(old))
        with pytest.raises(Conflict, match="revoke what it names"):
            await house.approver.approve(house.operator("approve"), "R-old", "", "")
        dismissed = await house.approver.dismiss(house.operator("approve"), "R-old", "revoked by hand", "")
        assert dismissed.state is DetectionState.DISMISSED


async def test_one_that_was_revoked_by_hand_in_between_is_approved_all_the_same() -> None:
    house = await House.open(*RETRY)
    workload, answer = await one_too_many(house)
    await house.revoke(SelectorKind.ATTESTATION, workload.id)
    approved = await house.approver.approve(house.operator("approve"), answer.detection_id, "", "")
    assert approved.state is DetectionState.APPLIED
    assert approved.instances == (workload.id,)
