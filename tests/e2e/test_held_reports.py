"""What a detector's cap held back, decided from the command line against a real broker."""

from __future__ import annotations

import concurrent.futures
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.brokers import Broker, prepared, serving
from tests.support.doors import detection, post_form, report
from tests.support.manifests import unit
from tests.support.wire import Refused, Wire, Workload, envelope, publish

HERE = Path(__file__).parent
OPERATORS = """
[operators.reader]
identity = { from = "dev", subject = "reader-*" }
may = ["read", "explain", "lift", "revoke:*"]

[operators.second]
identity = { from = "dev", subject = "second-operator" }
may = ["approve"]
"""


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker whose detector may stop one instance a minute."""
    folder = tmp_path_factory.mktemp("held") / "dev"
    text = prepared(folder).replace("include = []", 'include = ["roles.d/*.toml"]')
    text = text.replace("cap = { instances = 1000, share = 1.0", "cap = { instances = 1, share = 1.0")
    (folder / "roles.d").mkdir()
    (folder / "roles.d" / "roles.toml").write_text((HERE / "roles.toml").read_text() + OPERATORS)
    with serving(folder, text) as running:
        publish(running, envelope(running, "app", "lib"))
        yield running


@pytest.fixture
def wire(held: Broker) -> Iterator[Wire]:
    with Wire(held.address, held.ca) as connection:
        yield connection


def attested(wire: Wire, broker: Broker, subject: str) -> Workload:
    workload = Workload(wire, broker.token(subject))
    workload.attest("app", roles=["again"])
    return workload


def reported(broker: Broker, *fleet: Workload) -> Sequence[dict[str, Any]]:
    """What the detector heard of each."""
    seen = {"sha256": unit("bad").digest.hex(), "path": "/tmp/plugin.py"}
    events = (detection(subject={"attestation_id": one.attestation_id}, object=seen) for one in fleet)
    return [report(broker, event).body["reports"][0] for event in events]


def held_one(wire: Wire, broker: Broker, name: str) -> tuple[Workload, str]:
    """An instance beyond the cap, and the report that waits."""
    answer: dict[str, Any] = {}
    for number in range(3):
        workload = attested(wire, broker, f"again-{name}-{number}")
        [answer] = reported(broker, workload)
        if answer["state"] == "held":
            return workload, str(answer["detection"])
    raise AssertionError(f"the cap held nothing: {answer}")


def shown(broker: Broker, report_id: str, *options: str) -> dict[str, Any]:
    [found] = [
        item
        for item in json.loads(broker.cli("detections", *options, "--json"))
        if item["detection_id"] == report_id
    ]
    return dict(found)


def alive(broker: Broker, workload: Workload) -> bool:
    found = json.loads(broker.cli("attestations", "--state", "alive", "--json"))
    return workload.attestation_id in {item["attestation_id"] for item in found}


def test_an_approval_revokes_before_it_answers(held: Broker, wire: Wire) -> None:
    first = attested(wire, held, "again-token")
    second = attested(wire, held, "again-token-two")
    tokens = {one.attestation_id: one.issue("again").credential.token for one in (first, second)}
    waits = [
        (one, answer)
        for one, answer in zip((first, second), reported(held, first, second), strict=True)
        if answer["state"] == "held"
    ]
    workload, answer = waits[-1]
    asking = held.token("dev-resource-server")
    token = tokens[workload.attestation_id]
    assert post_form(held, "/v1/introspect", asking, token=token).body["active"] is True
    assert shown(held, answer["detection"], "--state", "held")["attestations"] == [workload.attestation_id]

    said = held.cli("detections", "approve", answer["detection"], "--reason", "seen it", "--ticket", "INC-9")
    assert post_form(held, "/v1/introspect", asking, token=token).body == {"active": False}
    assert said.startswith(f"{answer['detection']}: applied by operator:dev:")
    found = shown(held, answer["detection"])
    assert found["state"] == "DETECTION_STATE_APPLIED"
    assert f"next: lockstep receipts {found['revocation_id']}" in said
    receipt = held.receipt(found["revocation_id"])
    assert (receipt["detection"], receipt["ticket"]) == (answer["detection"], "INC-9")
    why = held.cli("explain", answer["detection"])
    assert "approved: seen it" in why
    assert answer["decision"] in why
    with pytest.raises(Refused) as refused:
        workload.issue("again")
    assert refused.value.reason == "revoked"


def test_a_dismissal_says_who_and_why_and_ends_the_timed_ban(held: Broker, wire: Wire) -> None:
    workload, report_id = held_one(wire, held, "dismissed")
    with pytest.raises(Refused) as refused:
        workload.issue("again")
    assert refused.value.reason == "banned"
    assert "--reason" in held.cli("detections", "dismiss", report_id, expect=2)
    told = json.loads(held.cli("detections", "dismiss", report_id, "--reason", "our own test", "--json"))
    assert told["state"] == "DETECTION_STATE_DISMISSED"
    assert told["reason"] == "dismissed: our own test"
    assert told["decided_by"].startswith("operator:dev:")
    workload.issue("again")
    [line] = [item for item in held.cli("detections").splitlines() if report_id in item]
    assert "dismissed: our own test" in line
    audit = (held.folder / "state" / "audit.jsonl").read_text()
    assert told["decision_id"] in audit


def test_the_first_word_counts_and_the_contrary_is_refused(held: Broker, wire: Wire) -> None:
    workload, report_id = held_one(wire, held, "twice")
    once = held.cli("detections", "dismiss", report_id, "--reason", "no", "--json")
    assert held.cli("detections", "dismiss", report_id, "--reason", "no, no", "--json") == once
    assert "dismissed by operator:dev:" in held.cli("detections", "approve", report_id, expect=1)
    assert alive(held, workload)


def test_two_operators_at_once_end_in_one_outcome(held: Broker, wire: Wire) -> None:
    workload, report_id = held_one(wire, held, "raced")
    second = str(held.token_file("second-operator"))

    def run(command: str, **env: str) -> tuple[str, bool]:
        try:
            return held.cli("detections", command, report_id, "--reason", "raced", "--json", **env), True
        except AssertionError as error:
            return str(error), False

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        ends = [
            end.result()
            for end in (
                pool.submit(run, "approve"),
                pool.submit(run, "dismiss", LOCKSTEP_OPERATOR_TOKEN_FILE=second),
            )
        ]
    assert sorted(done for _, done in ends) == [False, True]
    [said] = [said for said, done in ends if not done]
    assert "nothing was changed" in said
    assert said.startswith("exit 1:")
    state = shown(held, report_id)["state"]
    assert (state == "DETECTION_STATE_APPLIED") is ends[0][1]
    assert alive(held, workload) is ends[1][1]


def test_who_may_not_approve_is_told_so(held: Broker, wire: Wire) -> None:
    workload, report_id = held_one(wire, held, "forbidden")
    for subject in ("reader-ann", "app-nobody"):
        other = {"LOCKSTEP_OPERATOR_TOKEN_FILE": str(held.token_file(subject))}
        for command in (("approve", report_id), ("dismiss", report_id, "--reason", "x")):
            said = held.cli("detections", *command, expect=78, **other)
            assert "this identity may not make this call" in said
    assert shown(held, report_id)["state"] == "DETECTION_STATE_HELD"
    assert alive(held, workload)


def test_what_is_not_held_or_not_there_says_so(held: Broker, wire: Wire) -> None:
    _, report_id = held_one(wire, held, "other")
    assert "no such report" in held.cli("detections", "approve", "R-none", expect=1)
    observed = Workload(wire, held.token("seen-watched"))
    observed.attest("app", roles=["seen"])
    [answer] = reported(held, observed)
    assert answer["state"] == "observed"
    assert "not held but observed" in held.cli("detections", "approve", answer["detection"], expect=1)
    assert report_id in held.cli("detections", "--state", "held")
