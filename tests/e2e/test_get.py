"""`lockstep get` and `lockstep wait`, as scripts use them, against a real broker."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lockstep_client.operator import Operator
from tests.support.actors import clean_environment, until
from tests.support.brokers import Broker, prepared

LOCKSTEP = [sys.executable, "-m", "lockstep_client"]
SCRIPT = 'login="$("$@")" && eval "$login" && printf %s "$LOCKSTEP_TOKEN"'


@pytest.fixture(scope="module")
def operator(broker: Broker) -> Iterator[Operator]:
    """The folder's operator."""
    with Operator(broker.operator_settings()) as connection:
        yield connection


def get(broker: Broker, subject: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Its output and its standard error apart."""
    return subprocess.run(
        [*LOCKSTEP, "get", *arguments],
        env=clean_environment(broker.env(subject, **env)),
        capture_output=True,
        text=True,
        timeout=45,
        check=False,
    )


def state_of(broker: Broker, lease_id: str) -> str:
    """Of one lease."""
    [found] = [item for item in json.loads(broker.cli("leases", "--json")) if item["lease_id"] == lease_id]
    return str(found["state"])


def leases_of(broker: Broker, subject: str) -> list[str]:
    """States of the leases of one identity."""
    found = json.loads(broker.cli("leases", "--json"))
    return [item["state"] for item in found if item["identity"].endswith(f"|{subject}")]


def test_it_outlives_the_command_and_is_revoked_by_its_lease(broker: Broker) -> None:
    done = get(broker, "worker-get", "worker")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert state_of(broker, found["lease_id"]) == "LEASE_STATE_ACTIVE"
    assert found["token"] not in done.stderr
    assert f"lockstep revoke --lease {found['lease_id']} --reason" in done.stderr
    assert "next: lockstep manifest approve --from D-" in done.stderr
    broker.cli("revoke", "--lease", found["lease_id"], "--reason", "the job is over")
    assert state_of(broker, found["lease_id"]) in ("LEASE_STATE_REVOKED", "LEASE_STATE_REVOKING")


def test_a_shell_takes_it(broker: Broker) -> None:
    said = subprocess.run(
        ["sh", "-ec", SCRIPT, "sh", *LOCKSTEP, "get", "worker", "--format", "env"],
        env=clean_environment(broker.env("worker-shell")),
        capture_output=True,
        text=True,
        timeout=45,
        check=True,
    )
    assert said.stdout.count(".") == 2


def test_a_refusal_prints_nothing_and_is_78(broker: Broker) -> None:
    done = get(broker, "app-get", "app")
    assert (done.returncode, done.stdout) == (78, "")
    assert "lockstep explain D-" in done.stderr


def test_nobody_there_is_75(broker: Broker) -> None:
    done = get(broker, "worker-alone", "worker", LOCKSTEP_ADDRESS="127.0.0.1:1")
    assert (done.returncode, done.stdout) == (75, "")


@pytest.mark.parametrize("form", ["aws", "kubectl"])
def test_what_the_format_cannot_say_is_given_back(broker: Broker, form: str) -> None:
    subject = f"worker-unfit-{form}"
    env = {"KUBERNETES_EXEC_INFO": '{"apiVersion": "client.authentication.k8s.io/v1beta1"}'}
    done = get(broker, subject, "worker", "--format", form, **(env if form == "kubectl" else {}))
    assert (done.returncode, done.stdout) == (2, "")
    assert "LEASE_STATE_ACTIVE" not in leases_of(broker, subject)


def test_a_credential_that_is_bound_to_a_key_is_given_back(broker: Broker) -> None:
    done = get(broker, "proven-get", "proven")
    assert (done.returncode, done.stdout) == (2, "")
    assert "possession" in done.stderr
    assert leases_of(broker, "proven-get") == ["LEASE_STATE_REVOKED"]


def test_where_it_cannot_be_written_it_is_given_back(broker: Broker) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*LOCKSTEP, "get", "worker"],
            env=clean_environment(broker.env("worker-full")),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=45,
            check=False,
        )
    assert done.returncode != 0
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr
    assert leases_of(broker, "worker-full") == ["LEASE_STATE_REVOKED"]


def test_without_a_standard_output_nobody_is_asked(broker: Broker) -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *LOCKSTEP, "get", "worker"],
        env=clean_environment(broker.env("worker-closed")),
        stderr=subprocess.PIPE,
        text=True,
        timeout=45,
        check=False,
    )
    assert done.returncode == 2
    assert "no standard output" in done.stderr
    assert leases_of(broker, "worker-closed") == []


def test_a_terminal_is_shown_a_secret_only_when_it_is_asked_for(broker: Broker) -> None:
    refused = on_a_terminal(broker, "worker-tty", "worker")
    assert "--show" in refused
    assert leases_of(broker, "worker-tty") == []
    assert '"token": "ey' in on_a_terminal(broker, "worker-tty", "worker", "--show")


def on_a_terminal(broker: Broker, subject: str, *arguments: str) -> str:
    """What a person would see."""
    reading, terminal = pty.openpty()
    try:
        process = subprocess.Popen(
            [*LOCKSTEP, "get", *arguments],
            env=clean_environment(broker.env(subject)),
            stdout=terminal,
            stderr=terminal,
        )
        os.close(terminal)
        seen = b""
        while True:
            try:
                read = os.read(reading, 65_536)
            except OSError:  # the other end is closed
                break
            seen += read
        process.wait(10)
        return seen.decode()
    finally:
        os.close(reading)


def test_an_init_container_waits_for_a_broker_that_starts(tmp_path: Path) -> None:
    folder = tmp_path / "dev"
    prepared(folder)
    broker = Broker(folder, ["dev", "--json", "--folder", str(folder)])
    waiting = subprocess.Popen(
        [*LOCKSTEP, "wait", "--timeout", "40s"],
        env=clean_environment(broker.env()),
        stderr=subprocess.PIPE,
        text=True,
    )
    with waiting:
        try:
            until(lambda: "grpc" in Path(f"/proc/{waiting.pid}/maps").read_text(), "it has begun to try")
            assert waiting.poll() is None
            broker.start()
            said = waiting.communicate(timeout=45)[1]
            assert waiting.returncode == 0, said
            assert f"{broker.address} answers" in said
        finally:
            waiting.kill()
            broker.stop()


def test_waiting_ends_with_75_and_says_for_how_long(broker: Broker) -> None:
    said = broker.cli("wait", "--timeout", "1s", expect=75, LOCKSTEP_ADDRESS="127.0.0.1:1")
    assert "not within 1 s: no broker answers at 127.0.0.1:1" in said


def test_waiting_for_a_role_asks_what_would_be_decided_and_grants_nothing(
    broker: Broker, operator: Operator
) -> None:
    before = len(list(operator.leases()))
    broker.cli("wait", "--role", "worker", subject="worker-waits")
    said = broker.cli("wait", "--role", "app", expect=78, subject="app-waits")
    assert "app would not be granted (appraisal_failed" in said
    assert "lockstep explain D-" in said
    assert "no role 'nothing'" in broker.cli("wait", "--role", "nothing", expect=78, subject="worker-waits")
    assert len(list(operator.leases())) == before
