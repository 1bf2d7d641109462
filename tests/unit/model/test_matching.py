"""Whom a report may mean, whom a selector may name, and which words an act may carry."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from broker.model.attestation import Attestation, AttestationState
from broker.model.detection import DetectionSubject
from broker.model.evidence import Assurance, InstanceKey, ProcessRef
from broker.model.identity import InstanceClaims, WorkloadIdentity
from broker.model.matching import (
    another_process,
    elsewhere,
    may_be,
    selector_problem,
    subject_selectors,
    text_problem,
    vouched,
)
from broker.model.revocation import Selector, SelectorKind

PROCESS = ProcessRef("node", "boot", 7, 9, 0, "c-1", "pod-1")
NOWHERE = InstanceClaims()


def attestation(process: ProcessRef = PROCESS, claims: InstanceClaims = NOWHERE) -> Attestation:
    return Attestation(
        id="A-1",
        identity=WorkloadIdentity("oidc", "https://issuer.example", "payments", 1e12, instance=claims),
        key=InstanceKey(b"spki", b"k" * 32, "ES256"),
        assurance=Assurance.SELF,
        process=process,
        results=(),
        code_set=b"c" * 32,
        state=AttestationState.ALIVE,
        created_at=0.0,
        refreshed_at=0.0,
        expires_at=1e12,
        as_of=0,
        decision_id="D-1",
    )


class TestSelectors:
    def test_most_exact_first(self) -> None:
        subject = DetectionSubject("", PROCESS, "spiffe://a/b")
        assert [str(item) for item in subject_selectors(subject)] == [
            "process:node/boot/7/9",
            "container:c-1",
            "pod:pod-1",
            "identity:spiffe://a/b",
        ]

    def test_an_attestation_stands_alone(self) -> None:
        subject = DetectionSubject("A-1", PROCESS, "spiffe://a/b")
        assert [str(item) for item in subject_selectors(subject)] == ["attestation:A-1"]

    @pytest.mark.parametrize("missing", ["node", "boot_id", "pid", "start_ticks"])
    def test_half_a_process_names_nobody(self, missing: str) -> None:
        bare = replace(PROCESS, container_id="", pod_uid="")
        half = replace(bare, **{missing: 0 if missing in ("pid", "start_ticks") else ""})
        assert subject_selectors(DetectionSubject("", half)) == ()

    @pytest.mark.parametrize(
        ("kind", "value", "good"),
        [
            (SelectorKind.DIGEST, "ab" * 32, True),
            (SelectorKind.DIGEST, "AB" * 32, False),
            (SelectorKind.DIGEST, "ab" * 31 + "a", False),
            (SelectorKind.KEY, "ab" * 33, False),
            (SelectorKind.MANIFEST, "zz" * 32, False),
            (SelectorKind.MANIFEST, "٠" * 64, False),
            (SelectorKind.PACKAGE, "pkg:pypi/a@1", True),
            (SelectorKind.PACKAGE, "pypi/a@1", False),
            (SelectorKind.PACKAGE, "pkg:pypi/a", False),
            (SelectorKind.NODE, "node 1", True),
            (SelectorKind.NODE, "", False),
            (SelectorKind.NODE, "a\tb", False),
            (SelectorKind.NODE, "a\u202eb", False),
            (SelectorKind.IDENTITY, "x" * 2048, True),
            (SelectorKind.IDENTITY, "x" * 2049, False),
        ],
    )
    def test_a_value_has_its_form(self, kind: SelectorKind, value: str, good: bool) -> None:
        assert (selector_problem(Selector(kind, value)) == "") is good


class TestPlaces:
    @pytest.mark.parametrize(
        ("said", "fits"),
        [
            ({}, True),
            ({"pid": 7}, True),
            ({"pid": 8}, False),
            ({"boot_id": "boot"}, True),
            ({"boot_id": "other"}, False),
            ({"start_ticks": 10}, False),
            ({"container_id": "c-2"}, False),
            ({"pod_uid": "pod-2"}, False),
        ],
    )
    def test_who_fits_contradicts_nothing(self, said: dict[str, Any], fits: bool) -> None:
        process = replace(ProcessRef(node="node"), **said)
        assert may_be(attestation(), process) is fits
        assert may_be(attestation(ProcessRef()), process)

    @pytest.mark.parametrize(
        ("said", "away"),
        [
            ({}, False),
            ({"node": "node"}, False),
            ({"node": "other"}, True),
            ({"boot_id": "other"}, True),
            ({"container_id": "c-2"}, True),
            ({"pod_uid": "pod-2"}, True),
            ({"pid": 8, "start_ticks": 1}, False),
        ],
    )
    def test_elsewhere_is_another_place_and_not_another_process(
        self, said: dict[str, Any], away: bool
    ) -> None:
        assert elsewhere(attestation().whereabouts, replace(ProcessRef(), **said)) is away

    def test_what_the_identity_claims_outranks_what_the_workload_says(self) -> None:
        found = attestation(claims=InstanceClaims(pod_uid="pod-9"))
        assert elsewhere(found.whereabouts, ProcessRef(pod_uid="pod-1"))
        assert not elsewhere(found.whereabouts, ProcessRef(pod_uid="pod-9"))

    @pytest.mark.parametrize(
        ("level", "claims", "hit"),
        [
            (Assurance.SELF, NOWHERE, {"identity"}),
            (Assurance.SELF, InstanceClaims(pod_uid="pod-1"), {"identity", "pod"}),
            (Assurance.SELF, InstanceClaims(container_id="c-1"), {"identity", "container"}),
            (Assurance.WITNESSED, NOWHERE, {"identity", "pod", "container", "process"}),
        ],
    )
    def test_at_level_self_only_the_identity_vouches(
        self, level: Assurance, claims: InstanceClaims, hit: set[str]
    ) -> None:
        found = replace(attestation(claims=claims), assurance=level)
        subject = DetectionSubject("", PROCESS, found.identity.name)
        assert {item.kind.value for item in subject_selectors(subject) if vouched(found, item)} == hit

    def test_only_a_sensor_can_say_that_it_is_another_process(self) -> None:
        other = replace(PROCESS, pid=8)
        assert not another_process(attestation(other), PROCESS)
        seen = replace(attestation(other), assurance=Assurance.WITNESSED)
        assert another_process(seen, PROCESS)
        assert not another_process(seen, other)


@pytest.mark.parametrize(
    ("reason", "ticket", "good"),
    [
        ("because", "", True),
        ("line one\nline two", "INC-1", True),
        ("x" * 1000, "y" * 1000, True),
        ("", "", False),
        (" \n", "", False),
        ("x" * 1001, "", False),
        ("x", "y" * 1001, False),
        ("x\x07", "", False),
        ("x", "\x1b[31m", False),
    ],
)
def test_words_are_there_and_printable(reason: str, ticket: str, good: bool) -> None:
    assert (text_problem(reason, ticket) == "") is good
