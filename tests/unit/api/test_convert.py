"""The wire and the nouns: every enum value has its twin, and nothing changes on the way there and back."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from broker.api.convert import attestations, credentials, decisions, detections, revocations
from broker.api.convert import enums as tables
from broker.api.convert.scalars import Twins, digest, from_timestamp, text, to_duration, to_timestamp
from broker.errors import InvalidRequest, Unauthenticated
from broker.model.appraisal import Status
from broker.model.credential import Credential, LeaseState
from broker.model.decision import DecisionKind
from broker.model.detection import DetectionKind, DetectionState
from broker.model.evidence import MAX_EVIDENCE, Assurance, CodeSet, Unit
from broker.model.identity import JwtProof, PeerProof
from broker.model.manifest import ManifestState
from broker.model.requests import IssueAnswer
from broker.model.revocation import EntryKind, LogEntry, NewEntry, Selector, SelectorKind
from broker.model.role import Mode, Revocability, Rotate
from lockstep.formats import Reason, UnitKind
from lockstep.v1 import (
    attestation_pb2,
    credential_pb2,
    decision_pb2,
    detection_pb2,
    evidence_pb2,
    identity_pb2,
    manifest_pb2,
    revocation_pb2,
)
from tests.contract.backend_suite import grant_at

TABLES: list[tuple[Twins[Any, Any], Any, Any, set[object]]] = [
    (tables.STATUS, attestation_pb2.AttestationStatus, Status, set()),
    (tables.MODE, attestation_pb2.Mode, Mode, set()),
    (tables.ASSURANCE, evidence_pb2.AssuranceLevel, Assurance, set()),
    (tables.UNIT_KIND, evidence_pb2.UnitKind, UnitKind, set()),
    (tables.LEASE_STATE, credential_pb2.LeaseState, LeaseState, set()),
    (tables.REVOCABILITY, credential_pb2.Revocability, Revocability, set()),
    (tables.DECISION_KIND, decision_pb2.DecisionKind, DecisionKind, set()),
    # A heartbeat is a message of its own.
    (tables.DETECTION_KIND, detection_pb2.DetectionKind, DetectionKind, {DetectionKind.HEARTBEAT}),
    (tables.DETECTION_STATE, detection_pb2.DetectionState, DetectionState, set()),
    (tables.MANIFEST_STATE, manifest_pb2.ManifestState, ManifestState, set()),
]


@pytest.mark.parametrize(("twins", "wire", "model", "alone"), TABLES, ids=lambda item: str(item)[:30])
def test_every_value_has_its_twin_of_the_same_name(
    twins: Any, wire: Any, model: Any, alone: set[object]
) -> None:
    named = {number: name for name, number in wire.items()}
    for number, name in named.items():
        if number == 0:
            with pytest.raises(InvalidRequest):
                twins.model(number)
            continue
        assert twins.wire(twins.model(number)) == number
        assert name.endswith(f"_{twins.model(number).name}")
    for noun in model:
        if noun not in alone:
            assert twins.model(twins.wire(noun)) is noun
    with pytest.raises(InvalidRequest):
        twins.model(99)


# --- selectors ------------------------------------------------------------------------------------------

TEXT = st.text(
    st.characters(min_codepoint=33, max_codepoint=0x2FFF, exclude_categories=["Cs", "Cc"]), min_size=1
)
PART = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=20)
HEX = st.binary(min_size=32, max_size=32).map(bytes.hex)
PROCESS = st.builds(
    lambda node, boot, pid, ticks: f"{node}/{boot}/{pid}/{ticks}",
    PART,
    PART,
    st.integers(1, 2**62),
    st.integers(1, 2**63),
)


def values(kind: SelectorKind) -> st.SearchStrategy[str]:
    if kind in (SelectorKind.MANIFEST, SelectorKind.DIGEST, SelectorKind.KEY):
        return HEX
    return PROCESS if kind is SelectorKind.PROCESS else TEXT


SELECTORS = st.sampled_from(SelectorKind).flatmap(
    lambda kind: st.builds(Selector, st.just(kind), values(kind))
)


@given(SELECTORS)
def test_a_selector_comes_back_as_it_was(selector: Selector) -> None:
    assert revocations.selector(revocations.selector_message(selector)) == selector


def test_every_target_of_the_wire_is_some_kind() -> None:
    targets = revocation_pb2.Selector.DESCRIPTOR.oneofs_by_name["target"].fields
    assert len(targets) == len(SelectorKind)


@pytest.mark.parametrize(
    "wire",
    [
        revocation_pb2.Selector(),
        revocation_pb2.Selector(node=""),
        revocation_pb2.Selector(node="a\nb"),
        revocation_pb2.Selector(node="a" * 3000),
        revocation_pb2.Selector(digest=b"short"),
        revocation_pb2.Selector(manifest=b"x" * 33),
        revocation_pb2.Selector(process=revocation_pb2.ProcessInstance(node="n", boot_id="b", pid=1)),
        revocation_pb2.Selector(
            process=revocation_pb2.ProcessInstance(node="n/x", boot_id="b", pid=1, start_ticks=1)
        ),
        revocation_pb2.Selector(
            process=revocation_pb2.ProcessInstance(node="n", boot_id="b", pid=-1, start_ticks=1)
        ),
    ],
)
def test_a_selector_that_names_nothing_well_is_refused(wire: revocation_pb2.Selector) -> None:
    with pytest.raises(InvalidRequest):
        revocations.selector(wire)


@given(SELECTORS, st.sampled_from(EntryKind), st.booleans(), st.booleans())
def test_every_entry_becomes_an_event(selector: Selector, kind: EntryKind, cut: bool, ban: bool) -> None:
    body = NewEntry(kind, "V-1", selector, cut, ban, 1.5, 9.5, "actor", "why", "", "D-1", 4)
    event = revocations.event("log", LogEntry(7, b"h" * 32, body), reasons=True)
    assert (event.position.seq, event.position.hash) == (7, b"h" * 32)
    assert revocation_pb2.EventKind.Name(event.kind) == f"EVENT_KIND_{kind.name}"
    assert revocations.selector(event.selector) == selector
    assert (event.cut, event.ban, event.refers_to) == (cut, ban, 4)
    assert (event.reason, event.decision_id, event.revocation_id) == ("why", "D-1", "V-1")
    silent = revocations.event("log", LogEntry(7, b"h" * 32, body), reasons=False)
    assert {silent.reason, silent.decision_id, silent.revocation_id} == {""}
    # What is sent instead of a wide entry says no more than its position and time.
    introspect = revocations.introspect_event("log", LogEntry(7, b"h" * 32, body))
    assert {field.name for field, _ in introspect.ListFields()} == {"position", "kind", "cut", "at"}


# --- scalars --------------------------------------------------------------------------------------------


@given(st.floats(-62_135_596_800, 253_402_300_799))
def test_a_time_comes_back_to_the_microsecond(seconds: float) -> None:
    assert from_timestamp(to_timestamp(seconds), "t") == pytest.approx(seconds, abs=2e-6, rel=0)


@given(st.floats(allow_nan=False))
def test_any_time_and_any_duration_can_be_said(seconds: float) -> None:
    to_timestamp(seconds).ToJsonString()
    assert to_duration(seconds).ToNanoseconds() >= 0


def test_the_end_of_time_is_the_last_year() -> None:
    assert to_timestamp(math.inf).ToJsonString().startswith("9999-12-31")


def test_texts_and_digests_are_bounded() -> None:
    for value in ("", "a" * 11, "a\x00b", "a\x7f"):
        with pytest.raises(InvalidRequest):
            text(value, "field", 10, empty=False)
    assert text("", "field") == ""
    with pytest.raises(InvalidRequest):
        digest(b"x", "field")
    stamp = to_timestamp(0)
    stamp.nanos = -1
    with pytest.raises(InvalidRequest):
        from_timestamp(stamp, "field")


# --- messages -------------------------------------------------------------------------------------------


def test_the_certificate_of_this_connection_is_taken_from_the_connection() -> None:
    wire = identity_pb2.IdentityProof(peer_certificate=identity_pb2.PeerCertificate())
    peer = PeerProof(b"leaf")
    assert attestations.identity_proof(wire, peer) is peer
    with pytest.raises(Unauthenticated):
        attestations.identity_proof(wire, None)
    with pytest.raises(Unauthenticated):
        attestations.identity_proof(identity_pb2.IdentityProof(), peer)
    with pytest.raises(Unauthenticated):
        attestations.identity_proof(identity_pb2.IdentityProof(jwt=""), peer)
    assert attestations.identity_proof(identity_pb2.IdentityProof(jwt="a.b.c"), peer) == JwtProof("a.b.c")


def test_evidence_has_between_one_and_a_few_items() -> None:
    item = evidence_pb2.SealedEvidence(
        level=evidence_pb2.ASSURANCE_LEVEL_SELF, statement=b"s", signature=b"x"
    )
    assert len(attestations.sealed([item])) == 1
    assert len(attestations.sealed([item] * MAX_EVIDENCE)) == MAX_EVIDENCE
    for items, reason in (
        ([], Reason.INVALID_REQUEST),
        ([item] * (MAX_EVIDENCE + 1), Reason.TOO_LARGE),
        ([evidence_pb2.SealedEvidence(statement=b"s")], Reason.INVALID_REQUEST),
    ):
        with pytest.raises(InvalidRequest) as caught:
            attestations.sealed(items)
        assert caught.value.reason is reason


def test_a_credential_is_a_token_or_fields() -> None:
    token = credentials.credential(Credential(token="t"))
    assert token is not None
    assert token.WhichOneof("kind") == "token"
    fields = credentials.credential(Credential(fields={"username": "u", "password": "p"}))
    assert fields is not None
    assert dict(fields.fields.values) == {"username": "u", "password": "p"}
    assert credentials.credential(None) is None


@pytest.mark.parametrize("convert", [credentials.issue_response, credentials.renew_response])
def test_a_rotation_is_told_with_every_grant(convert: Any) -> None:
    lease = grant_at(1_800_000_000.0).lease
    answer = IssueAnswer(lease, None, {}, 1_800_000_000.0)
    assert not convert(answer).HasField("rotation")
    told = convert(replace(answer, rotate=Rotate(28_800.5, 0.0))).rotation
    assert (told.every.ToTimedelta().total_seconds(), told.HasField("overlap")) == (28_800.5, True)
    assert told.overlap.ToTimedelta().total_seconds() == 0.0


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


@given(st.dictionaries(st.text(max_size=5), PLAIN, max_size=4))
def test_any_configured_parameters_can_be_told(value: dict[str, Any]) -> None:
    assert json_format.MessageToDict(credentials.parameters(value)) == value


@given(st.sets(st.tuples(st.sampled_from(UnitKind), st.binary(min_size=32, max_size=32)), max_size=30))
def test_a_code_set_is_told_by_kind_in_ascending_order(units: set[tuple[UnitKind, bytes]]) -> None:
    code = CodeSet.of(Unit(kind, value) for kind, value in units)
    sets = decisions.unit_sets(code)
    told = {(tables.UNIT_KIND.model(item.kind), value) for item in sets for value in item.digests}
    assert told == units
    assert all(list(item.digests) == sorted(item.digests) for item in sets)
    assert len({item.kind for item in sets}) == len(sets)


@given(st.text(max_size=50), st.integers(0, 2**40), st.binary(max_size=40))
def test_a_report_is_read_or_refused(name: str, size: int, value: bytes) -> None:
    wire = detection_pb2.Detection(
        event_id="e-1",
        kind=detection_pb2.DETECTION_KIND_LIBRARY,
        object=detection_pb2.DetectionObject(name=name, path=name, size=size, digest=value),
    )
    try:
        found = detections.detection(wire, "falco", 5.0)
    except InvalidRequest:
        assert len(value) not in (0, 32)
        return
    assert found.object.name.isprintable() or not found.object.name
    assert (found.detector, found.sent_at, found.observed_at) == ("falco", 5.0, 5.0)


@pytest.mark.parametrize(
    "bent",
    [
        {"event_id": ""},
        {"event_id": "e" * 200},
        {"kind": detection_pb2.DETECTION_KIND_UNSPECIFIED},
        {"object": detection_pb2.DetectionObject(digest=b"short")},
        {"subject": detection_pb2.DetectionSubject(process=evidence_pb2.Subject(pid=-1))},
        {"subject": detection_pb2.DetectionSubject(attestation_id="a" * 200)},
    ],
)
def test_a_bent_report_is_refused(bent: dict[str, Any]) -> None:
    fields = {"event_id": "e-1", "kind": detection_pb2.DETECTION_KIND_EXEC, **bent}
    with pytest.raises(InvalidRequest):
        detections.detection(detection_pb2.Detection(**fields), "falco", 5.0)
