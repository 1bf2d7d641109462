"""Rotation over the wire: when a credential is replaced, how long the old one is kept, and what may go wrong."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import grpc
import pytest

import lockstep_client
from lockstep.v1 import revocation_pb2
from lockstep_client import Denied, InvalidRequest, Revoked, Unavailable
from lockstep_client.clock import SystemClock
from lockstep_client.evidence import EvidenceSource
from lockstep_client.exchange import Exchange
from lockstep_client.holding import Holding
from lockstep_client.identity import Identity, channel_credentials
from lockstep_client.messages import InstanceKey
from lockstep_client.settings import Settings
from lockstep_client.transport import Transport
from lockstep_client.upkeep import NEVER, Upkeep
from tests.fakes.broker import FakeBroker, Refused, denied, unavailable
from tests.unit.client.core.conftest import becomes

EVERY, OVERLAP = 100.0, 50.0


class Ahead(SystemClock):
    """The system's clock, some seconds on."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0

    def steady(self) -> float:
        return super().steady() + self.seconds


class Rig:
    """One instance whose keeper is the test: it says when time has passed, and when to look."""

    def __init__(self, settings: Settings, evidence: EvidenceSource) -> None:
        self.clock = Ahead()
        self.transport = Transport(settings.addresses, lambda: channel_credentials(settings), self.clock)
        self.exchange = Exchange(
            self.transport,
            InstanceKey.generate(),
            settings.cluster,
            Identity(settings),
            evidence,
            self.clock,
        )
        self.holding = Holding(self.clock)
        self.rotated: list[str] = []
        self.upkeep = Upkeep(self.exchange, self.holding, self.clock, (), lambda: None, self.rotated.append)

    def lease(self, role: str = "db") -> str:
        return self.holding.get(role).lease_id

    def user(self, role: str = "db") -> str:
        return self.holding.get(role).fields["username"].reveal()

    def after(self, seconds: float) -> None:
        """Time passes, then the keeper's turn comes."""
        self.clock.seconds += seconds
        self.upkeep.refresh()

    @property
    def pause(self) -> float:
        """Seconds until the next turn."""
        return self.upkeep.due - self.clock.steady()


@pytest.fixture
def rig(broker: FakeBroker, settings: Settings, evidence: Callable[[], EvidenceSource]) -> Iterator[Rig]:
    broker.policy.rotates = False
    broker.policy.rotation = (EVERY, OVERLAP)
    found = Rig(settings, evidence())
    yield found
    found.transport.close()


def long(broker: FakeBroker) -> None:
    """Nothing ends by itself while the test lets time pass."""
    broker.policy.lease_ttl = broker.policy.attestation_ttl = 10_000.0


def test_it_is_replaced_when_its_time_has_come_and_not_before(broker: FakeBroker, rig: Rig) -> None:
    long(broker)
    rig.upkeep.credential("db")
    first, user = rig.lease(), rig.user()
    assert rig.pause == pytest.approx(EVERY, abs=5)
    rig.after(EVERY - 10)
    assert (rig.lease(), rig.rotated) == (first, [])
    rig.after(10)
    assert rig.rotated == ["db"]
    assert rig.lease() != first
    assert rig.user() != user
    assert broker.given_back == []
    assert set(broker.leases) == {first, rig.lease()}


def test_the_old_one_is_renewed_for_its_overlap_and_then_given_back(broker: FakeBroker, rig: Rig) -> None:
    broker.policy.lease_ttl = broker.policy.attestation_ttl = 30.0
    rig.upkeep.credential("db")
    first = rig.lease()
    for _ in range(5):
        rig.after(20)
    assert rig.rotated == ["db"]
    second = rig.lease()
    broker.renewed.clear()
    rig.after(20)
    rig.after(20)
    # Both live on, though one life is shorter than the overlap.
    assert broker.renewed == [first, second] * 2
    assert rig.pause < 10.5
    rig.after(10)
    assert broker.given_back == [first]
    assert set(broker.leases) == {second}
    rig.after(20)
    assert broker.given_back == [first]
    assert rig.rotated == ["db"]


def test_without_an_overlap_it_goes_at_the_next_turn(broker: FakeBroker, rig: Rig) -> None:
    long(broker)
    broker.policy.rotation = (EVERY, 0.0)
    rig.upkeep.credential("db")
    first = rig.lease()
    rig.after(EVERY)
    assert rig.pause < 1
    rig.after(1)
    assert broker.given_back == [first]


def test_a_role_that_says_nothing_of_it_never_rotates(broker: FakeBroker, rig: Rig) -> None:
    long(broker)
    broker.policy.rotation = None
    rig.upkeep.credential("db")
    first = rig.lease()
    assert rig.pause > EVERY
    rig.after(5_000)
    assert rig.lease() == first


def test_a_renewal_tells_of_a_role_that_has_changed(broker: FakeBroker, rig: Rig) -> None:
    broker.policy.lease_ttl = broker.policy.attestation_ttl = 300.0
    broker.policy.rotation = None
    rig.upkeep.credential("db")
    first = rig.lease()
    rig.after(150)
    assert rig.lease() == first
    broker.policy.rotation = (200.0, 50.0)
    rig.after(10)
    assert rig.lease() == first
    assert rig.pause == pytest.approx(40, abs=5)
    rig.after(40)
    assert rig.lease() != first
    broker.policy.rotation = None
    rig.after(10)
    second = rig.lease()
    rig.after(250)
    assert rig.lease() == second


def test_a_secret_that_every_renewal_makes_anew_needs_no_rotation(broker: FakeBroker, rig: Rig) -> None:
    broker.policy.lease_ttl = broker.policy.attestation_ttl = 60.0
    broker.policy.rotates = True
    rig.upkeep.credential("a-token")
    first = rig.lease("a-token")
    for _ in range(5):
        rig.after(40)
    assert rig.lease("a-token") == first
    assert rig.rotated == ["a-token"] * 5


# --- what goes wrong ------------------------------------------------------------------------------------


def failing(broker: FakeBroker, method: str, error: Refused) -> None:
    def gate(asked: str) -> None:
        if asked == method:
            raise error

    broker.policy.gate = gate


def mended(broker: FakeBroker) -> None:
    broker.policy.gate = lambda method: None


def test_a_broker_that_is_away_when_it_is_time_is_asked_again(broker: FakeBroker, rig: Rig) -> None:
    long(broker)
    rig.upkeep.credential("db")
    first = rig.lease()
    failing(broker, "IssueCredential", unavailable())
    rig.after(EVERY)
    rig.after(5)
    assert rig.lease() == first  # it is good, and stays
    assert rig.rotated == []
    assert 0 < rig.pause <= 5
    mended(broker)
    rig.after(5)
    assert rig.rotated == ["db"]
    assert set(broker.leases) == {first, rig.lease()}
    # The overlap counts from the moment in which there is another.
    rig.after(OVERLAP - 5)
    assert broker.given_back == []
    rig.after(5)
    assert broker.given_back == [first]


def test_a_lost_answer_is_asked_for_under_the_same_name(broker: FakeBroker, rig: Rig) -> None:
    long(broker)
    rig.upkeep.credential("db")
    issue = broker.issue

    def lost(request: object) -> object:
        issue(request)  # type: ignore[arg-type]
        raise unavailable()

    broker.stop()
    broker.issue = lost  # type: ignore[method-assign,assignment]
    broker.start()
    rig.after(EVERY)
    broker.stop()
    broker.issue = issue  # type: ignore[method-assign]
    broker.start()
    rig.after(5)
    asked = broker.requests["db"]
    assert len(asked) == 3
    assert asked[0] != asked[1] == asked[2]


@pytest.mark.parametrize("method", ["RevokeLease", "RenewLease"])
def test_a_broker_that_is_away_at_the_end_of_the_overlap_is_asked_again(
    broker: FakeBroker, rig: Rig, method: str
) -> None:
    long(broker)
    rig.upkeep.credential("db")
    first = rig.lease()
    rig.after(EVERY)
    failing(broker, method, unavailable())
    rig.after(OVERLAP)
    rig.after(5)
    # Not in a circle without a pause, however often it fails.
    assert rig.pause > 0.05
    assert rig.user()
    mended(broker)
    rig.after(5)
    assert broker.given_back == [first]


def test_one_backend_that_is_away_keeps_no_other_role_from_its_renewal(broker: FakeBroker, rig: Rig) -> None:
    broker.policy.lease_ttl = broker.policy.attestation_ttl = 150.0
    rig.upkeep.credential("db")
    rig.upkeep.credential("other")
    failing(broker, "IssueCredential", unavailable("backend_unavailable"))
    broker.renewed.clear()
    rig.after(EVERY)
    assert broker.renewed == [rig.lease("db"), rig.lease("other")]
    assert 0 < rig.pause <= 5


def test_refused_it_is_not_asked_for_twice_and_the_old_one_ends_by_itself(
    broker: FakeBroker, rig: Rig
) -> None:
    broker.policy.lease_ttl = broker.policy.attestation_ttl = 150.0
    rig.upkeep.credential("db")
    rig.upkeep.credential("other")
    first = rig.lease()
    asked = broker.calls.count("IssueCredential")

    def gate(method: str) -> None:
        # The other role is asked for after it.
        if method == "IssueCredential" and broker.calls.count(method) == asked + 1:
            raise denied("not_entitled", "D-6")

    broker.policy.gate = gate
    rig.after(EVERY)
    assert len(broker.requests["db"]) == 1
    assert broker.calls.count("IssueCredential") == asked + 2
    assert rig.lease() == first
    assert rig.rotated == ["other"]
    rig.after(100)
    assert rig.lease() == first
    assert rig.lease("other")
    rig.clock.seconds += 60
    with pytest.raises(Denied) as refused:
        rig.holding.get("db")
    assert refused.value.decision == "D-6"


def test_a_wrong_answer_to_one_role_keeps_no_other_from_its_renewal(broker: FakeBroker, rig: Rig) -> None:
    broker.policy.lease_ttl = broker.policy.attestation_ttl = 150.0
    rig.upkeep.credential("db")
    rig.upkeep.credential("other")
    failing(broker, "IssueCredential", Refused(grpc.StatusCode.INVALID_ARGUMENT, "invalid_request"))
    broker.renewed.clear()
    rig.after(EVERY)
    assert len(broker.renewed) == 2
    with pytest.raises(InvalidRequest):
        rig.upkeep.credential("third")


def test_an_attestation_that_ends_meanwhile_is_made_anew(broker: FakeBroker, rig: Rig) -> None:
    long(broker)
    rig.upkeep.credential("db")
    first = rig.lease()
    gone = [True]

    def gate(method: str) -> None:
        if method == "IssueCredential" and gone:
            gone.clear()
            raise denied("attestation_expired")

    broker.policy.gate = gate
    rig.after(EVERY)
    assert rig.rotated == ["db"]
    assert rig.lease() != first
    assert rig.holding.attestation is not None
    assert broker.leases[rig.lease()].attestation_id == rig.holding.attestation.id == "A-2"


def test_a_new_attestation_during_the_overlap(broker: FakeBroker, rig: Rig) -> None:
    long(broker)
    rig.upkeep.credential("db")
    first = rig.lease()
    rig.after(EVERY)
    second = rig.lease()
    broker.forget()
    rig.after(10)
    # Leases of the earlier one are neither renewed nor given back by the new one: they end by themselves.
    third = rig.lease()
    assert third not in (first, second)
    assert broker.leases[third].attestation_id == "A-2"
    assert rig.pause > 10
    rig.after(OVERLAP)
    assert broker.given_back == []
    assert rig.lease() == third
    assert rig.pause > 10
    rig.upkeep.give_back(5)
    assert broker.given_back == [third]


def test_leaving_gives_back_what_was_replaced_as_well(broker: FakeBroker, rig: Rig) -> None:
    long(broker)
    rig.upkeep.credential("db")
    first = rig.lease()
    rig.after(EVERY)
    second = rig.lease()
    rig.upkeep.credential("other")
    other = rig.lease("other")
    assert rig.upkeep.owes()
    del broker.leases[second]  # one that has ended already keeps the others from nothing
    rig.upkeep.give_back(5)
    assert sorted(broker.given_back) == sorted([first, other])


def test_what_was_replaced_is_owed_even_where_silence_dropped_the_rest(broker: FakeBroker, rig: Rig) -> None:
    long(broker)
    rig.upkeep.credential("db")
    rig.after(EVERY)
    rig.holding.lose_all(Unavailable("silence"))
    assert rig.upkeep.owes()


def test_a_revocation_during_the_overlap_is_the_end(broker: FakeBroker, rig: Rig) -> None:
    long(broker)
    rig.upkeep.credential("db")
    rig.after(EVERY)
    failing(broker, "Reattest", denied("revoked"))
    with pytest.raises(Revoked):
        rig.after(10)
    assert rig.upkeep.due == NEVER
    assert broker.given_back == []


# --- through the whole SDK ------------------------------------------------------------------------------


def test_a_program_sees_the_new_one_and_leaves_nothing(
    broker: FakeBroker, settings: Settings, evidence: Callable[[], EvidenceSource]
) -> None:
    broker.policy.rotates = False
    broker.policy.rotation = (0.5, 60.0)
    rotated = threading.Event()
    with lockstep_client.connect(settings=settings, evidence=evidence) as ls:
        db = ls.credential("db")
        assert (db.rotate_every, db.overlap) == (0.5, 60.0)
        user, password = db.login()
        db.on_rotated(rotated.set)
        assert rotated.wait(10)
        after, new = db.login()
        assert after != user
        assert new.reveal() != password.reveal()
        assert "L-1" in broker.leases
    assert broker.leases == {}


def test_a_revocation_during_the_overlap_ends_what_is_held(
    broker: FakeBroker, settings: Settings, evidence: Callable[[], EvidenceSource]
) -> None:
    broker.policy.rotates = False
    broker.policy.rotation = (0.5, 60.0)
    rotated = threading.Event()
    with lockstep_client.connect(settings=settings, evidence=evidence) as ls:
        db = ls.credential("db")
        db.on_rotated(rotated.set)
        assert rotated.wait(10)
        broker.wait_until(lambda: broker.watched != [])
        broker.revoke(revocation_pb2.Selector(attestation_id="A-1"))
        becomes(lambda: not ls.ready)
        with pytest.raises(Revoked):
            db.login()
        issued = broker.calls.count("IssueCredential")
    assert broker.calls.count("IssueCredential") == issued
    assert "RevokeLease" not in broker.calls
