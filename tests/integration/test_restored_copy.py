"""A state that comes back from a copy: seen where it can be seen, and whatever it has forgotten counts for nothing."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from broker.adapters.audit import verify_lines
from lockstep.v1 import revocation_pb2
from lockstep_client.errors import Revoked, Unavailable
from lockstep_client.operator import Operator
from lockstep_client.verify import TokenVerifier
from tests.support.actors import clean_environment, until
from tests.support.brokers import Broker, dev_broker
from tests.support.doors import ask, post_form
from tests.support.wire import Refused, Wire, Workload, envelope, publish

pytestmark = pytest.mark.integration

ROLES = """
[manifests.app]
signers = ["dev"]

[roles.app]
mode = "enforce"
identity = { from = "dev", subject = "app-*" }
manifests = ["app"]
backend = { use = "jwt", audience = "dev" }
ttl = "5m"
revocability = "instant"
"""


class Ground:
    """A broker of which a copy was made, after which it went on: one more grant, and a revocation with a ban."""

    def __init__(self, folder: Path, roles: Path) -> None:
        self.folder = folder
        self.state = folder / "state" / "lockstep.db"
        self.audit = folder / "state" / "audit.jsonl"
        self.copy = folder / "copy.db"
        self.command = ["--config", str(folder / "lockstep.toml")]
        with dev_broker(folder, roles) as broker, Wire(broker.address, broker.ca) as wire:
            publish(broker, envelope(broker, "app"))
            self.early, self.early_token = granted(broker, wire, "app-early")
            with closing(sqlite3.connect(self.state)) as live:
                live.execute("VACUUM INTO ?", (str(self.copy),))
            self.late, self.late_token = granted(broker, wire, "app-late")
            self.lost, self.lost_token = granted(broker, wire, "app-lost")
            with Operator(broker.operator_settings()) as operator:
                selector = revocation_pb2.Selector(attestation_id=self.lost.attestation_id)
                self.revocation = operator.revoke(selector, reason="after the copy", ticket="INC-311")
        self.broker = Broker(folder, ["serve", *self.command])

    def restore(self) -> None:
        """As a person does it."""
        for end in ("-wal", "-shm"):
            self.state.with_name(self.state.name + end).unlink(missing_ok=True)
        shutil.copyfile(self.copy, self.state)

    def run(self, *words: str) -> tuple[int, str]:
        """``lockstep-broker``: exit status, and what it said."""
        done = subprocess.run(
            [sys.executable, "-m", "broker", *words, *self.command],
            env=clean_environment({}),
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def restored(self, *options: str) -> tuple[int, str]:
        return self.run("state", "restored", "--reason", "the disk was lost", "--ticket", "INC-312", *options)


def granted(broker: Broker, wire: Wire, subject: str) -> tuple[Workload, str]:
    workload = Workload(wire, broker.token(subject))
    workload.attest("app", roles=["app"])
    return workload, workload.issue("app").credential.token


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    roles = tmp_path / "roles.toml"
    roles.write_text(ROLES)
    found = Ground(tmp_path / "dev", roles)
    yield found
    found.broker.stop()


def test_a_copy_that_nobody_spoke_of_is_not_served(ground: Ground) -> None:
    ground.restore()
    code, said = ground.run("serve")
    assert code == 4
    assert str(ground.revocation.decision_id) in said
    assert "lockstep-broker state restored" in said
    # Nor is one that is empty: it lacks every ban there was.
    ground.state.unlink()
    assert ground.run("serve")[0] == 4


def test_what_was_granted_before_is_over_whether_the_copy_knows_it_or_not(ground: Ground) -> None:
    broker = ground.broker
    broker.start()
    with TokenVerifier(audience="dev", settings=broker.settings("dev-resource-server")) as verifier:
        verifier.wait_ready(10)
        for token in (ground.early_token, ground.late_token):
            verifier.verify(token)
        assert broker.stop() == 0
        ground.restore()
        code, said = ground.restored("--yes", "--json", "--by", "ann")
        assert code == 0, said
        told = json.loads(said)
        assert (told["instances"], told["leases"]) == (1, 1)
        assert [item["id"] for item in told["forgotten"]] == [ground.revocation.decision_id]
        assert "after the copy" in told["forgotten"][0]["detail"]

        broker.start()
        # The verifier has followed the lost log further than this one is: it begins anew, and asks.
        for token in (ground.early_token, ground.late_token, ground.lost_token):
            until(lambda token=token: refused(verifier, token), "the token is refused")  # type: ignore[misc]
        asking = broker.token("dev-resource-server")
        for token in (ground.early_token, ground.late_token, ground.lost_token):
            assert post_form(broker, "/v1/introspect", asking, token=token).body == {"active": False}
        with Wire(broker.address, broker.ca) as wire:
            for workload, reason in ((ground.early, "revoked"), (ground.late, "attestation_expired")):
                workload.wire = wire
                with pytest.raises(Refused) as caught:
                    workload.issue("app")
                assert caught.value.reason == reason
            _, token = granted(broker, wire, "app-early")
            verifier.verify(token)
            # Whom nobody has banned again is let in again: that is what had to be acknowledged.
            granted(broker, wire, "app-lost")
        with Operator(broker.operator_settings()) as operator:
            decision = operator.explain(told["decision"], code_set=False).decision
        assert (decision.actor, decision.ticket) == ("console:ann", "INC-312")
        assert "the disk was lost" in decision.detail
        assert broker.stop() == 0
    with ground.audit.open("rb") as lines:
        assert verify_lines(lines).lines > 0
    # It has been said: the next start asks for nothing.
    broker.start()


def refused(verifier: TokenVerifier, token: str) -> bool:
    try:
        verifier.verify(token)
    except Revoked:
        return True
    except Unavailable:  # it has not heard from the broker yet
        return False
    return False


def test_it_is_said_by_somebody_with_a_reason_about_a_broker_that_stands_still(ground: Ground) -> None:
    ground.restore()
    code, said = ground.restored()
    assert code == 1
    assert "go on? [y/N]" in said
    assert ground.run("state", "restored", "--reason", "\x1b[2J", "--yes")[0] == 2
    assert ground.run("serve")[0] == 4
    code, said = ground.restored("--yes")
    assert code == 0
    assert "1 instances and 1 leases revoked; decision D-" in said
    assert "1 decisions of the audit log are not in this state" in said
    ground.broker.start()
    code, said = ground.restored("--yes")
    assert code == 4
    assert "another broker has this state open" in said


def test_a_watcher_that_knows_more_than_the_state_raises_an_alarm(ground: Ground) -> None:
    """The audit log was lost with the disk: then nothing but a watcher can tell."""
    broker = ground.broker
    broker.start()
    with TokenVerifier(audience="dev", settings=broker.settings("dev-resource-server")) as verifier:
        verifier.wait_ready(10)
        assert broker.stop() == 0
        ground.restore()
        ground.audit.unlink()
        broker.start()
        until(
            lambda: "lockstep_log_contradictions_total 1.0" in ask(broker, "GET", "/metrics").body,
            "the alarm",
        )
        # It is an alarm alone: who could stop grants by a position would hold a switch for everybody.
        with Wire(broker.address, broker.ca) as wire:
            granted(broker, wire, "app-new")
