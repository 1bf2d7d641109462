"""What `lockstep report` counts is what was felt, or would have been; and `why` is about nothing else."""

from __future__ import annotations

from lockstep.v1 import attestation_pb2, decision_pb2
from lockstep_client.cli.report import tally

HOLDER = "https://issuer.example|shop"


def decision(kind: str, verdict: str, effect: str, **facts: str) -> decision_pb2.Decision:
    return decision_pb2.Decision(
        kind=decision_pb2.DecisionKind.Value(f"DECISION_KIND_{kind}"),
        verdict=verdict,
        effect=effect,
        role="shop",
        identity=HOLDER,
        mode=attestation_pb2.MODE_OBSERVE,
        **facts,
    )


def test_what_would_have_been_refused_is_counted_once_and_says_why() -> None:
    found = tally(
        [
            decision("ATTEST", "appraisal_failed", "none"),
            # Granted because the role observes: that it would not have been was said at the attestation.
            decision("ISSUE", "appraisal_failed", "granted"),
            decision("ISSUE", "ok", "granted"),
        ]
    )["shop"]
    assert (found.attested, found.granted, found.would_refuse) == (1, 2, 1)
    assert found.why == "appraisal_failed 1"


def test_a_lease_that_its_holder_gave_back_was_taken_from_nobody() -> None:
    found = tally(
        [
            decision("REVOKE", "revoked", "revoked", actor=HOLDER),
            decision("REVOKE", "revoked", "revoked", actor="operator:ann"),
        ]
    )["shop"]
    assert (found.revoked, found.why) == (1, "revoked 1")


def test_reports_are_counted_by_what_they_did() -> None:
    found = tally(
        [
            decision("DETECTION", "revoked", "revoked"),
            decision("DETECTION", "revoked", "none"),
            decision("DETECTION", "held", "held"),
            decision("DETECTION", "ok", "none"),
        ]
    )["shop"]
    assert (found.revoked, found.would_revoke, found.held) == (1, 1, 1)
    assert found.modes == {"observe"}
