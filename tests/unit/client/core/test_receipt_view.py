"""What a responder reads in a receipt."""

from __future__ import annotations

import pytest

from lockstep_client.cli import receipt_view
from lockstep_client.errors import InvalidRequest

RECEIPT = {
    "revocation": "V-1",
    "at": "2026-11-28T08:36:42.656461Z",
    "selector": {"kind": "digest", "value": "ab" * 32},
    "cut": True,
    "ban": True,
    "until": None,
    "attestations": 2,
    "leases": 3,
    "actor": "operator:x",
    "reason": "INC-311",
    "ticket": "",
    "decision": "D-1",
    "steps": [
        {"name": "reported", "at": "2026-11-28T08:36:42.655061Z", "detail": "detector:x"},
        {"name": "denied", "at": "2026-11-28T08:36:42.656461Z", "detail": "memory"},
        {"name": "told", "at": "2026-11-28T08:36:42.660165Z", "detail": "2 of 2"},
        {"name": "confirmed", "at": "2026-11-28T08:37:00.660165Z", "detail": ""},
    ],
    "unconfirmed": [
        {"lease": "L-1", "what": "verifiers without the feed", "until": "2026-11-28T08:41:41.5Z"}
    ],
}


def test_steps_count_from_the_revocation() -> None:
    assert receipt_view.steps(RECEIPT) == [
        ("reported", "-1.4 ms", "detector:x"),
        ("denied", "+0.0 ms", "memory"),
        ("told", "+3.7 ms", "2 of 2"),
        ("confirmed", "+18.0 s", ""),
    ]


def test_what_it_was_aimed_at_and_what_it_hit() -> None:
    facts = dict(receipt_view.head(RECEIPT))
    assert facts["what"] == "digest abababababab"
    assert (facts["acts"], facts["hit"]) == ("cut ban", "2 instances, 3 leases")
    assert facts["until"] == ""
    assert dict(receipt_view.head({**RECEIPT, "until": RECEIPT["at"]}))["until"] == "2026-11-28 08:36:42Z"


def test_what_is_not_confirmed_says_until_when() -> None:
    assert receipt_view.unconfirmed(RECEIPT) == [
        "verifiers without the feed, L-1, until 2026-11-28 08:41:41Z"
    ]


@pytest.mark.parametrize("wrong", [{}, {**RECEIPT, "at": "then"}, {**RECEIPT, "selector": 1}])
def test_another_document_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest, match="--json"):
        receipt_view.head(wrong)
    with pytest.raises(InvalidRequest, match="--json"):
        receipt_view.steps({**RECEIPT, "steps": [1]})
