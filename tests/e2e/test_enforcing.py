"""Approved code starts, other code does not: from the first refusal to an approved upgrade, retired and withdrawn."""

from __future__ import annotations

import base64
import json
import shutil
import sys
from pathlib import Path

import pytest

from broker.crypto.dsse import DsseVerifier
from broker.crypto.keyfiles import load_private_key
from lockstep.formats import RECEIPT_PAYLOAD_TYPE
from tests.support.brokers import Broker, dev_broker
from tests.support.doors import detection, post_form, report
from tests.support.wire import Refused, Wire, Workload, envelope, publish

HERE = Path(__file__).parent


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A small program with a module of its own."""
    (tmp_path / "prices.py").write_text("TEA = 3\n")
    main = tmp_path / "main.py"
    main.write_text(
        "import json, os, prices\n"
        "token = open(os.environ['LOCKSTEP_CREDENTIAL_FILE']).read()\n"
        "print(json.dumps({'event': 'sold', 'price': prices.TEA, 'parts': token.count('.')}))\n"
    )
    return main


def decision_in(text: str) -> str:
    """The first decision's id that a text names."""
    return next(word.strip(".,()") for word in text.split() if word.startswith("D-"))


def test_from_the_first_refusal_to_an_approved_upgrade(broker: Broker, program: Path) -> None:
    command = ("--", sys.executable, str(program))

    refused = broker.cli("run", "--role", "upgrade", *command, expect=78, subject="upgrade-a")
    assert "sold" not in refused
    first = decision_in(refused)
    explained = json.loads(broker.cli("explain", first, "--json"))
    assert explained["decision"]["verdict"] in ("no_manifest", "appraisal_failed")
    assert explained["decision"]["effect"] == "refused"
    assert explained["decision"]["role"] == "upgrade"

    broker.cli("manifest", "approve", "--from", first, "--yes")
    assert "sold" in broker.cli("run", "--role", "upgrade", *command, subject="upgrade-a")

    # An upgrade: one file changed.
    (program.parent / "prices.py").write_text("TEA = 4000\n")
    check = broker.cli("run", "--check", "--role", "upgrade", *command, expect=78, subject="upgrade-a")
    assert "would be refused" in check
    assert "sold" not in check
    second = decision_in(check)
    why = broker.cli("explain", second, "--all")
    assert "prices" in why
    assert "main.py" not in why

    broker.cli("manifest", "approve", "--from", second, "--yes")
    approved = broker.cli("run", "--check", "--role", "upgrade", *command, subject="upgrade-a")
    assert "sold" not in approved
    sold = broker.cli("run", "--role", "upgrade", *command, subject="upgrade-a")
    assert json.loads(sold)["price"] == 4000


def test_a_refusal_names_reason_count_and_decision_and_no_code(broker: Broker, wire: Wire) -> None:
    workload = Workload(wire, broker.token("app-refused"))

    with pytest.raises(Refused) as refused:
        workload.attest("app", "evil", "worse", roles=["app"])

    assert refused.value.reason == "appraisal_failed"
    assert refused.value.count == 2
    explained = json.loads(broker.cli("explain", refused.value.decision, "--json"))
    assert explained["decision"]["findings_total"] == 2
    assert {item["reason"] for item in explained["decision"]["findings"]} == {"unit_not_approved"}


def test_a_stranger_may_not_read_a_decision(broker: Broker, wire: Wire) -> None:
    with pytest.raises(Refused) as refused:
        Workload(wire, broker.token("app-owner")).attest("evil", roles=["app"])
    stranger = {"LOCKSTEP_OPERATOR_TOKEN_FILE": ""}

    said = broker.cli("explain", refused.value.decision, expect=1, subject="app-stranger", **stranger)
    assert "not_found" in said
    broker.cli("explain", refused.value.decision, subject="app-owner", **stranger)


class TestRollout:
    """On a broker of its own: the mode changes under running instances."""

    @pytest.fixture
    def own(self, tmp_path: Path) -> Broker:
        roles = Path(shutil.copy(HERE / "roles.toml", tmp_path / "roles.toml"))
        with dev_broker(tmp_path / "dev", roles) as running:
            publish(running, envelope(running, "app", "lib"))
            yield running

    def test_observe_to_enforce_revokes_nobody(self, own: Broker, tmp_path: Path) -> None:
        roles = tmp_path / "roles.toml"
        with Wire(own.address, own.ca) as wire:
            unapproved = Workload(wire, own.token("seen-one"))
            unapproved.attest("app", "unapproved", roles=["seen"])
            lease = unapproved.issue("seen").lease

            roles.write_text(roles.read_text().replace('mode = "observe"', 'mode = "enforce"'))
            assert own.reload()

            # What runs holds its lease, and nothing new is granted to it.
            [known] = json.loads(own.cli("leases", "--attestation", unapproved.attestation_id, "--json"))
            assert (known["lease_id"], known["state"]) == (lease.lease_id, "LEASE_STATE_ACTIVE")
            with pytest.raises(Refused) as refused:
                Workload(wire, own.token("seen-two")).attest("app", "unapproved", roles=["seen"])
            assert refused.value.reason == "appraisal_failed"
            approved = Workload(wire, own.token("seen-three"))
            approved.attest("app", roles=["seen"])
            assert approved.issue("seen").credential.token

            # Back again, as one does when it was too early.
            roles.write_text(roles.read_text().replace('mode = "enforce"', 'mode = "observe"'))
            assert own.reload()
            Workload(wire, own.token("seen-two")).attest("app", "unapproved", roles=["seen"])

    @pytest.mark.parametrize("how", ["taken out", "other manifests"])
    def test_a_credential_of_a_role_that_is_gone_can_still_be_revoked(
        self, own: Broker, tmp_path: Path, how: str
    ) -> None:
        roles = tmp_path / "roles.toml"
        asking = own.token("dev-resource-server")
        with Wire(own.address, own.ca) as wire:
            workload = Workload(wire, own.token("app-gone"))
            workload.attest("app", roles=["app"])
            token = workload.issue("app").credential.token
            before, _, rest = roles.read_text().partition("[roles.app]\n")
            role, _, after = rest.partition("\n[roles.")
            role = role.replace('manifests = ["app"]', 'manifests = ["worker"]')
            kept = f"[roles.app]\n{role}\n" if how == "other manifests" else ""
            roles.write_text(f"{before}{kept}[roles.{after}")
            assert own.reload()
            assert post_form(own, "/v1/introspect", asking, token=token).body["active"] is True

            subject = {"attestation_id": workload.attestation_id}
            answer = report(own, detection(subject=subject, object={"sha256": "ab" * 32}))

            [ended] = answer.body["reports"]
            assert (answer.status, ended["state"]) == (202, "applied")
            assert post_form(own, "/v1/introspect", asking, token=token).body == {"active": False}

    def test_a_configuration_with_faults_changes_nothing(self, own: Broker, tmp_path: Path) -> None:
        roles = tmp_path / "roles.toml"
        roles.write_text(roles.read_text().replace('backend = { use = "jwt"', 'backend = { use = "nothing"'))
        mark = own.mark()

        assert not own.reload()

        problem = own.heard("configuration refused", since=mark)["problem"]
        assert "nothing" in problem
        with Wire(own.address, own.ca) as wire:
            workload = Workload(wire, own.token("app-still"))
            workload.attest("app", roles=["app"])
            assert workload.issue("app").credential.token

    def test_retired_starts_no_more_and_withdrawn_revokes(self, own: Broker) -> None:
        with Wire(own.address, own.ca) as wire:
            running = Workload(wire, own.token("app-running"))
            running.attest("app", roles=["app"])
            lease = running.issue("app").lease
            [manifest] = json.loads(own.cli("manifest", "list", "app", "--json"))
            digest = manifest["digest"]

            own.cli("manifest", "retire", digest, "--reason", "a newer one is out", "--yes")
            with pytest.raises(Refused) as refused:
                Workload(wire, own.token("app-late")).attest("app", roles=["app"])
            assert refused.value.reason == "no_manifest"
            running.reattest()
            assert running.renew(lease.lease_id).lease.lease_id == lease.lease_id

            own.cli("manifest", "withdraw", digest, "--reason", "it has a hole", "--yes")
            with pytest.raises(Refused) as gone:
                running.issue("app")
            assert gone.value.reason in ("revoked", "banned")
            # The tombstone stays: the same content never comes back under its version.
            with pytest.raises(Refused) as tombstone:
                publish(own, envelope(own, "app", "lib"))
            assert tombstone.value.reason == "conflict"


def test_a_receipt_is_signed_with_the_key_of_receipts(broker: Broker, wire: Wire) -> None:
    workload = Workload(wire, broker.token("app-receipt"))
    workload.attest("app", roles=["app"])
    workload.issue("app")

    answer = json.loads(
        broker.cli(
            "revoke", "--attestation", workload.attestation_id, "--reason", "INC-311", "--ticket", "T-1",
            "--json",
        )
    )  # fmt: skip
    sealed = broker.cli("receipts", answer["revocation_id"], "--wait", "15", "--json").encode()

    key = load_private_key(broker.folder / "receipts.key").public_key()
    content, signers = DsseVerifier({"receipts": key}).verify(sealed, RECEIPT_PAYLOAD_TYPE)
    assert signers == {"receipts"}
    receipt = json.loads(content)
    assert (receipt["reason"], receipt["ticket"], receipt["leases"]) == ("INC-311", "T-1", 1)
    forged = json.loads(sealed)
    forged["payload"] = base64.b64encode(content.replace(b"INC-311", b"INC-312")).decode()
    with pytest.raises(Exception, match="no pinned key signed"):
        DsseVerifier({"receipts": key}).verify(json.dumps(forged).encode(), RECEIPT_PAYLOAD_TYPE)
