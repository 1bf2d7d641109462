"""Report: whom a report means, what the broker makes of it, and that it counts once."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from broker.errors import Denied, LimitExceeded, NotFound, Unavailable
from broker.model.attestation import AttestationState
from broker.model.caller import WorkloadCaller
from broker.model.decision import DecisionKind, Effect
from broker.model.detection import DetectionKind, DetectionState
from broker.model.evidence import Assurance, ProcessRef
from broker.model.identity import IdentityMatch, InstanceClaims
from broker.model.manifest import ManifestUnit
from broker.model.revocation import SelectorKind
from broker.model.role import Action, AfterRevocation, Cap, Mode, Rate
from lockstep.formats import Reason, UnitKind
from tests.support.house import HOUR, House, Workload, policy, role
from tests.support.manifests import digest, unit

PROCESS = ProcessRef(
    node="node-1", boot_id="boot-1", pid=7, start_ticks=9, container_id="c-1", pod_uid="pod-1"
)
WHERE = {"node": "node-1", "boot_id": "boot-1", "pid": 7, "start_ticks": 9}

RETRY = (
    role("api", after_revocation=AfterRevocation.RETRY),
    role("watched", mode=Mode.OBSERVE, identity=IdentityMatch("oidc", subject="watched")),
)


async def state(workload: Workload) -> AttestationState:
    return (await workload.row()).state


async def witnessed(house: House, **changes: object) -> Workload:
    process = replace(PROCESS, **changes)  # type: ignore[arg-type]
    return await house.attested(level=Assurance.WITNESSED, process=process)


class TestWhomItMeans:
    @pytest.mark.parametrize(
        "subject",
        [
            WHERE,
            {"container_id": "c-1"},
            {"pod_uid": "pod-1"},
            {"spiffe": "spiffe://pay.example/payments"},
            {**WHERE, "container_id": "c-1", "pod_uid": "pod-1"},
        ],
    )
    async def test_the_instance_that_is_named_is_revoked_before_the_answer(
        self, subject: dict[str, object]
    ) -> None:
        spiffe = role("api", identity=IdentityMatch("oidc", spiffe_id="spiffe://pay.example/*"))
        house = await House.open(spiffe)
        workload = house.workload(
            "spiffe://pay.example/payments", issuer=None, level=Assurance.WITNESSED, process=PROCESS
        )
        await workload.attest("app")
        api = await workload.issue()
        answer = await house.report(**subject)
        assert answer.state is DetectionState.APPLIED
        assert await state(workload) is AttestationState.REVOKED
        assert not await workload.good(api)
        decision = await house.look(lambda tx: tx.decisions.get(answer.decision_id))
        assert (decision.kind, decision.effect, decision.mode) == (
            DecisionKind.DETECTION,
            Effect.REVOKED,
            Mode.ENFORCE,
        )
        assert decision.instances == (workload.id,)
        record = await house.look(lambda tx: tx.detections.get(answer.detection_id))
        assert (record.state, record.revocation_id) == (
            DetectionState.APPLIED,
            (await house.only_revocation()).id,
        )

    async def test_the_neighbours_live_on(self) -> None:
        house = await House.open(*RETRY)
        workload = await witnessed(house)
        neighbours = [
            await witnessed(house, pid=8, container_id="c-2", pod_uid="pod-2"),
            await witnessed(house, node="node-2", container_id="c-3", pod_uid="pod-3"),
        ]
        await house.report(**WHERE)
        assert await state(workload) is AttestationState.REVOKED
        for neighbour in neighbours:
            assert await state(neighbour) is AttestationState.ALIVE
            await neighbour.issue()

    async def test_a_child_process_in_its_container_is_the_workloads(self) -> None:
        house = await House.open()
        workload = await witnessed(house)
        answer = await house.report(**{**WHERE, "pid": 99, "start_ticks": 1000}, container_id="c-1")
        assert answer.state is DetectionState.APPLIED
        assert await state(workload) is AttestationState.REVOKED

    async def test_a_sidecar_of_its_pod_is_not(self) -> None:
        house = await House.open()
        workload = await witnessed(house)
        answer = await house.report(**{**WHERE, "pid": 99}, container_id="c-sidecar", pod_uid="pod-1")
        assert answer.state is DetectionState.UNRELATED
        assert await state(workload) is AttestationState.ALIVE

    @pytest.mark.parametrize(
        "subject",
        [
            {**WHERE, "pid": 8},
            {**WHERE, "start_ticks": 10},
            {**WHERE, "boot_id": "boot-0"},
            {**WHERE, "node": "node-2"},
            {"container_id": "c-9"},
            {"pod_uid": "pod-9"},
            {"spiffe": "spiffe://pay.example/payments"},
            {"attestation": "A-unknown"},
        ],
    )
    async def test_who_is_fully_named_and_not_ours_is_unrelated(self, subject: dict[str, object]) -> None:
        house = await House.open()
        workload = await witnessed(house)
        answer = await house.report(**subject)
        assert answer.state is DetectionState.UNRELATED
        assert await state(workload) is AttestationState.ALIVE
        assert await house.log() == []

    async def test_a_container_with_several_attestations_falls_as_one(self) -> None:
        """Or a crowd of attestations would buy its way over the cap."""
        house = await House.open()
        crowd = [await witnessed(house) for _ in range(12)]
        answer = await house.report(detector=policy(cap=Cap(1, 1.0, HOUR)), container_id="c-1")
        assert answer.state is DetectionState.APPLIED
        assert {await state(item) for item in crowd} == {AttestationState.REVOKED}

    async def test_what_expired_is_unrelated_and_what_was_revoked_is_a_duplicate(self) -> None:
        house = await House.open()
        workload = await house.attested()
        await house.tick(300)
        assert (await house.report(attestation=workload.id)).state is DetectionState.UNRELATED
        other = await house.attested()
        await house.report(attestation=other.id)
        answer = await house.report(attestation=other.id)
        assert (answer.state, answer.reason) == (DetectionState.DUPLICATE, "already revoked")

    @pytest.mark.parametrize("subject", [WHERE, {**WHERE, "container_id": "c-1"}])
    async def test_a_second_report_of_a_revoked_process_is_a_duplicate(
        self, subject: dict[str, object]
    ) -> None:
        house = await House.open()
        await witnessed(house)
        await house.report(**subject)
        answer = await house.report(**subject)
        assert answer.state is DetectionState.DUPLICATE
        assert len(await house.look(lambda tx: tx.revocations.page(9))) == 1


POD = InstanceClaims(pod_uid="pod-1")
SPIFFE = role("api", identity=IdentityMatch("oidc", spiffe_id="spiffe://pay.example/*"))
PAY = "spiffe://pay.example/payments"
TRUTH = {"node": "node-1", "boot_id": "boot-1", "pid": 7, "start_ticks": 9, "container_id": "c-1"}
LIES = [
    ProcessRef(),
    PROCESS,
    replace(PROCESS, node="node-9"),
    replace(PROCESS, boot_id="boot-9"),
    replace(PROCESS, container_id="c-9"),
    replace(PROCESS, pid=8),
    ProcessRef(node="node-9"),
]


class TestLies:
    """Whatever a workload says of its place: who is vouched for by another is found, and by no other detector."""

    @pytest.mark.parametrize("said", LIES)
    async def test_the_pod_of_its_identity_is_enough(self, said: ProcessRef) -> None:
        house = await House.open(*RETRY)
        workload = await house.attested(place=POD, process=said)
        api = await workload.issue()
        neighbour = await house.attested(place=InstanceClaims(pod_uid="pod-2"))
        answer = await house.report(pod_uid="pod-1", **TRUTH)
        assert answer.state is DetectionState.APPLIED
        assert not await workload.good(api)
        assert await state(neighbour) is AttestationState.ALIVE

    @pytest.mark.parametrize("said", [*LIES, replace(PROCESS, pod_uid="pod-9")])
    @pytest.mark.parametrize("subject", [{}, {"node": "node-1"}, {**TRUTH, "pod_uid": "pod-1"}])
    async def test_so_is_its_spiffe_id(self, said: ProcessRef, subject: dict[str, object]) -> None:
        house = await House.open(SPIFFE)
        workload = await house.attested(subject=PAY, issuer=None, process=said)
        answer = await house.report(spiffe=PAY, **subject)
        assert answer.state is DetectionState.APPLIED
        assert await state(workload) is AttestationState.REVOKED

    async def test_another_attestation_that_tells_the_truth_hides_no_liar_of_the_same_pod(self) -> None:
        house = await House.open(*RETRY)
        decoy = await house.attested(place=POD, process=PROCESS)
        liar = await house.attested(place=POD, process=replace(PROCESS, pid=8, container_id="c-9"))
        assert (await house.report(pod_uid="pod-1", **TRUTH)).state is DetectionState.APPLIED
        assert {await state(decoy), await state(liar)} == {AttestationState.REVOKED}

    async def test_nor_does_a_witnessed_one_hide_what_only_says_where_it_is(self) -> None:
        house = await House.open(*RETRY)
        decoy = await house.attested(place=POD, process=PROCESS, level=Assurance.WITNESSED)
        liar = await house.attested(place=POD, process=replace(PROCESS, pid=8))
        sibling = await house.attested(place=POD, process=replace(PROCESS, pid=9), level=Assurance.WITNESSED)
        assert (await house.report(pod_uid="pod-1", **TRUTH)).state is DetectionState.APPLIED
        assert {await state(decoy), await state(liar)} == {AttestationState.REVOKED}
        # A sensor says that it is another process than the one that is meant.
        assert await state(sibling) is AttestationState.ALIVE

    async def test_nor_does_a_workload_of_another_identity_take_it_upon_itself(self) -> None:
        house = await House.open(SPIFFE)
        decoy = await house.attested(subject="spiffe://pay.example/other", issuer=None, process=PROCESS)
        liar = await house.attested(subject=PAY, issuer=None, process=ProcessRef(node="node-9"))
        assert (await house.report(spiffe=PAY, **TRUTH)).state is DetectionState.APPLIED
        assert {await state(decoy), await state(liar)} == {AttestationState.REVOKED}

    async def test_among_the_instances_of_one_identity_their_own_words_pick(self) -> None:
        house = await House.open(replace(SPIFFE, after_revocation=AfterRevocation.RETRY))
        meant = await house.attested(subject=PAY, issuer=None, process=PROCESS)
        other = await house.attested(subject=PAY, issuer=None, process=replace(PROCESS, container_id="c-2"))
        assert (await house.report(spiffe=PAY, container_id="c-1")).state is DetectionState.APPLIED
        assert await state(meant) is AttestationState.REVOKED
        assert await state(other) is AttestationState.ALIVE

    @pytest.mark.parametrize("said", ["", "node-1", "node-9"])
    async def test_the_scope_of_a_detector_goes_by_the_node_that_it_names(self, said: str) -> None:
        for named, expected in (("node-1", DetectionState.APPLIED), ("node-2", DetectionState.REJECTED)):
            house = await House.open()
            workload = await house.attested(place=POD, process=ProcessRef(node=said))
            answer = await house.report(detector=policy(nodes=("node-1",)), pod_uid="pod-1", node=named)
            assert answer.state is expected
            # Nobody is spared, or given away, for what it says of itself.
            silent = await house.report(detector=policy(nodes=("node-1",)), attestation=workload.id)
            assert silent.state in (DetectionState.REJECTED, DetectionState.DUPLICATE)

    async def test_the_scope_of_a_detector_goes_by_the_node_of_the_identity_first(self) -> None:
        house = await House.open()
        place = InstanceClaims(node="node-2", pod_uid="pod-1")
        workload = await house.attested(place=place)
        detector = policy(nodes=("node-1",))
        for subject in ({"attestation": workload.id}, {"pod_uid": "pod-1"}):
            assert (await house.report(detector=detector, **subject)).state is DetectionState.REJECTED
        assert await state(workload) is AttestationState.ALIVE


class TestIncompleteSubjects:
    async def test_whoever_fits_gets_nothing_new_for_a_while(self) -> None:
        house = await House.open(*RETRY)
        fits = await witnessed(house)
        other = await witnessed(house, pid=8, container_id="c-2", pod_uid="pod-2")
        far = await witnessed(house, node="node-2", container_id="c-3", pod_uid="pod-3")
        api = await fits.issue()
        answer = await house.report(node="node-1", pid=7)
        assert (answer.state, answer.reason) == (
            DetectionState.HELD,
            "could be any of 1: banned for a time",
        )
        decision = await house.look(lambda tx: tx.decisions.get(answer.decision_id))
        assert (decision.effect, decision.instances) == (Effect.QUARANTINED, (fits.id,))
        # What it has goes on: nobody knows yet whether it was this one.
        assert await state(fits) is AttestationState.ALIVE
        assert await fits.good(api)
        assert (await house.issue_refusal(fits)).reason is Reason.BANNED
        for free in (other, far):
            await free.issue()
        house.clock.advance(10)
        await house.attest_refusal(house.workload(level=Assurance.WITNESSED, process=PROCESS))
        await other.reattest()
        house.clock.advance(900)
        again = await witnessed(house)
        await again.issue()

    async def test_only_a_node_is_everybody_on_it(self) -> None:
        house = await House.open(*RETRY)
        here = [await witnessed(house), await witnessed(house, pid=8, container_id="c-2", pod_uid="pod-2")]
        there = await witnessed(house, node="node-2", container_id="c-3", pod_uid="pod-3")
        assert (await house.report(node="node-1")).state is DetectionState.HELD
        for workload in here:
            assert (await house.issue_refusal(workload)).reason is Reason.BANNED
        await there.issue()

    async def test_a_guess_stops_no_siblings_elsewhere(self) -> None:
        house = await House.open()
        guessed = await house.attested(process=ProcessRef(node="node-1"))
        sibling = await house.attested(process=ProcessRef(node="node-2"))
        assert (await house.report(node="node-1")).state is DetectionState.HELD
        assert (await house.issue_refusal(guessed)).reason is Reason.BANNED
        await sibling.issue()

    @pytest.mark.parametrize("subject", [{}, {"pid": 7}, {"node": "node-9"}, {"node": "node-1", "pid": 99}])
    async def test_nobody_who_fits_is_unmatched(self, subject: dict[str, object]) -> None:
        house = await House.open()
        await witnessed(house)
        assert (await house.report(**subject)).state is DetectionState.UNMATCHED
        assert await house.log() == []


class TestTheBrokerDecides:
    async def test_what_the_manifest_approves_is_no_violation(self) -> None:
        house = await House.open()
        workload = await house.attested("app")
        answer = await house.report(attestation=workload.id, code="lib", kind=DetectionKind.MODULE)
        assert (answer.state, answer.reason) == (DetectionState.UNRELATED, "approved by the manifest")
        assert await state(workload) is AttestationState.ALIVE

    async def test_also_by_the_digest_of_a_whole_file(self) -> None:
        house = await House.open(publish=False)
        whole = ManifestUnit(unit("app"), file_digests=(digest("app.pyc"),))
        await house.publish(1, whole)
        workload = await house.attested("app")
        answer = await house.report(attestation=workload.id, code="app.pyc", kind=DetectionKind.MODULE)
        assert answer.state is DetectionState.UNRELATED

    @pytest.mark.parametrize("kind", [DetectionKind.LIBRARY, DetectionKind.EXEC])
    async def test_approved_as_another_kind_of_code_is_not_approved(self, kind: DetectionKind) -> None:
        house = await House.open(publish=False)
        await house.publish(1, ManifestUnit(unit("app")), ManifestUnit(unit("model", UnitKind.MODEL)))
        workload = await house.attested("app")
        answer = await house.report(attestation=workload.id, code="model", kind=kind)
        assert answer.state is DetectionState.APPLIED

    @pytest.mark.parametrize("kind", [DetectionKind.MEMFD, DetectionKind.DOWNLOAD])
    async def test_a_report_that_says_no_kind_of_code_goes_by_the_digest(self, kind: DetectionKind) -> None:
        house = await House.open()
        workload = await house.attested("app")
        answer = await house.report(attestation=workload.id, code="lib", kind=kind)
        assert (answer.state, answer.reason) == (DetectionState.UNRELATED, "approved by the manifest")

    @pytest.mark.parametrize(
        "kind",
        [
            DetectionKind.TEXT_PATCH,
            DetectionKind.INJECTION,
            DetectionKind.ANON_EXEC,
            DetectionKind.GENERATED_CODE,
        ],
    )
    async def test_the_approved_file_of_a_process_that_was_patched_excuses_nothing(
        self, kind: DetectionKind
    ) -> None:
        house = await House.open()
        workload = await house.attested("app")
        answer = await house.report(attestation=workload.id, code="app", kind=kind)
        assert answer.state is DetectionState.APPLIED

    async def test_approved_for_another_role_is_not_approved_for_this_one(self) -> None:
        tools = role("tools", manifests=("base",))
        house = await House.open(role("api"), tools)
        await house.publish(1, "app", "debugger", application="base")
        workload = await house.attested("app")
        answer = await house.report(attestation=workload.id, code="debugger")
        assert answer.state is DetectionState.APPLIED
        decision = await house.look(lambda tx: tx.decisions.get(answer.decision_id))
        assert decision.role == "api"

    async def test_in_observe_it_is_seen_and_nobody_falls(self) -> None:
        house = await House.open()
        workload = await house.attested(subject="watched")
        answer = await house.report(attestation=workload.id)
        assert answer.state is DetectionState.OBSERVED
        decision = await house.look(lambda tx: tx.decisions.get(answer.decision_id))
        assert (decision.verdict, decision.effect, decision.mode) == (
            Reason.APPRAISAL_FAILED,
            Effect.NONE,
            Mode.OBSERVE,
        )
        assert await house.log() == []
        assert decision in house.people.audit

    async def test_one_role_that_enforces_is_enough(self) -> None:
        house = await House.open(role("a", mode=Mode.OBSERVE), role("b"))
        workload = await house.attested()
        assert (await house.report(attestation=workload.id)).state is DetectionState.APPLIED

    @pytest.mark.parametrize("kind", [DetectionKind.SENSOR_BLIND, DetectionKind.HEARTBEAT])
    async def test_what_a_sensor_says_of_itself_kills_nobody(self, kind: DetectionKind) -> None:
        house = await House.open()
        workload = await witnessed(house)
        for subject in ({"attestation": workload.id}, {"node": "node-1"}):
            assert (await house.report(kind=kind, **subject)).state is DetectionState.OBSERVED
        assert await house.log() == []

    async def test_a_policy_says_what_a_kind_does(self) -> None:
        house = await House.open(*RETRY)
        actions = {"exec": Action.OBSERVE, "library": Action.QUARANTINE}
        detector = policy(actions=actions)
        workload = await witnessed(house)
        for pid in (1, 2):
            await witnessed(house, pid=pid, container_id=f"c-{pid}", pod_uid="")
        seen = await house.report(detector=detector, attestation=workload.id, kind=DetectionKind.EXEC)
        assert seen.state is DetectionState.OBSERVED
        held = await house.report(detector=detector, attestation=workload.id)
        assert held.state is DetectionState.APPLIED
        assert await state(workload) is AttestationState.ALIVE
        assert (await house.issue_refusal(workload)).reason is Reason.BANNED
        await house.attest_refusal(house.workload(level=Assurance.WITNESSED, process=PROCESS))
        last = await house.report(detector=detector, attestation=workload.id, kind=DetectionKind.MEMFD)
        assert await state(workload) is AttestationState.REVOKED
        assert last.state is DetectionState.APPLIED

    @pytest.mark.parametrize(
        "scope", [{"roles": ("other-*",)}, {"nodes": ("node-2",)}, {"nodes": ("node",)}, {"roles": ("ap",)}]
    )
    async def test_beyond_its_scope_a_detector_is_not_believed(
        self, scope: dict[str, tuple[str, ...]]
    ) -> None:
        house = await House.open()
        workload = await witnessed(house)
        answer = await house.report(detector=policy(**scope), **WHERE)
        assert answer.state is DetectionState.REJECTED
        assert await state(workload) is AttestationState.ALIVE

    async def test_a_node_that_is_not_known_is_in_no_scope_of_nodes(self) -> None:
        house = await House.open()
        workload = await house.attested()
        answer = await house.report(detector=policy(nodes=("*",)), attestation=workload.id)
        assert answer.state is DetectionState.REJECTED
        assert "names none" in answer.reason


class TestCaps:
    async def test_beyond_the_cap_one_instance_waits_in_a_timed_ban(self) -> None:
        house = await House.open(*RETRY)
        detector = policy(cap=Cap(1, 1.0, HOUR))
        first = await witnessed(house)
        second = await witnessed(house, pid=8, container_id="c-2", pod_uid="pod-2")
        api = await second.issue()
        assert (await house.report(detector=detector, attestation=first.id)).state is DetectionState.APPLIED
        answer = await house.report(detector=detector, attestation=second.id)
        assert answer.state is DetectionState.HELD
        decision = await house.look(lambda tx: tx.decisions.get(answer.decision_id))
        assert decision.effect is Effect.QUARANTINED
        assert await state(second) is AttestationState.ALIVE
        assert await second.good(api)
        assert (await house.issue_refusal(second)).reason is Reason.BANNED
        held = await house.look(lambda tx: tx.detections.page((DetectionState.HELD,), 9))
        assert [item.instances for item in held] == [(second.id,)]

    async def test_what_a_detector_put_in_quarantine_leaves_room_for_what_it_revokes(self) -> None:
        house = await House.open(*RETRY)
        detector = policy(cap=Cap(1, 1.0, HOUR), actions={"exec": Action.QUARANTINE})
        first = await witnessed(house)
        second = await witnessed(house, pid=8, container_id="c-2", pod_uid="pod-2")
        quarantined = await house.report(detector=detector, attestation=first.id, kind=DetectionKind.EXEC)
        assert quarantined.state is DetectionState.APPLIED
        answer = await house.report(detector=detector, attestation=second.id)
        assert answer.state is DetectionState.APPLIED
        assert await state(second) is AttestationState.REVOKED

    async def test_the_period_gives_room_again(self) -> None:
        house = await House.open(*RETRY)
        detector = policy(cap=Cap(1, 1.0, 100.0))
        workloads = [await witnessed(house, pid=pid, container_id=f"c-{pid}", pod_uid="") for pid in (1, 2)]
        await house.report(detector=detector, attestation=workloads[0].id)
        house.clock.advance(101)
        answer = await house.report(detector=detector, attestation=workloads[1].id)
        assert answer.state is DetectionState.APPLIED

    async def test_a_share_of_those_alive_is_a_cap_as_well_and_one_is_always_in_it(self) -> None:
        house = await House.open(*RETRY)
        detector = policy(cap=Cap(100, 0.25, HOUR))
        workloads = [
            await witnessed(house, pid=pid, container_id=f"c-{pid}", pod_uid="") for pid in range(1, 9)
        ]
        states = [
            (await house.report(detector=detector, attestation=item.id)).state for item in workloads[:4]
        ]
        # A quarter of eight; then of six, which are one, and two are used.
        assert states == [DetectionState.APPLIED] + [DetectionState.APPLIED] * 0 + states[1:]
        assert states.count(DetectionState.APPLIED) in (1, 2)
        assert DetectionState.HELD in states

    async def test_a_wide_cut_beyond_the_cap_is_held_and_cuts_nothing(self) -> None:
        spiffe = role("api", identity=IdentityMatch("oidc", spiffe_id="spiffe://pay.example/*"))
        house = await House.open(spiffe)
        fleet = []
        for number in range(4):
            workload = house.workload("spiffe://pay.example/payments", issuer=None)
            workload.number = 100 + number
            workload.know()
            await workload.attest("app")
            fleet.append(workload)
        answer = await house.report(spiffe="spiffe://pay.example/payments")
        assert answer.state is DetectionState.HELD
        assert await house.log() == []
        for workload in fleet:
            await workload.issue()
        decision = await house.look(lambda tx: tx.decisions.get(answer.decision_id))
        assert (decision.effect, len(decision.instances)) == (Effect.HELD, 4)

    async def test_a_wide_cut_within_the_cap_is_applied_to_all(self) -> None:
        spiffe = role("api", identity=IdentityMatch("oidc", spiffe_id="spiffe://pay.example/*"))
        house = await House.open(spiffe)
        fleet = [house.workload("spiffe://pay.example/payments", issuer=None) for _ in range(3)]
        for workload in fleet:
            await workload.attest("app")
        assert (await house.report(spiffe="spiffe://pay.example/payments")).state is DetectionState.APPLIED
        assert {await state(item) for item in fleet} == {AttestationState.REVOKED}
        # One ban of the identity, not one for each.
        kinds = [item.body.selector.kind for item in await house.log()]
        assert kinds.count(SelectorKind.IDENTITY) == 1

    async def test_a_flood_at_once_does_not_slip_under_the_cap(self) -> None:
        house = await House.open(*RETRY)
        detector = policy(cap=Cap(3, 1.0, HOUR))
        fleet = [await witnessed(house, pid=pid, container_id=f"c-{pid}", pod_uid="") for pid in range(1, 21)]
        answers = await asyncio.gather(
            *(house.report(detector=detector, attestation=item.id) for item in fleet)
        )
        states = [item.state for item in answers]
        assert states.count(DetectionState.APPLIED) == 3
        assert states.count(DetectionState.HELD) == 17
        assert [await state(item) for item in fleet].count(AttestationState.REVOKED) == 3
        for item in fleet:
            assert (await house.issue_refusal(item)).reason in (Reason.BANNED, Reason.REVOKED)

    async def test_one_detectors_cap_is_not_anothers(self) -> None:
        house = await House.open(*RETRY)
        workloads = [await witnessed(house, pid=pid, container_id=f"c-{pid}", pod_uid="") for pid in (1, 2)]
        for name, workload in zip(("falco", "tetragon"), workloads, strict=True):
            detector = policy(name, cap=Cap(1, 1.0, HOUR))
            answer = await house.report(detector=detector, attestation=workload.id)
            assert answer.state is DetectionState.APPLIED


PLAIN = role("api", identity=IdentityMatch("oidc", spiffe_id="spiffe://pay.example/*"))
"""Holds, and nothing tells one instance of its identities from another."""


async def fleet(house: House, count: int, name: str = "payments") -> list[Workload]:
    subject = f"spiffe://pay.example/{name}"
    return [await house.attested(subject=subject, issuer=None) for _ in range(count)]


async def stopped(house: House, workloads: list[Workload]) -> int:
    """How many get nothing any more."""
    tries = await asyncio.gather(*(item.issue() for item in workloads), return_exceptions=True)
    refusals = [item for item in tries if isinstance(item, BaseException)]
    assert {type(item) for item in refusals} <= {Denied}
    return len(refusals)


class TestIdentities:
    """A ban of an identity stops all its instances: it counts as all of them."""

    async def test_beyond_the_cap_the_instance_falls_and_its_identity_goes_on(self) -> None:
        house = await House.open(PLAIN)
        everybody = await fleet(house, 30)
        detector = policy(cap=Cap(1, 1.0, HOUR))
        answer = await house.report(detector=detector, attestation=everybody[0].id)
        assert answer.state is DetectionState.APPLIED
        assert "its identity is not banned" in answer.reason
        assert await state(everybody[0]) is AttestationState.REVOKED
        assert await stopped(house, everybody[1:]) == 0
        # The cap is used up, and the next one waits: it, and not the others.
        answer = await house.report(detector=detector, attestation=everybody[1].id)
        assert answer.state is DetectionState.HELD
        assert await stopped(house, everybody[1:]) == 1

    async def test_within_it_the_ban_is_made_and_takes_its_share(self) -> None:
        house = await House.open(PLAIN)
        first, second = await fleet(house, 4), await fleet(house, 4, "orders")
        detector = policy(cap=Cap(6, 1.0, HOUR))
        answer = await house.report(detector=detector, attestation=first[0].id)
        assert answer.state is DetectionState.APPLIED
        assert await stopped(house, first) == 4
        # Two are left: enough for the instance, not for its identity.
        await house.report(detector=detector, attestation=second[0].id)
        assert await state(second[0]) is AttestationState.REVOKED
        assert await stopped(house, second[1:]) == 0
        records = await house.look(lambda tx: tx.detections.page((DetectionState.APPLIED,), 9))
        assert [item.siblings for item in records] == [3, 0]

    async def test_a_quarantine_of_one_stops_its_identity_as_far_as_the_cap_goes(self) -> None:
        house = await House.open(PLAIN)
        everybody = await fleet(house, 4)
        for most, expected in ((1, 1), (4, 4)):
            detector = policy(f"d{most}", cap=Cap(most, 1.0, HOUR), default_action=Action.QUARANTINE)
            answer = await house.report(detector=detector, attestation=everybody[0].id)
            assert answer.state is DetectionState.APPLIED
            assert await stopped(house, everybody) == expected

    async def test_its_own_hook_names_nobody_else_and_is_not_capped(self) -> None:
        house = await House.open(PLAIN)
        everybody = await fleet(house, 10)
        assert (await everybody[0].report_self()).state is DetectionState.APPLIED
        assert await stopped(house, everybody) == 10

    async def test_many_at_once_stop_no_more_than_the_cap_allows(self) -> None:
        house = await House.open(PLAIN)
        fleets = [await fleet(house, 4, f"app-{number}") for number in range(4)]
        detector = policy(cap=Cap(5, 1.0, HOUR))
        await asyncio.gather(*(house.report(detector=detector, attestation=each[0].id) for each in fleets))
        # One identity with its four, one instance alone; the rest wait, each by itself.
        assert sorted([await stopped(house, each) for each in fleets]) == [1, 1, 1, 4]
        rows = [await state(each[0]) for each in fleets]
        assert rows.count(AttestationState.REVOKED) == 2


class TestWideQuarantines:
    @pytest.mark.parametrize("share", [1.0, 0.01])
    async def test_beyond_the_cap_nobody_is_banned_and_it_waits_for_an_operator(self, share: float) -> None:
        house = await House.open(replace(PLAIN, after_revocation=AfterRevocation.RETRY))
        everybody = await fleet(house, 30)
        detector = policy(cap=Cap(1, share, HOUR), default_action=Action.QUARANTINE)
        answer = await house.report(detector=detector, spiffe="spiffe://pay.example/payments")
        assert answer.state is DetectionState.HELD
        assert await house.log() == []
        assert await stopped(house, everybody) == 0
        decision = await house.look(lambda tx: tx.decisions.get(answer.decision_id))
        assert (decision.effect, len(decision.instances)) == (Effect.HELD, 30)

    async def test_several_of_them_share_the_cap(self) -> None:
        house = await House.open(replace(PLAIN, after_revocation=AfterRevocation.RETRY))
        fleets = [await fleet(house, 2, f"app-{number}") for number in range(3)]
        detector = policy(cap=Cap(4, 1.0, HOUR), default_action=Action.QUARANTINE)
        answers = [
            await house.report(detector=detector, spiffe=f"spiffe://pay.example/app-{number}")
            for number in range(3)
        ]
        assert [item.state for item in answers] == [
            DetectionState.APPLIED,
            DetectionState.APPLIED,
            DetectionState.HELD,
        ]
        assert [await stopped(house, each) for each in fleets] == [2, 2, 0]
        # Nor has it used up what it may revoke.
        revoking = replace(detector, default_action=Action.REVOKE)
        await house.report(detector=revoking, attestation=fleets[2][0].id)
        assert await state(fleets[2][0]) is AttestationState.REVOKED

    async def test_nor_are_all_of_a_node_banned_for_a_guess(self) -> None:
        house = await House.open(*RETRY)
        here = [
            await witnessed(house, pid=pid, container_id=f"c-{pid}", pod_uid=f"pod-{pid}")
            for pid in range(1, 6)
        ]
        answer = await house.report(node="node-1")
        assert answer.state is DetectionState.HELD
        assert await house.log() == []
        assert await stopped(house, here) == 0


class TestOnce:
    async def test_the_same_event_again_is_a_duplicate_that_tells_how_the_first_ended(self) -> None:
        house = await House.open()
        workload = await house.attested()
        first = await house.report(attestation=workload.id, event="e-1")
        again = await house.report(attestation=workload.id, event="e-1")
        assert again.state is DetectionState.DUPLICATE
        assert (again.detection_id, again.decision_id) == (first.detection_id, first.decision_id)
        assert again.reason == "applied"
        assert len(await house.look(lambda tx: tx.detections.page((), 9))) == 1

    async def test_whatever_became_of_the_first(self) -> None:
        house = await House.open()
        for subject in ({"attestation": "A-unknown"}, {}, {"node": "nowhere"}):
            event = f"e-{len(subject)}-{subject}"
            await house.report(event=event, **subject)
            assert (await house.report(event=event, **subject)).state is DetectionState.DUPLICATE

    async def test_of_many_at_once_one_counts(self) -> None:
        house = await House.open()
        workload = await house.attested()
        found = house.detection(attestation=workload.id, event="e-1")
        answers = await asyncio.gather(*(house.reporter.report(found, policy()) for _ in range(20)))
        states = [item.state for item in answers]
        assert states.count(DetectionState.APPLIED) == 1
        assert states.count(DetectionState.DUPLICATE) == 19
        assert len(await house.look(lambda tx: tx.revocations.page(9))) == 1
        assert not house.feed.denials.anticipating

    async def test_another_detector_may_use_the_same_id(self) -> None:
        house = await House.open()
        workload = await house.attested(subject="watched")
        for name in ("falco", "tetragon"):
            answer = await house.report(detector=policy(name), attestation=workload.id, event="e-1")
            assert answer.state is DetectionState.OBSERVED

    @pytest.mark.parametrize("committed", [False, True])
    async def test_a_report_is_not_lost_when_the_state_fails_and_it_is_sent_again(
        self, committed: bool
    ) -> None:
        house = await House.open()
        workload = await house.attested()
        api = await workload.issue()
        house.state.fail_write(committed=committed)
        with pytest.raises(Unavailable):
            await house.report(attestation=workload.id, event="e-1")
        # Not durable, and yet denied here.
        assert not await workload.good(api)
        again = await house.report(attestation=workload.id, event="e-1")
        assert again.state is (DetectionState.DUPLICATE if committed else DetectionState.APPLIED)
        assert await state(workload) is AttestationState.REVOKED
        await house.feed.catch_up()
        assert not house.feed.denials.anticipating

    async def test_what_was_never_written_denies_no_longer_than_until_it_is_lifted(self) -> None:
        house = await House.open()
        workload = await house.attested()
        house.state.fail_write()
        with pytest.raises(Unavailable):
            await house.report(attestation=workload.id, event="e-1")
        await house.report(attestation=workload.id, event="e-1")
        await house.lift((await house.only_revocation()).id)
        await house.workload().attest("app")


class TestRates:
    async def test_a_detector_that_reports_too_fast_is_told_when_to_come_back(self) -> None:
        house = await House.open(
            rates={"detector": Rate(2, 60.0), "self": Rate(1, 60.0), "refused": Rate(9, 9)}
        )
        workload = await house.attested(subject="watched")
        for number in range(2):
            await house.report(attestation=workload.id, event=f"e-{number}")
        with pytest.raises(LimitExceeded) as caught:
            await house.report(attestation=workload.id, event="e-2")
        assert caught.value.retry_after
        assert len(await house.look(lambda tx: tx.detections.page((), 9))) == 2
        house.clock.advance(30)
        assert (await house.report(attestation=workload.id, event="e-2")).state is DetectionState.OBSERVED

    async def test_nobody_uses_up_the_rate_of_another_workload(self) -> None:
        house = await House.open(rates={"detector": Rate(9, 9), "self": Rate(1, 60.0), "refused": Rate(9, 9)})
        victim, attacker = await house.attested(), await house.attested()
        stolen = WorkloadCaller(victim.id, house.proof(attacker.thumbprint))
        with pytest.raises(NotFound):
            await house.reporter.report_self(stolen, house.detection(detector="self"))
        assert (await victim.report_self()).state is DetectionState.APPLIED


class TestSelf:
    async def test_it_names_nobody_but_itself(self) -> None:
        house = await House.open(*RETRY)
        victim = await witnessed(house)
        mine = await house.attested()
        answer = await mine.report_self(attestation=victim.id, spiffe="spiffe://x/y", **WHERE)
        assert answer.state is DetectionState.APPLIED
        assert await state(mine) is AttestationState.REVOKED
        assert await state(victim) is AttestationState.ALIVE
        record = await house.look(lambda tx: tx.detections.get(answer.detection_id))
        assert record.detection.detector == f"self:{mine.id}"
        assert record.detection.subject.attestation_id == mine.id

    async def test_no_cap_holds_it(self) -> None:
        house = await House.open(*RETRY)
        for _ in range(10):
            workload = await house.attested()
            assert (await workload.report_self()).state is DetectionState.APPLIED

    async def test_the_same_rules_hold_for_it(self) -> None:
        house = await House.open()
        watched = await house.attested(subject="watched")
        assert (await watched.report_self()).state is DetectionState.OBSERVED
        workload = await house.attested("app")
        assert (
            await workload.report_self(code="lib", kind=DetectionKind.MODULE)
        ).state is DetectionState.UNRELATED
        assert (await workload.report_self(event="e")).state is DetectionState.APPLIED
        assert (await workload.report_self(event="e")).state is DetectionState.DUPLICATE
        assert (await workload.report_self(event="f")).state is DetectionState.DUPLICATE

    async def test_two_workloads_may_use_the_same_event_id(self) -> None:
        house = await House.open(*RETRY)
        for workload in (await house.attested(), await house.attested()):
            assert (await workload.report_self(event="same")).state is DetectionState.APPLIED


async def test_a_look_that_loses_the_race_with_a_revocation_is_harmless() -> None:
    house = await House.open()
    workload = await house.attested()
    house.state.before_write(1, lambda: house.revoke(SelectorKind.ATTESTATION, workload.id))
    assert (await house.report(attestation=workload.id)).state is DetectionState.APPLIED
    assert await state(workload) is AttestationState.REVOKED
    await house.tick()
    for revocation in await house.look(lambda tx: tx.revocations.page(9)):
        assert await house.settled(revocation.id)


async def test_a_place_of_ones_own_claims_is_what_counts() -> None:
    """A lie about the pod does not help where the identity says which it is."""
    house = await House.open()
    workload = await house.attested(place=InstanceClaims(pod_uid="pod-1"), process=ProcessRef(node="node-7"))
    assert (await house.report(pod_uid="pod-1")).state is DetectionState.APPLIED
    assert await state(workload) is AttestationState.REVOKED
