"""A database login from Vault dies with the code: at the broker, at Vault and at the database, on real servers."""

from __future__ import annotations

import base64
import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from lockstep.v1 import credential_pb2
from tests.support.brokers import Broker, dev_broker
from tests.support.doors import ask
from tests.support.wire import Refused, Wire, Workload, envelope, publish

if TYPE_CHECKING:
    from tests.support.openbao import OpenBao
    from tests.support.postgres import Postgres
    from tests.support.vault_stage import VaultStage

ROLES = """
[manifests.app]
signers = ["dev"]
[roles.payments-db]
mode = "enforce"
identity = { from = "dev", subject = "db-*" }
manifests = ["app"]
backend = { use = "vault", path = "database/creds/payments", cutter = "payments-db" }
ttl = "5m"
after_revocation = "retry"
[roles.without-cutter]
mode = "enforce"
identity = { from = "dev", subject = "db-*" }
manifests = ["app"]
backend = { use = "vault", path = "database/creds/payments" }
ttl = "5m"
after_revocation = "retry"
[roles.without-functions]
mode = "enforce"
identity = { from = "dev", subject = "db-*" }
manifests = ["app"]
backend = { use = "vault", path = "database/creds/payments-plain" }
ttl = "5m"
after_revocation = "retry"
"""


@pytest.fixture(scope="module")
def stage(
    openbao_server: OpenBao, postgres_server: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> VaultStage:
    from tests.support.vault_stage import lay_out

    return lay_out(openbao_server, postgres_server, tmp_path_factory.mktemp("stage"))


@pytest.fixture(scope="module")
def broker(stage: VaultStage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    folder = tmp_path_factory.mktemp("broker")
    roles = folder / "roles.toml"
    roles.touch(mode=0o600)
    roles.write_text(stage.backend() + stage.cutter() + ROLES)
    with dev_broker(folder / "dev", roles) as running:
        publish(running, envelope(running, "app", "lib"))
        yield running


@pytest.fixture
def wire(broker: Broker) -> Iterator[Wire]:
    with Wire(broker.address, broker.ca) as connection:
        yield connection


def attested(broker: Broker, wire: Wire, subject: str) -> Workload:
    workload = Workload(wire, broker.token(subject))
    workload.attest("app")
    return workload


def given(answer: credential_pb2.IssueCredentialResponse) -> tuple[str, str]:
    fields = answer.credential.fields.values
    return fields["username"], fields["password"]


def receipt(broker: Broker, decision: str) -> dict[str, Any]:
    """Of what a decision revoked, once everything is confirmed."""
    explained = json.loads(broker.cli("explain", decision, "--json"))
    answer = json.loads(
        broker.cli("receipts", explained["decision"]["revocation_id"], "--wait", "30", "--json")
    )
    found: dict[str, Any] = json.loads(base64.b64decode(answer["payload"]))
    return found


def revoke(broker: Broker, workload: Workload) -> str:
    said = json.loads(
        broker.cli("revoke", "--attestation", workload.attestation_id, "--reason", "test", "--json")
    )
    return str(said["decision_id"])


def ended(session: psycopg.Connection, within: float = 20.0) -> bool:
    """Wait until the server has closed a session that does nothing."""
    import select

    readable, _, _ = select.select([session.fileno()], [], [], within)
    if not readable:
        return False
    with contextlib.suppress(psycopg.Error):
        session.execute("SELECT 1")
        return False
    return True


@pytest.mark.parametrize("role", ["payments-db", "without-cutter", "without-functions"])
def test_a_login_and_its_open_session_die_with_the_instance(
    broker: Broker, wire: Wire, stage: VaultStage, role: str
) -> None:
    workload = attested(broker, wire, "db-a")
    spared = attested(broker, wire, "db-b")
    username, password = given(workload.issue(role))
    with (
        stage.session(username, password) as session,
        stage.session(*given(spared.issue(role))) as other,
    ):
        assert session.execute("SELECT note FROM app.orders").fetchall() == [("first",)]
        decision = revoke(broker, workload)
        assert ended(session)
        with pytest.raises(psycopg.OperationalError), stage.session(username, password):
            pass
        told = receipt(broker, decision)
        assert other.execute("SELECT 1").fetchone() == (1,)
    names = [step["name"] for step in told["steps"]]
    for name in ("denied", "frozen", "cleaned", "drained", "closed", "gone", "confirmed"):
        assert name in names, names
    assert ("cut" in names) is (role == "payments-db")
    assert [step["at"] for step in told["steps"]] == sorted(step["at"] for step in told["steps"])
    assert told["unconfirmed"] == []
    assert username not in [name for (name,) in roles_at(stage)]
    with pytest.raises(Refused) as refused:
        workload.issue(role)
    assert refused.value.reason == "revoked"
    spared.issue(role)


def give_back(workload: Workload, issued: credential_pb2.IssueCredentialResponse) -> None:
    from lockstep_client import methods

    workload.call(
        methods.REVOKE_LEASE.path,
        credential_pb2.RevokeLeaseRequest(
            attestation_id=workload.attestation_id, lease_id=issued.lease.lease_id
        ),
        credential_pb2.RevokeLeaseResponse,
    )


STUCK = ("lockstep_stuck_leases", "lockstep_stuck_accounts")


def stuck(broker: Broker) -> list[float]:
    """How many leases and accounts ``/metrics`` calls stuck."""
    text = ask(broker, "GET", "/metrics").body
    found = dict(line.split() for line in text.splitlines() if line.startswith(STUCK))
    return [float(found[name]) for name in STUCK]


def become_stuck(broker: Broker, *wanted: float, within: float = 30.0) -> None:
    """Wait until ``/metrics`` says so; it counts anew every few seconds."""
    deadline = time.monotonic() + within
    while (found := stuck(broker)) != list(wanted):
        assert time.monotonic() < deadline, found
        time.sleep(0.2)


def roles_at(stage: VaultStage) -> list[tuple[str]]:
    with stage.target.superuser.connect() as session:
        found: list[tuple[str]] = session.execute("SELECT rolname FROM pg_roles").fetchall()
        return found


def test_no_secret_is_written_anywhere(broker: Broker, wire: Wire, stage: VaultStage) -> None:
    workload = attested(broker, wire, "db-secret")
    username, password = given(workload.issue("payments-db"))
    listed = broker.cli("leases", "--attestation", workload.attestation_id, "--json")
    assert password not in listed
    assert password not in broker.log
    for file in broker.folder.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert password.encode() not in content, file
            assert username.encode() not in content, file


def test_renewal_keeps_the_login(broker: Broker, wire: Wire, stage: VaultStage) -> None:
    workload = attested(broker, wire, "db-renew")
    issued = workload.issue("payments-db")
    workload.reattest()
    renewed = workload.renew(issued.lease.lease_id)
    assert not renewed.HasField("credential")
    assert renewed.lease.expires_at.ToSeconds() >= issued.lease.expires_at.ToSeconds()
    with stage.session(*given(issued)) as session:
        assert session.execute("SELECT 1").fetchone() == (1,)


def test_a_crash_of_the_broker_costs_no_login_and_forgets_none(
    broker: Broker, wire: Wire, stage: VaultStage
) -> None:
    workload = attested(broker, wire, "db-crash")
    issued = workload.issue("payments-db")
    username, password = given(issued)
    with stage.session(username, password) as session:
        broker.kill()
        broker.start()
        assert session.execute("SELECT 1").fetchone() == (1,)
        with Wire(broker.address, broker.ca) as again:
            workload.wire = again
            workload.reattest()
            renewed = workload.renew(issued.lease.lease_id)
            assert not renewed.HasField("credential")
            second = given(workload.issue("payments-db"))
            with stage.session(*second) as other:
                began = time.monotonic()
                revoke(broker, workload)
                assert ended(session)
                assert ended(other)
                assert time.monotonic() - began < 20
    assert {username, second[0]}.isdisjoint(name for (name,) in roles_at(stage))


def test_given_back_it_is_gone_and_nothing_else(broker: Broker, wire: Wire, stage: VaultStage) -> None:
    workload = attested(broker, wire, "db-back")
    first, second = workload.issue("payments-db"), workload.issue("payments-db")
    with stage.session(*given(first)) as session, stage.session(*given(second)) as other:
        give_back(workload, first)
        assert ended(session)
        assert other.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.timeout(120)
def test_a_database_that_is_away_makes_it_stuck_until_it_is_back(
    openbao_server: OpenBao, tmp_path: Path
) -> None:
    from tests.support.postgres import postgres
    from tests.support.vault_stage import lay_out

    with postgres() as own:
        stage = lay_out(openbao_server, own, tmp_path / "stage")
        roles = tmp_path / "roles.toml"
        roles.touch(mode=0o600)
        roles.write_text(stage.backend() + stage.cutter() + ROLES)
        with (
            dev_broker(tmp_path / "dev", roles) as running,
            Wire(running.address, running.ca) as connection,
        ):
            publish(running, envelope(running, "app", "lib"))
            workload = attested(running, connection, "db-away")
            username, _ = given(workload.issue("payments-db"))
            # An instance without any lease left: what is stuck of it is its account, whose target cannot be looked at.
            tidy = attested(running, connection, "db-away-tidy")
            returned = tidy.issue("payments-db")
            with stage.session(*given(returned)) as session:
                give_back(tidy, returned)
                assert ended(session)
            assert running.cli("leases", "--stuck") == "nothing is stuck\n"
            assert stuck(running) == [0.0, 0.0]
            own.kill()
            decisions = [revoke(running, one) for one in (workload, tidy)]
            running.heard("a credential cannot be taken back yet", within=30)
            become_stuck(running, 1.0, 1.0)
            said = running.cli("leases", "--stuck", expect=1)
            assert "backend_unavailable" in said
            assert username not in said
            listed = json.loads(running.cli("leases", "--stuck", "--json", expect=1))
            assert [row["cleaning"]["backend"] for row in listed] == ["vault"] * len(listed)
            # Denying goes on meanwhile: the instance gets nothing, here or anywhere.
            with pytest.raises(Refused) as refused:
                workload.issue("payments-db")
            assert refused.value.reason == "revoked"
            own.start()
            for decision in decisions:
                assert receipt(running, decision)["unconfirmed"] == []
            assert username not in [name for (name,) in roles_at(stage)]
            assert running.cli("leases", "--stuck") == "nothing is stuck\n"
            become_stuck(running, 0.0, 0.0)


def test_a_cutter_that_finds_no_login_is_no_proof_that_there_is_none(
    openbao_server: OpenBao, postgres_server: Postgres, tmp_path: Path
) -> None:
    """Names that it does not look for: what it cannot find, the receipt must not call gone."""
    from tests.support.vault_stage import lay_out

    stage = lay_out(openbao_server, postgres_server, tmp_path / "stage")
    template = '{{ printf "ls-%s-%s" (.DisplayName | replace "token-" "" | lowercase) (random 12) }}'
    stage.vault.root.write("database/config/orders", username_template=template)
    roles = tmp_path / "roles.toml"
    roles.touch(mode=0o600)
    roles.write_text(stage.backend() + stage.cutter() + ROLES)
    with dev_broker(tmp_path / "dev", roles) as running, Wire(running.address, running.ca) as connection:
        publish(running, envelope(running, "app", "lib"))
        workload = attested(running, connection, "db-misnamed")
        issued = workload.issue("payments-db")
        assert given(issued)[0].startswith("ls-a-")
        assert "names of logins do not begin with the instance" in running.heard("source")["problem"]
        told = receipt(running, revoke(running, workload))
        running.heard("an operator has to put this right")
    (unconfirmed,) = told["unconfirmed"]
    assert unconfirmed["lease"] == issued.lease.lease_id
    assert "cutter payments-db found no login of the instance" in unconfirmed["what"]
    names = [step["name"] for step in told["steps"]]
    assert "missed" in names
    assert "cut" not in names


def test_a_vault_that_is_away_denies_nothing_less(postgres_server: Postgres, tmp_path: Path) -> None:
    from tests.support.openbao import openbao
    from tests.support.vault_stage import lay_out

    with openbao(tmp_path / "bao", storage="raft") as own:
        stage = lay_out(own, postgres_server, tmp_path / "stage")
        roles = tmp_path / "roles.toml"
        roles.touch(mode=0o600)
        roles.write_text(stage.backend() + stage.cutter() + ROLES)
        with (
            dev_broker(tmp_path / "dev", roles) as running,
            Wire(running.address, running.ca) as connection,
        ):
            publish(running, envelope(running, "app", "lib"))
            workload = attested(running, connection, "db-sealed")
            username, password = given(workload.issue("payments-db"))
            other = attested(running, connection, "db-other")
            with stage.session(username, password) as session:
                own.seal()
                with pytest.raises(Refused) as refused:
                    other.issue("payments-db")
                assert refused.value.reason == "backend_unavailable"
                decision = revoke(running, workload)
                # The target does not wait for Vault.
                assert ended(session)
                with pytest.raises(psycopg.OperationalError), stage.session(username, password):
                    pass
            own.unseal()
            told = receipt(running, decision)
            assert {"cut", "frozen", "cleaned", "confirmed"} <= {step["name"] for step in told["steps"]}
            assert stage.vault.leases("database/creds/payments") == []
            with stage.session(*given(other.issue("payments-db"))) as session:
                assert session.execute("SELECT 1").fetchone() == (1,)
