"""The pure rules of one case: binding, growth, bearers, and whose role has fallen."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import Denied
from broker.model.appraisal import Appraisal, Finding, Status
from broker.model.attestation import ApplicationResult, Attestation, AttestationState
from broker.model.case import (
    bearer_keys,
    binding_conflict,
    failing_hints,
    fell_in_enforce,
    grown,
    make_case,
    moved,
    other_process,
    unmeasured_names,
    verdict_of,
)
from broker.model.evidence import Assurance, CodeSet, InstanceKey, ProcessRef, UnknownCode
from broker.model.identity import InstanceClaims, WorkloadIdentity
from broker.model.manifest import ReferenceValues
from broker.model.requests import RoleVerdict
from broker.model.role import Mode
from lockstep.formats import FindingReason, Reason
from tests.support.house import role
from tests.support.manifests import digest, evidence, manifest, unit

KEY = InstanceKey(b"spki", b"k" * 32, "ES256")
WHO = WorkloadIdentity("oidc", "https://issuer.example", "payments", 1e12)
PROCESS = ProcessRef("node", "boot", 7, 9, 0, "c-1", "pod-1")


def at(**claims: str) -> WorkloadIdentity:
    return replace(WHO, instance=InstanceClaims(**claims))


class TestBinding:
    @pytest.mark.parametrize(
        ("claims", "process", "conflict"),
        [
            ({}, PROCESS, ""),
            ({"pod_uid": "pod-1", "node": "node", "container_id": "c-1"}, PROCESS, ""),
            ({"pod_uid": "pod-2"}, PROCESS, "pod"),
            ({"node": "node-2"}, PROCESS, "node"),
            ({"container_id": "c-2"}, PROCESS, "container"),
            ({"pod_uid": "pod-2"}, ProcessRef(), ""),
        ],
    )
    def test_both_may_say_and_may_not_differ(
        self, claims: dict[str, str], process: ProcessRef, conflict: str
    ) -> None:
        assert binding_conflict(at(**claims), process) == conflict

    @pytest.mark.parametrize(
        ("before", "now", "what"),
        [
            (WHO, WHO, ""),
            (WHO, replace(WHO, not_after=0.0, claims={"x": "y"}), ""),
            (WHO, replace(WHO, provider="other"), "identity"),
            (WHO, replace(WHO, issuer=None), "identity"),
            (WHO, replace(WHO, subject="x"), "identity"),
            (WHO, at(pod_uid="p"), ""),
            (at(pod_uid="p"), at(pod_uid="q"), "pod"),
            (at(pod_uid="p"), WHO, "pod"),
            (at(node="n"), at(node="m"), "node"),
            (at(container_id="c"), WHO, "container"),
        ],
    )
    def test_an_instance_does_not_move(
        self, before: WorkloadIdentity, now: WorkloadIdentity, what: str
    ) -> None:
        assert moved(before, now) == what

    def test_another_process_is_one_only_where_both_are_whole(self) -> None:
        assert other_process(PROCESS, replace(PROCESS, pid=8))
        assert not other_process(PROCESS, replace(PROCESS, exec_seq=8))
        assert not other_process(PROCESS, replace(PROCESS, pid=0))


class TestGrowth:
    BASE = CodeSet.of([unit("a"), unit("b")])

    def delta(self, *names: str, **changes: Any) -> Any:
        added = [unit(name) for name in names]
        whole = self.BASE.grow(added)
        return replace(evidence(added), base_digest=self.BASE.digest, code_set_digest=whole.digest, **changes)

    def test_a_delta_adds_and_a_whole_set_adds_too(self) -> None:
        assert grown(self.BASE, [self.delta("c")]) == self.BASE.grow([unit("c")])
        assert grown(self.BASE, [evidence([unit("a"), unit("d")])]) == self.BASE.grow([unit("d")])
        assert grown(self.BASE, [self.delta()]) is self.BASE

    @pytest.mark.parametrize("wrong", [{"base_digest": digest("x")}, {"code_set_digest": digest("x")}])
    def test_a_delta_says_to_what_and_what_it_becomes(self, wrong: dict[str, bytes]) -> None:
        for items in ([self.delta("c")], [evidence([unit("a")]), self.delta("c")]):
            items[-1] = replace(items[-1], **wrong)
            with pytest.raises(Denied) as caught:
                grown(self.BASE, items)
            assert caught.value.reason is Reason.EVIDENCE_REJECTED

    @given(st.lists(st.sampled_from("abcdef")), st.lists(st.sampled_from("abcdef")))
    def test_it_never_shrinks(self, first: list[str], second: list[str]) -> None:
        found = grown(self.BASE, [self.delta(*first), evidence([unit(name) for name in second])])
        assert found.units >= self.BASE.units
        assert found.digest == CodeSet.of(found.units).digest


class TestVerdicts:
    def case(self, level: Assurance = Assurance.SELF, **identity: str) -> Any:
        found = evidence([unit("a")], level=level, process=PROCESS)
        return make_case(at(**identity), KEY, (found,), CodeSet.of(found.units), (role("api"),), 3, 1.0)

    def test_evidence_too_weak_outranks_good_code(self) -> None:
        strong = role("api", assurance=Assurance.WITNESSED)
        good = Appraisal(Status.AFFIRMING, None)
        assert verdict_of(strong, self.case(), good) is Reason.ASSURANCE_TOO_LOW
        assert verdict_of(role("api"), self.case(), good) is Reason.OK

    def test_nothing_in_force_is_not_code_that_failed(self) -> None:
        bad = Appraisal(Status.CONTRAINDICATED, None)
        assert verdict_of(role("api"), self.case(), bad) is Reason.NO_MANIFEST
        failed = replace(bad, reference=ReferenceValues(manifest([unit("a")])))
        assert verdict_of(role("api"), self.case(), failed) is Reason.APPRAISAL_FAILED

    def test_bearers_are_who_and_where_and_a_claim_outranks_a_statement(self) -> None:
        found = {str(item) for item in bearer_keys(self.case(pod_uid="pod-9", node="node-9"))}
        assert found == {
            "identity:https://issuer.example|payments",
            f"key:{KEY.thumbprint.hex()}",
            "node:node-9",
            "container:c-1",
            "pod:pod-9",
            "process:node-9/boot/7/9",
        }

    @pytest.mark.parametrize(
        ("mode", "before", "reason", "falls"),
        [
            (Mode.ENFORCE, Status.AFFIRMING, Reason.APPRAISAL_FAILED, True),
            (Mode.OBSERVE, Status.AFFIRMING, Reason.APPRAISAL_FAILED, False),
            (Mode.ENFORCE, Status.CONTRAINDICATED, Reason.APPRAISAL_FAILED, False),
            (Mode.ENFORCE, None, Reason.APPRAISAL_FAILED, False),
            (Mode.ENFORCE, Status.AFFIRMING, Reason.NO_MANIFEST, False),
            (Mode.ENFORCE, Status.AFFIRMING, Reason.ASSURANCE_TOO_LOW, False),
            (Mode.ENFORCE, Status.AFFIRMING, Reason.OK, False),
        ],
    )
    def test_who_was_admitted_by_an_enforcing_role_and_fails_it_now_has_fallen(
        self, mode: Mode, before: Status | None, reason: Reason, falls: bool
    ) -> None:
        results = () if before is None else (ApplicationResult("payments", before, (b"m",), 0),)
        previous = Attestation(
            "A-1", WHO, KEY, Assurance.SELF, PROCESS, results, b"", AttestationState.ALIVE, 0, 0, 9, 0, "D"
        )
        verdict = RoleVerdict("api", Status.CONTRAINDICATED, mode, False, reason, 1, "D-2")
        found = fell_in_enforce((role("api", mode=mode),), (verdict,), previous)
        assert (found is verdict) is falls


def test_hints_are_of_findings_with_a_name_and_one_a_digest() -> None:
    findings = (
        Finding(FindingReason.UNIT_NOT_APPROVED, None, digest("a"), "/a", "a"),
        Finding(FindingReason.UNIT_NOT_APPROVED, None, digest("a"), "/b", "b"),
        Finding(FindingReason.UNIT_NOT_APPROVED, None, digest("c")),
        Finding(FindingReason.ANONYMOUS_CODE, None, b"", "/x", "rwxp"),
    )
    [hint] = failing_hints([Appraisal(Status.CONTRAINDICATED, None, findings)])
    assert (hint.digest, hint.path) == (digest("a"), "/a")


def test_unmeasured_names_are_bounded_and_in_order() -> None:
    items = tuple(UnknownCode(None, f"name-{number:03}", "") for number in reversed(range(150)))
    found = unmeasured_names([evidence([], unknown=items), evidence([], unknown=items)])
    assert len(found) == 100
    assert list(found) == sorted(found)
