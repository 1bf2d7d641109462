"""Operators with rights: teams that see and touch what is theirs, and revocations that take two, on a real broker."""

from __future__ import annotations

import concurrent.futures
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.brokers import Broker, prepared, serving
from tests.support.doors import detection, post_form, report
from tests.support.manifests import unit
from tests.support.wire import Refused, Wire, Workload, envelope, publish

TEAMS = """
[manifests.app]
signers = ["dev"]

[roles.pay]
owner = "team-pay"
mode = "enforce"
identity = { from = "dev", subject = "pay-*" }
manifests = ["app"]
backend = { use = "jwt", audience = "dev" }
ttl = "5m"
revocability = "instant"
after_revocation = "retry"

[roles.shop]
owner = "team-shop"
mode = "enforce"
identity = { from = "dev", subject = "shop-*" }
manifests = ["app"]
backend = { use = "jwt", audience = "dev" }
ttl = "5m"
revocability = "instant"
after_revocation = "retry"

[operators.pay]
identity = { from = "dev", subject = "op-pay" }
may = ["read", "explain", "approve", "lift", "introspect", "revoke:*"]
scope = { owners = ["team-pay"] }

[operators.pair]
identity = { from = "dev", subject = "pair-*" }
may = ["read", "explain", "revoke:digest", "revoke:attestation"]
quorum = { "revoke:digest" = 2 }
"""


@pytest.fixture(scope="module")
def teams(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """Two teams on one broker."""
    folder = tmp_path_factory.mktemp("teams") / "dev"
    text = prepared(folder).replace("include = []", 'include = ["roles.d/*.toml"]')
    text = text.replace("cap = { instances = 1000, share = 1.0", "cap = { instances = 1, share = 1.0")
    (folder / "roles.d").mkdir()
    (folder / "roles.d" / "teams.toml").write_text(TEAMS)
    with serving(folder, text) as running:
        publish(running, envelope(running, *(f"code-{number}" for number in range(9)), "app"))
        yield running


@pytest.fixture
def wire(teams: Broker) -> Iterator[Wire]:
    with Wire(teams.address, teams.ca) as connection:
        yield connection


def running(wire: Wire, broker: Broker, subject: str, *code: str) -> Workload:
    workload = Workload(wire, broker.token(subject))
    workload.attest(*(code or ("app",)), roles=[subject.partition("-")[0]])
    return workload


def told(broker: Broker, who: str, *arguments: str, expect: int = 0) -> str:
    """``lockstep …`` as somebody."""
    token = str(broker.token_file(who))
    return broker.cli(*arguments, expect=expect, LOCKSTEP_OPERATOR_TOKEN_FILE=token)


def listed(broker: Broker, who: str, *arguments: str) -> list[dict[str, Any]]:
    return list(json.loads(told(broker, who, *arguments, "--json")))


def state(broker: Broker, workload: Workload) -> str:
    [found] = [
        item["state"]
        for item in json.loads(broker.cli("attestations", "--json"))
        if item["attestation_id"] == workload.attestation_id
    ]
    return str(found).removeprefix("ATTESTATION_STATE_").lower()


class TestScope:
    def test_a_team_sees_what_is_its_own(self, teams: Broker, wire: Wire) -> None:
        mine, theirs = running(wire, teams, "pay-seen"), running(wire, teams, "shop-seen")
        token = theirs.issue("shop").credential.token
        lease = mine.issue("pay").lease.lease_id
        seen = {item["attestation_id"] for item in listed(teams, "op-pay", "attestations")}
        assert mine.attestation_id in seen
        assert theirs.attestation_id not in seen
        assert {item["role"] for item in listed(teams, "op-pay", "leases")} == {"pay"}
        assert told(teams, "op-pay", "leases", "--attestation", theirs.attestation_id) == ""
        assert mine.attestation_id in told(teams, "op-pay", "explain", mine.attestation_id)
        assert "pay" in told(teams, "op-pay", "explain", lease)
        assert "outside the scope" in told(teams, "op-pay", "explain", theirs.attestation_id, expect=78)
        assert set(json.loads(told(teams, "op-pay", "report", "--json"))) <= {"pay", ""}
        asking = teams.token("op-pay")
        assert post_form(teams, "/v1/introspect", asking, token=token).body == {"active": False}

    def test_a_team_revokes_and_lifts_what_is_its_own(self, teams: Broker, wire: Wire) -> None:
        mine, theirs = running(wire, teams, "pay-ended"), running(wire, teams, "shop-safe")
        why = ("--reason", "INC-1")
        no = told(teams, "op-pay", "revoke", "--attestation", theirs.attestation_id, *why, expect=78)
        assert "outside the scope of your right" in no
        digest = unit("app").digest.hex()
        for cut in ("--ban", "--cut"):
            assert "outside the scope" in told(
                teams, "op-pay", "revoke", "--digest", digest, cut, *why, expect=78
            )
        assert state(teams, theirs) == "alive"
        made = json.loads(
            told(teams, "op-pay", "revoke", "--attestation", mine.attestation_id, *why, "--json")
        )
        assert state(teams, mine) == "revoked"
        assert made["revocation_id"] in told(teams, "op-pay", "revocations")
        told(teams, "op-pay", "receipts", made["revocation_id"], "--wait", "20")
        told(teams, "op-pay", "revocations", "lift", made["revocation_id"], "--reason", "over")
        other = json.loads(teams.cli("revoke", "--attestation", theirs.attestation_id, *why, "--json"))
        assert other["revocation_id"] not in told(teams, "op-pay", "revocations")
        for command in (
            ("receipts", other["revocation_id"]),
            ("revocations", "lift", other["revocation_id"], *why),
        ):
            assert "outside the scope" in told(teams, "op-pay", *command, expect=78)

    def test_a_team_cuts_what_only_it_has_loaded(self, teams: Broker, wire: Wire) -> None:
        mine = running(wire, teams, "pay-code", "app", "code-1")
        digest = unit("code-1").digest.hex()
        why = ("--digest", digest, "--cut", "--reason", "INC-2")
        look = told(teams, "op-pay", "revoke", *why, "--dry-run")
        assert look.splitlines()[0] == "would hit 1 instances, 0 leases"
        assert mine.attestation_id in look
        theirs = running(wire, teams, "shop-code", "app", "code-1")
        assert "outside the scope" in told(teams, "op-pay", "revoke", *why, expect=78)
        teams.cli("revoke", "--attestation", theirs.attestation_id, "--reason", "out of the way")
        made = json.loads(told(teams, "op-pay", "revoke", *why, "--json"))
        told(teams, "op-pay", "receipts", made["revocation_id"], "--wait", "20")
        assert state(teams, mine) == "revoked"

    def test_a_team_decides_about_its_reports(self, teams: Broker, wire: Wire) -> None:
        waits: dict[str, str] = {}
        for team in ("pay", "shop", "pay", "shop"):
            workload = running(wire, teams, f"{team}-reported")
            event = detection(
                subject={"attestation_id": workload.attestation_id}, object={"sha256": unit("x").digest.hex()}
            )
            answer = report(teams, event).body["reports"][0]
            if answer["state"] == "held":
                waits[team] = answer["detection"]
        held = {item["detection_id"] for item in listed(teams, "op-pay", "detections", "--state", "held")}
        assert waits["pay"] in held
        assert waits["shop"] not in held
        assert "outside the scope" in told(teams, "op-pay", "detections", "approve", waits["shop"], expect=78)
        told(teams, "op-pay", "detections", "approve", waits["pay"])


class TestQuorum:
    def test_one_proposes_another_confirms(self, teams: Broker, wire: Wire) -> None:
        workload = running(wire, teams, "pay-two", "app", "code-2")
        workload.issue("pay")
        digest = unit("code-2").digest.hex()
        said = told(teams, "pair-ann", "revoke", "--digest", digest, "--reason", "INC-3", "--ticket", "T-3")
        proposal = said.split()[0]
        assert f"{proposal} is proposed, nothing is revoked: 1 instances, 1 leases; 1 of 2 operators" in said
        assert workload.attestation_id in said
        assert said.splitlines()[-1] == f"next, another operator: lockstep revoke --confirm {proposal}"
        assert state(teams, workload) == "alive"
        [line] = [
            item
            for item in told(teams, "pair-bob", "revocations", "proposals").splitlines()
            if proposal in item
        ]
        assert "open" in line
        assert "1 of 2" in line
        assert "INC-3" in told(teams, "pair-bob", "explain", proposal)
        look = told(teams, "pair-bob", "revoke", "--confirm", proposal, "--dry-run")
        assert "would hit 1 instances, 1 leases, and was shown with 1 instances, 1 leases" in look
        assert workload.attestation_id in look
        own = told(teams, "pair-ann", "revoke", "--confirm", proposal, expect=78)
        assert "another operator has to confirm" in own
        assert "not settled" not in told(teams, "pair-ann", "receipts", proposal, expect=1)

        done = told(teams, "pair-bob", "revoke", "--confirm", proposal)
        assert done.startswith(f"{proposal}: 1 instances, 1 leases; decision D-")
        with pytest.raises(Refused) as refused:
            workload.issue("pay")
        assert refused.value.reason == "revoked"
        receipt = teams.receipt(proposal)
        assert (receipt["revocation"], receipt["ticket"]) == (proposal, "T-3")
        assert "pair-ann" in receipt["actor"]
        assert "pair-bob" in receipt["actor"]
        [found] = [
            item
            for item in listed(teams, "pair-ann", "revocations", "proposals")
            if item["proposal_id"] == proposal
        ]
        assert found["state"] == "PROPOSAL_STATE_CONFIRMED"
        audit = (teams.folder / "state" / "audit.jsonl").read_text()
        assert found["decision_id"] in audit
        assert f"it was {found['decision_id']}" in audit
        # Saying it again is no second act; the one who proposed it hears what became of it.
        assert told(teams, "pair-bob", "revoke", "--confirm", proposal).startswith(proposal)
        assert "confirmed by" in told(teams, "pair-ann", "revoke", "--confirm", proposal, expect=1)

    def test_what_has_grown_is_shown_and_confirmed_by_name(self, teams: Broker, wire: Wire) -> None:
        first = running(wire, teams, "pay-grown", "app", "code-3")
        digest = unit("code-3").digest.hex()
        proposal = told(teams, "pair-ann", "revoke", "--digest", digest, "--reason", "INC-4").split()[0]
        second = running(wire, teams, "shop-grown", "app", "code-3")
        said = told(teams, "pair-bob", "revoke", "--confirm", proposal, expect=1)
        assert "was shown with 1 instances, 0 leases, and would hit 2 instances, 0 leases" in said
        assert second.attestation_id in said
        assert {state(teams, first), state(teams, second)} == {"alive"}
        assert "is not confirmed" in told(teams, "pair-bob", "revoke", "--confirm", proposal, expect=1)
        command = said.splitlines()[-1].removeprefix("next: lockstep ").split()
        assert command[:3] == ["revoke", "--confirm", proposal]
        done = json.loads(told(teams, "pair-bob", *command, "--json"))
        assert done["outcome"] == "CONFIRM_OUTCOME_REVOKED"
        teams.cli("receipts", proposal, "--wait", "20")
        assert {state(teams, first), state(teams, second)} == {"revoked"}

    def test_a_proposal_survives_a_restart_and_can_be_withdrawn(self, teams: Broker) -> None:
        digest = unit("code-4").digest.hex()
        proposal = told(teams, "pair-ann", "revoke", "--digest", digest, "--reason", "INC-5").split()[0]
        teams.kill()
        teams.start()
        assert proposal in told(teams, "pair-bob", "revocations", "proposals", "--state", "open")
        said = told(teams, "pair-bob", "revocations", "withdraw", proposal, "--reason", "wrong digest")
        assert "wrong digest" in said
        assert "withdrawn by" in told(teams, "pair-bob", "revoke", "--confirm", proposal, expect=1)
        assert proposal not in told(teams, "pair-bob", "revocations", "proposals", "--state", "open")
        with Wire(teams.address, teams.ca) as wire:
            running(wire, teams, "pay-after", "app", "code-4")

    def test_two_at_once_are_one_revocation(self, teams: Broker, wire: Wire) -> None:
        running(wire, teams, "pay-race", "app", "code-5")
        digest = unit("code-5").digest.hex()
        proposal = told(teams, "pair-ann", "revoke", "--digest", digest, "--reason", "INC-6").split()[0]
        people = ("pair-bob", "pair-eve")
        tokens = {who: str(teams.token_file(who)) for who in people}

        def confirm(who: str) -> bool:
            try:
                teams.cli("revoke", "--confirm", proposal, LOCKSTEP_OPERATOR_TOKEN_FILE=tokens[who])
            except AssertionError as error:
                return "exit 1:" not in str(error)
            return True

        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            assert sorted(pool.map(confirm, people)) == [False, True]
        rows = [
            item
            for item in json.loads(teams.cli("revocations", "--json"))
            if item["revocation_id"] == proposal
        ]
        assert len(rows) == 1

    def test_who_may_not_is_told_so(self, teams: Broker, wire: Wire) -> None:
        workload = running(wire, teams, "pay-alone", "app", "code-6")
        digest = unit("code-6").digest.hex()
        proposal = told(teams, "pair-ann", "revoke", "--digest", digest, "--reason", "INC-7").split()[0]
        for who in ("op-pay", "pay-nobody"):
            told(teams, who, "revoke", "--confirm", proposal, expect=78)
            told(teams, who, "revocations", "withdraw", proposal, "--reason", "no", expect=78)
        assert "may not make this call" in told(teams, "pay-nobody", "revocations", "proposals", expect=78)
        assert state(teams, workload) == "alive"
        # What takes one is done by one.
        told(teams, "pair-ann", "revoke", "--attestation", workload.attestation_id, "--reason", "alone")
        assert state(teams, workload) == "revoked"

    def test_the_command_line_says_what_does_not_go_together(self, teams: Broker) -> None:
        for wrong in (
            ("--confirm", "V-1", "--reason", "x"),
            ("--confirm", "V-1", "--node", "n"),
            ("--node", "n", "--reason", "x", "--preview", "ab"),
            ("--node", "n"),
        ):
            told(teams, "pair-ann", "revoke", *wrong, expect=2)
