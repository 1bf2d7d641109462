"""Renewal in bad weather: what keeps one role from being renewed keeps no other, and a passing refusal passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from lockstep_client import Denied, Revoked, Unavailable
from lockstep_client.evidence import EvidenceSource
from lockstep_client.settings import Settings
from tests.fakes.broker import FakeBroker, Refused, denied, unavailable
from tests.unit.client.core.test_rotation import Rig

LIFE = 150.0
TURN = 100.0


@pytest.fixture
def rig(broker: FakeBroker, settings: Settings, evidence: Callable[[], EvidenceSource]) -> Iterator[Rig]:
    broker.policy.lease_ttl = broker.policy.attestation_ttl = LIFE
    broker.policy.rotates = False
    found = Rig(settings, evidence())
    yield found
    found.transport.close()


def first_of(broker: FakeBroker, method: str, error: Refused) -> None:
    """The first call of a method in each round of renewal fails."""
    state = {"failed": False}

    def gate(name: str) -> None:
        if name == "Reattest":
            state["failed"] = False
        elif name == method and not state["failed"]:
            state["failed"] = True
            raise error

    broker.policy.gate = gate


@pytest.mark.parametrize("reason", ["backend_unavailable", "internal", "state_unavailable", ""])
def test_what_one_role_lacks_keeps_no_other_from_its_renewal(
    broker: FakeBroker, rig: Rig, reason: str
) -> None:
    for role in ("one", "two", "three"):
        rig.upkeep.credential(role)
    first_of(broker, "RenewLease", unavailable(reason))
    broker.renewed.clear()
    rig.after(TURN)
    assert broker.renewed == [rig.lease("two"), rig.lease("three")]
    assert rig.pause <= 5
    # The next time, whoever was left out comes last: it may be slow as well.
    broker.policy.gate = lambda method: None
    broker.renewed.clear()
    rig.after(5)
    assert broker.renewed == [rig.lease(role) for role in ("two", "three", "one")]
    assert rig.pause > 60


def test_nobody_there_is_not_asked_for_every_role(broker: FakeBroker, rig: Rig) -> None:
    for role in ("one", "two", "three"):
        rig.upkeep.credential(role)
    asked = len(broker.calls)

    def gate(method: str) -> None:
        if method == "RenewLease":
            broker.stop()

    broker.policy.gate = gate
    rig.after(TURN)
    assert broker.calls[asked:].count("RenewLease") == 1
    assert rig.pause <= 5


PASSING = ("identity_rejected", "challenge_rejected", "proof_rejected")


@pytest.mark.parametrize("reason", PASSING)
def test_a_refusal_that_passes_ends_nothing(broker: FakeBroker, rig: Rig, reason: str) -> None:
    rig.upkeep.credential("db")
    lease = rig.lease()

    def gate(method: str) -> None:
        if method == "Reattest":
            raise denied(reason, "")

    broker.policy.gate = gate
    rig.after(TURN)
    for _ in range(3):
        assert rig.pause <= 30
        rig.after(rig.pause)
    assert rig.lease() == lease
    assert rig.holding.doomed == frozenset()
    broker.policy.gate = lambda method: None
    rig.after(rig.pause)
    rig.clock.seconds += 60  # beyond its first life
    assert rig.lease() == lease


def test_the_same_for_one_role_alone(broker: FakeBroker, rig: Rig) -> None:
    rig.upkeep.credential("db")

    def gate(method: str) -> None:
        if method in ("RenewLease", "IssueCredential"):
            raise denied("proof_rejected", "")

    broker.policy.gate = gate
    rig.after(TURN)
    assert rig.pause <= 30
    broker.policy.gate = lambda method: None
    rig.after(rig.pause)
    rig.clock.seconds += 60
    assert rig.lease()


def test_it_is_asked_less_often_the_longer_it_lasts(broker: FakeBroker, rig: Rig) -> None:
    rig.upkeep.credential("db")

    def gate(method: str) -> None:
        if method == "Reattest":
            raise denied("identity_rejected", "")

    broker.policy.gate = gate
    rig.upkeep.refresh()
    first = rig.pause
    for _ in range(8):
        rig.upkeep.refresh()
    assert first <= 1
    assert rig.pause > 10


def test_a_decision_is_final(broker: FakeBroker, rig: Rig) -> None:
    rig.upkeep.credential("db")

    def gate(method: str) -> None:
        if method == "Reattest":
            raise denied("appraisal_failed", "D-5", 1)

    broker.policy.gate = gate
    rig.after(TURN)
    assert rig.pause == float("inf")
    rig.clock.seconds += 60
    with pytest.raises(Denied):
        rig.lease()


@pytest.mark.parametrize(
    "error", [denied("not_entitled"), unavailable("backend_unavailable"), unavailable("")]
)
def test_leaving_gives_every_lease_back_that_can_be(broker: FakeBroker, rig: Rig, error: Refused) -> None:
    leases = []
    for role in ("one", "two", "three"):
        rig.upkeep.credential(role)
        leases.append(rig.lease(role))
    asked = []

    def gate(method: str) -> None:
        asked.append(method)
        if len(asked) == 1:
            raise error

    broker.policy.gate = gate
    rig.upkeep.give_back(5)
    assert broker.given_back == leases[1:]


def test_leaving_takes_no_longer_than_it_may(broker: FakeBroker, rig: Rig) -> None:
    for role in ("one", "two", "three"):
        rig.upkeep.credential(role)
    broker.stop()
    before = rig.clock.steady()
    rig.upkeep.give_back(1)
    assert rig.clock.steady() - before < 2
    assert isinstance(rig.holding.get("one").lease_id, str)


def test_a_lease_that_was_taken_back_stays_so(broker: FakeBroker, rig: Rig) -> None:
    for role in ("one", "two"):
        rig.upkeep.credential(role)
    refusal = Denied("the lease was revoked", decision="D-9")
    rig.holding.lose("one", refusal)
    rig.holding.lose_all(Unavailable("silence"))
    with pytest.raises(Denied) as caught:
        rig.holding.get("one")
    assert caught.value.decision == "D-9"
    with pytest.raises(Unavailable):
        rig.holding.get("two")
    rig.upkeep.refresh()
    assert rig.lease("two")
    assert len(broker.requests["one"]) == 1
    with pytest.raises(Denied):
        rig.holding.get("one")


def test_a_look_before_its_turn_attests_and_makes_no_new_secret(broker: FakeBroker, rig: Rig) -> None:
    """A launcher looks again a second after the start: a program that is restarted at every new secret must live."""
    rig.upkeep.credential("db")
    broker.renewed.clear()
    asked = len(broker.calls)
    rig.upkeep.look(1.0)
    rig.after(1)
    assert broker.calls[asked:].count("Reattest") == 1
    assert broker.renewed == []
    assert broker.calls[asked:].count("IssueCredential") == 0
    rig.after(TURN)
    assert broker.renewed == [rig.lease("db")]


def test_what_silence_dropped_is_held_again_by_a_look(broker: FakeBroker, rig: Rig) -> None:
    rig.upkeep.credential("db")
    rig.holding.lose_all(Unavailable("silence"))
    asked = len(broker.calls)
    rig.upkeep.look(0.0)
    rig.after(0)
    assert broker.calls[asked:].count("IssueCredential") == 1
    assert rig.holding.get("db").token or rig.holding.get("db").fields


def test_a_renewal_that_comes_late_brings_nothing_back(broker: FakeBroker, rig: Rig) -> None:
    rig.upkeep.credential("db")
    held = rig.holding.get("db")
    rig.holding.lose("db", Revoked("the lease was revoked"))
    assert not rig.holding.put(held)
    with pytest.raises(Revoked):
        rig.holding.get("db")
