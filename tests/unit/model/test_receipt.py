"""A receipt's payload: canonical, complete, in UTC."""

from __future__ import annotations

import json
from dataclasses import fields

from broker.model.receipt import receipt_payload
from broker.model.revocation import (
    Revocation,
    RevocationState,
    Selector,
    SelectorKind,
    Unconfirmed,
)
from broker.model.step import Step
from lockstep.formats import canonical_json

WHOLE = Revocation(
    id="V-1",
    selector=Selector(SelectorKind.NODE, "node-é"),
    cut=True,
    ban=True,
    state=RevocationState.SETTLED,
    actor="operator:ann",
    reason="because",
    ticket="INC-1",
    decision_id="D-1",
    detection_id="R-1",
    at=1_800_000_000.000001,
    until=1_800_000_060.5,
    first_seq=3,
    last_seq=9,
    steps=(Step("denied", 1_800_000_000.25, "durable"),),
    unconfirmed=(Unconfirmed("L-1", "verifiers of 'x' without the feed", 1_800_000_300.0),),
    attestations=2,
    leases=5,
    expanded=True,
)


def test_it_says_everything_that_is_known() -> None:
    found = json.loads(receipt_payload(WHOLE))
    assert found == {
        "revocation": "V-1",
        "decision": "D-1",
        "detection": "R-1",
        "selector": {"kind": "node", "value": "node-é"},
        "cut": True,
        "ban": True,
        "until": "2027-01-15T08:01:00.500000Z",
        "actor": "operator:ann",
        "reason": "because",
        "ticket": "INC-1",
        "log": {"first": 3, "last": 9},
        "at": "2027-01-15T08:00:00.000001Z",
        "attestations": 2,
        "leases": 5,
        "steps": [{"name": "denied", "at": "2027-01-15T08:00:00.250000Z", "detail": "durable"}],
        "unconfirmed": [
            {
                "lease": "L-1",
                "what": "verifiers of 'x' without the feed",
                "until": "2027-01-15T08:05:00.000000Z",
            }
        ],
    }


def test_its_bytes_are_canonical() -> None:
    payload = receipt_payload(WHOLE)
    assert payload == canonical_json(json.loads(payload))


def test_what_a_revocation_gains_the_receipt_is_asked_about() -> None:
    """A field that is added to `Revocation` is either in the receipt or named here."""
    internal = {"state", "expanded", "lifted_at", "receipt"}
    named = {item.name for item in fields(Revocation)} - internal
    spelled = {"id": "revocation", "decision_id": "decision", "detection_id": "detection"}
    spelled |= {"first_seq": "log", "last_seq": "log"}
    keys = set(json.loads(receipt_payload(WHOLE)))
    assert {spelled.get(name, name) for name in named} == keys
