"""What an operator looks over, from the command line, against a real broker."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.support.actors import PATIENCE, clean_environment
from tests.support.brokers import Broker
from tests.support.doors import detection, report
from tests.support.manifests import unit
from tests.support.wire import Refused, Wire, Workload


def attested(wire: Wire, broker: Broker, subject: str, role: str, *code: str) -> Workload:
    """An instance, and what it was granted."""
    workload = Workload(wire, broker.token(subject))
    workload.attest(*code, roles=[role])
    return workload


def test_who_has_loaded_a_unit_and_how_each_stands(broker: Broker, wire: Wire) -> None:
    code = "only-the-overseen"
    alive = attested(wire, broker, "seen-alive", "seen", "app", code)
    gone = attested(wire, broker, "seen-gone", "seen", "app", code)
    broker.cli("revoke", "--attestation", gone.attestation_id, "--reason", "an exercise")
    digest = unit(code).digest.hex()
    found = json.loads(broker.cli("attestations", "--loaded", digest, "--json"))
    assert {item["attestation_id"]: item["state"] for item in found} == {
        alive.attestation_id: "ATTESTATION_STATE_ALIVE",
        gone.attestation_id: "ATTESTATION_STATE_REVOKED",
    }
    table = broker.cli("attestations", "--loaded", digest, "--state", "alive", "--since", "1h")
    assert alive.attestation_id in table
    assert gone.attestation_id not in table
    assert broker.cli("attestations", "--loaded", "ab" * 32) == ""


def test_a_revocation_is_listed_with_what_it_did(broker: Broker, wire: Wire) -> None:
    workload = attested(wire, broker, "app-listed", "app", "app")
    workload.issue("app")
    told = json.loads(
        broker.cli("revoke", "--attestation", workload.attestation_id, "--reason", "listed", "--json")
    )
    broker.cli("receipts", told["revocation_id"], "--wait", "20")
    [found] = [
        item
        for item in json.loads(broker.cli("revocations", "--since", "10m", "--json"))
        if item["revocation_id"] == told["revocation_id"]
    ]
    assert found["state"] == "REVOCATION_STATE_SETTLED"
    assert (found["attestations"], found["leases"], found["reason"]) == ("1", "1", "listed")
    assert found["selector"] == {"attestation_id": workload.attestation_id}
    [line] = [line for line in broker.cli("revocations").splitlines() if told["revocation_id"] in line]
    assert f"attestation {workload.attestation_id}" in line
    assert "until lifted" in line
    broker.cli("revocations", "lift", told["revocation_id"], "--reason", "over")
    [line] = [line for line in broker.cli("revocations").splitlines() if told["revocation_id"] in line]
    assert "lifted 20" in line
    assert told["revocation_id"] not in broker.cli("revocations", "--open")


def test_what_an_observing_role_would_have_refused_is_counted(broker: Broker, wire: Wire) -> None:
    before = json.loads(broker.cli("report", "--role", "seen", "--json")).get("seen", {"would_refuse": 0})
    attested(wire, broker, "seen-counted", "seen", "app", "of-no-manifest")
    after = json.loads(broker.cli("report", "--role", "seen", "--json"))["seen"]
    assert after["would_refuse"] == before["would_refuse"] + 1
    assert after["modes"] == ["observe"]
    assert after["reasons"]["appraisal_failed"] >= 1
    with pytest.raises(Refused):
        attested(wire, broker, "app-counted", "app", "of-no-manifest")
    table = broker.cli("report", "--since", "1h")
    assert table.splitlines()[0].split()[:3] == ["role", "mode", "attested"]
    assert "appraisal_failed" in table


def test_reports_are_listed_by_how_they_ended(broker: Broker, wire: Wire) -> None:
    workload = attested(wire, broker, "app-reported", "app", "app")
    event = detection(
        subject={"attestation_id": workload.attestation_id},
        object={"sha256": unit("bad").digest.hex(), "path": "/tmp/plugin.py"},
    )
    answer = report(broker, event).body["reports"][0]
    assert answer["state"] == "applied"
    [found] = [
        item
        for item in json.loads(broker.cli("detections", "--state", "applied", "--json"))
        if item["detection_id"] == answer["detection"]
    ]
    assert found["attestations"] == [workload.attestation_id]
    assert found["object"]["path"] == "/tmp/plugin.py"
    assert answer["detection"] in broker.cli("detections", "--since", "1h")
    assert answer["detection"] not in broker.cli("detections", "--state", "held")


def test_the_log_is_followed_as_it_grows(broker: Broker, wire: Wire) -> None:
    workload = attested(wire, broker, "app-followed", "app", "app")
    following = subprocess.Popen(
        [sys.executable, "-m", "lockstep_client", "watch", "--for", str(PATIENCE)],
        env=clean_environment(broker.env()),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with following:
        assert following.stdout is not None
        assert following.stderr is not None
        assert "following" in following.stderr.readline()
        broker.cli("revoke", "--attestation", workload.attestation_id, "--reason", "while watched")
        for line in following.stdout:
            if workload.attestation_id in line:
                break
        assert "revoked" in line
        assert "while watched" in line
        following.terminate()


def test_who_may_not_read_is_told_so(broker: Broker) -> None:
    for command in ("attestations", "detections", "revocations", "report"):
        said = broker.cli(command, expect=78, LOCKSTEP_OPERATOR_TOKEN_FILE=str(broker.token_file("app-nosy")))
        assert "this identity may not make this call" in said


def test_what_answers_is_told_to_programs_too(broker: Broker) -> None:
    said = json.loads(broker.cli("status", "--json"))
    assert said["answers"] == {"grpc": broker.address, "http": broker.http_url}
    assert said["identity"] == str(broker.folder / "operator.token")
    assert "answers at" in broker.cli("status")


@pytest.mark.parametrize(
    "command",
    [
        ["leases"],
        ["attestations"],
        ["attestations", "--loaded", "pkg:pypi/litellm@1.82.8", "--since", "30d"],
        ["attestations", "--loaded", "ab" * 32],
        ["detections", "--since", "7d"],
        ["revocations", "--open"],
    ],
    ids=" ".join,
)
def test_a_list_is_a_table_for_people_and_a_document_for_programs(broker: Broker, command: list[str]) -> None:
    found = json.loads(broker.cli(*command, "--json"))
    lines = broker.cli(*command).splitlines()
    assert len(lines) == (len(found) + 1 if found else 0)
