"""The SDK and ``lockstep run`` as applications use them: real processes, until their trust is taken back."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from lockstep.v1 import credential_pb2, revocation_pb2
from lockstep_client.operator import Operator
from tests.support.actors import acting, until
from tests.support.brokers import Broker
from tests.support.relay import Relay

HERE = Path(__file__).parent
WORKER = [sys.executable, str(HERE / "programs" / "worker.py")]
AIO_WORKER = [sys.executable, str(HERE / "programs" / "aio_worker.py")]
RUN = [sys.executable, "-m", "lockstep_client", "run", "--role", "worker"]


@pytest.fixture(scope="module")
def operator(broker: Broker) -> Iterator[Operator]:
    """The folder's operator."""
    with Operator(broker.operator_settings()) as connection:
        yield connection


def worker_env(broker: Broker, subject: str, role: str = "worker", **changes: str) -> dict[str, str]:
    """A workload whose role observes."""
    return {**broker.env(subject), "WORKER_ROLE": role, **changes}


def revoke(operator: Operator, attestation: str) -> revocation_pb2.RevokeResponse:
    """One instance."""
    return operator.revoke(revocation_pb2.Selector(attestation_id=attestation), reason="told so")


def lease_states(operator: Operator, attestation: str) -> list[str]:
    """Of an instance."""
    return [
        credential_pb2.LeaseState.Name(lease.state) for lease in operator.leases(attestation_id=attestation)
    ]


def given_back(operator: Operator, attestation: str) -> None:
    """Its one lease is over; being cleaned counts at once, and gets done."""
    assert lease_states(operator, attestation) != ["LEASE_STATE_ACTIVE"]
    until(lambda: lease_states(operator, attestation) == ["LEASE_STATE_REVOKED"], "the lease is cleaned")


class TestSdk:
    """`lockstep_client.connect` and `lockstep_client.aio.connect`."""

    def test_leaving_gives_leases_back_and_nothing_shows_the_secret(
        self, broker: Broker, operator: Operator
    ) -> None:
        with acting("worker", WORKER, worker_env(broker, "worker-leaves")) as worker:
            ready = worker.hear("ready")
            assert ready["token"] not in ready["shown"]
            assert lease_states(operator, ready["attestation"]) == ["LEASE_STATE_ACTIVE"]
            worker.tell("quit")
            assert worker.wait() == 0
            assert ready["token"] not in worker.noise
        given_back(operator, ready["attestation"])

    def test_revoked_means_exit_77_after_the_callbacks(self, broker: Broker, operator: Operator) -> None:
        env = worker_env(broker, "worker-exits", WORKER_ON_REVOKED="exit")
        with acting("worker", WORKER, env) as worker:
            ready = worker.hear("ready")
            answer = revoke(operator, ready["attestation"])
            assert worker.hear("revoked")["decision"] == answer.decision_id
            assert worker.wait(10) == 77

    def test_a_revoked_process_does_not_come_back_by_starting_again(
        self, broker: Broker, operator: Operator
    ) -> None:
        env = worker_env(broker, "worker-again", WORKER_ON_REVOKED="exit")
        with acting("worker", WORKER, env) as worker:
            answer = revoke(operator, worker.hear("ready")["attestation"])
            assert worker.wait(10) == 77
        with acting("worker", WORKER, env) as worker:
            denied = worker.hear("denied")
            assert denied["reason"] in ("held", "banned")
            assert worker.wait() == 78
        operator.lift(answer.revocation_id, reason="looked at it")
        with acting("worker", WORKER, env) as worker:
            assert worker.hear("ready")["usable"]

    def test_silence_drops_the_secrets_and_they_come_back(self, broker: Broker) -> None:
        with Relay(broker.ports["tls"]) as relay:
            env = worker_env(broker, "short-silence", "short", LOCKSTEP_ADDRESS=relay.address)
            with acting("worker", WORKER, env) as worker:
                assert worker.hear("ready")["usable"]
                relay.cut()

                def dropped() -> bool:
                    found = worker.ask("use")
                    return not found["usable"] and found["kind"] == "Unavailable"

                until(dropped, "secrets are dropped when nobody is heard", within=8, pause=0.1)
                assert not worker.ask("use")["ready"]
                relay.mend()
                until(lambda: worker.ask("use")["usable"], "secrets are back", within=10, pause=0.1)

    def test_a_forked_child_attests_for_itself(self, broker: Broker, operator: Operator) -> None:
        with acting("worker", WORKER, worker_env(broker, "worker-forks")) as worker:
            parent = worker.hear("ready")
            worker.tell("fork")
            child = worker.hear("child")
            after = worker.hear("answer")

            assert child["usable"]
            assert child["pid"] != worker.pid
            assert child["attestation"] not in ("", parent["attestation"])
            assert child["lease"] != parent["lease"]
            assert child["token"] != parent["token"]
            # The parent goes on as if nothing had been.
            assert after["status"] == 0
            assert after["lease"] == parent["lease"]
            given_back(operator, child["attestation"])

    def test_many_threads_share_one_credential(self, broker: Broker, operator: Operator) -> None:
        with acting("worker", WORKER, worker_env(broker, "worker-threads")) as worker:
            ready = worker.hear("ready")
            assert worker.ask("threads", "16") == {"event": "answer", "uses": 800, "usable": 800}
            assert lease_states(operator, ready["attestation"]) == ["LEASE_STATE_ACTIVE"]

    def test_callbacks_run_in_the_event_loop(self, broker: Broker, operator: Operator) -> None:
        env = worker_env(broker, "worker-aio")
        with acting("aio", AIO_WORKER, env) as worker:
            ready = worker.hear("ready")
            assert ready["parts"] == 2
            worker.tell("go")
            answer = revoke(operator, ready["attestation"])
            told = worker.hear("revoked")
            assert (told["decision"], told["in_the_loop"]) == (answer.decision_id, True)
            assert worker.wait() == 0

    def test_a_loop_that_hangs_delays_no_revocation(self, broker: Broker, operator: Operator) -> None:
        env = worker_env(broker, "worker-hangs")
        with acting("aio", AIO_WORKER, env) as worker:
            ready = worker.hear("ready")
            worker.tell("block")
            answer = revoke(operator, ready["attestation"])
            # The receipt says when the workload's own watcher has acknowledged it.
            until(
                lambda: operator.receipt(answer.revocation_id).complete,
                "the revocation is settled",
                within=10,
            )
            worker.tell("look")
            assert worker.hear("answer") == {
                "event": "answer",
                "usable": False,
                "decision": answer.decision_id,
            }
            worker.hear("revoked")


PROGRAM = """
import json, os, sys
path = os.environ["LOCKSTEP_CREDENTIAL_FILE"]
with open(path) as file:
    token = file.read()
mode = oct(os.stat(path).st_mode & 0o777)
print(json.dumps({"event": "has", "parts": token.count("."), "mode": mode, "path": path, "pid": os.getpid(),
                  "in_environment": any(token in value for value in os.environ.values())}), flush=True)
for line in sys.stdin:
    break
sys.exit(3)
"""


class TestRun:
    """``lockstep run``."""

    @pytest.fixture
    def program(self, tmp_path: Path) -> str:
        path = tmp_path / "program.py"
        path.write_text(PROGRAM)
        return str(path)

    @staticmethod
    def attestation_of(operator: Operator, subject: str) -> str:
        """Of the one instance of an identity."""
        active = [credential_pb2.LEASE_STATE_ACTIVE]
        [found] = {
            lease.attestation_id
            for lease in operator.leases(states=active)
            if lease.identity.endswith(f"|{subject}")
        }
        return found

    @staticmethod
    def launched(broker: Broker, subject: str, *arguments: str) -> tuple[Sequence[str], dict[str, str]]:
        return [*RUN, *arguments], broker.env(subject)

    def test_it_hands_over_a_private_file_and_passes_the_exit_code_on(
        self, broker: Broker, program: str
    ) -> None:
        command, env = self.launched(broker, "worker-run", "--", sys.executable, program)
        with acting("run", command, env) as run:
            has = run.hear("has")
            assert (has["parts"], has["mode"], has["in_environment"]) == (2, "0o600", False)
            run.tell("end")
            assert run.wait() == 3
            assert not Path(has["path"]).exists()
            assert not Path(has["path"]).parent.exists()

    def test_revoked_ends_the_program_with_77(self, broker: Broker, operator: Operator, program: str) -> None:
        command, env = self.launched(broker, "worker-run-77", "--", sys.executable, program)
        with acting("run", command, env) as run:
            has = run.hear("has")
            answer = revoke(operator, self.attestation_of(operator, "worker-run-77"))
            assert run.wait(10) == 77
            assert answer.decision_id in run.noise
            assert not Path(has["path"]).exists()
            assert not Path(f"/proc/{has['pid']}").exists()

    def test_a_restart_proves_itself_anew(self, broker: Broker, operator: Operator, program: str) -> None:
        subject = "worker-run-restart"
        command, env = self.launched(
            broker, subject, "--on-revoked", "restart", "--wait", "0", "--", sys.executable, program
        )
        with acting("run", command, env) as run:
            first = run.hear("has")
            revoke(operator, self.attestation_of(operator, subject))
            # Its identity is held until somebody has looked: the second start is denied.
            assert run.wait(15) == 78
            assert not Path(f"/proc/{first['pid']}").exists()

    def test_a_signal_instead_of_an_end(self, broker: Broker, operator: Operator, tmp_path: Path) -> None:
        path = tmp_path / "patient.py"
        path.write_text(
            "import json, os, signal, sys\n"
            "def told(*_):\n"
            "    print(json.dumps({'event': 'told'}), flush=True)\n"
            "    os._exit(9)\n"
            "signal.signal(signal.SIGUSR1, told)\n"
            "open(os.environ['LOCKSTEP_CREDENTIAL_FILE']).read()\n"
            "print(json.dumps({'event': 'has'}), flush=True)\n"
            "sys.stdin.read()\n"
        )
        subject = "worker-run-signal"
        command, env = self.launched(
            broker, subject, "--on-revoked", "signal:USR1", "--", sys.executable, str(path)
        )
        with acting("run", command, env) as run:
            run.hear("has")
            revoke(operator, self.attestation_of(operator, subject))
            run.hear("told")
            assert run.wait() == 9

    def test_a_program_that_is_no_python_gets_its_credential_by_descriptor(self, broker: Broker) -> None:
        command, env = self.launched(
            broker, "worker-run-sh", "--output", "fd", "--", "/bin/sh", "-c",
            'token=$(cat <&"$LOCKSTEP_CREDENTIAL_FD"); printf \'{"event": "has", "size": %d}\\n\' ${#token}; exit 4',
        )  # fmt: skip
        with acting("run", command, env) as run:
            assert run.hear("has")["size"] > 200
            assert run.wait() == 4

    def test_nobody_there_is_75(self, broker: Broker, program: str) -> None:
        command, env = self.launched(broker, "worker-run-75", "--wait", "0", "--", sys.executable, program)
        with Relay(broker.ports["tls"]) as relay:
            relay.cut()
            with acting("run", command, {**env, "LOCKSTEP_ADDRESS": relay.address}) as run:
                assert run.wait() == 75
                assert "unavailable" in run.noise

    def test_a_stranger_is_78(self, broker: Broker, program: str) -> None:
        command, env = self.launched(broker, "nobody-at-all", "--", sys.executable, program)
        with acting("run", command, env) as run:
            assert run.wait() == 78
            assert "not_entitled" in run.noise

    def test_a_signal_reaches_the_program(self, broker: Broker, program: str) -> None:
        command, env = self.launched(broker, "worker-run-term", "--", sys.executable, program)
        with acting("run", command, env) as run:
            pid = run.hear("has")["pid"]
            run.signal(15)
            assert run.wait() in (-15, 143)
            assert not Path(f"/proc/{pid}").exists()


def test_answers_of_commands_are_for_programs_too(broker: Broker) -> None:
    with acting("worker", WORKER, worker_env(broker, "worker-cli")) as worker:
        ready = worker.hear("ready")
        [lease] = json.loads(broker.cli("leases", "--attestation", ready["attestation"], "--json"))
        assert lease["lease_id"] == ready["lease"]
        assert "worker-cli" in broker.cli("leases", "--attestation", ready["attestation"])
        would = broker.cli("revoke", "--attestation", ready["attestation"], "--reason", "x", "--dry-run")
        assert "would hit 1 instances, 1 leases" in would
        assert ready["usable"]
        assert "answers at" in broker.cli("status")
