"""A broker for users' own tests: what goes wrong on demand is what goes wrong in earnest."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import lockstep_client
from lockstep_client import Denied, Revoked, Unavailable
from lockstep_client.testing import DevBroker, broker
from lockstep_client.testing import until as until_true
from tests.support.actors import until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

BRIEF = """
[roles.brief]
mode = "observe"
identity = { from = "dev", subject = "dev-app" }
manifests = ["dev"]
backend = { use = "jwt", audience = "dev" }
ttl = "5m"
revocability = "instant"
after_revocation = "retry"
silence = { grace = "1s", then = "drop" }
"""


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevBroker]:
    roles = tmp_path_factory.mktemp("roles") / "brief.toml"
    roles.write_text(BRIEF)
    with broker(options=("--with", str(roles))) as running:
        yield running


def connected(dev: DevBroker, **options: object) -> lockstep_client.Lockstep:
    return lockstep_client.connect(settings=dev.settings, guard="off", **options)  # type: ignore[arg-type]


def is_unavailable(credential: lockstep_client.LiveCredential) -> bool:
    try:
        credential.token.reveal()
    except Unavailable:
        return True
    return False


def test_one_lease_or_all_of_an_identity_is_revoked(dev: DevBroker) -> None:
    lost = threading.Event()
    with connected(dev) as lockstep:
        one, other = lockstep.credential("dev"), lockstep.credential("brief")
        one.on_lost(lambda revocation: lost.set())
        dev.revoke(lease_id=one.lease_id)
        assert lost.wait(10)
        assert other.token.reveal()
        dev.revoke(identity=dev.identity)
        until(lambda: not lockstep.ready, "everything is revoked")
        with pytest.raises(Revoked):
            other.token.reveal()
    with connected(dev) as lockstep:
        assert lockstep.credential("dev").token.reveal()


def test_exactly_one_thing_is_revoked(dev: DevBroker) -> None:
    with pytest.raises(ValueError, match="attestation_id, lease_id, identity"):
        dev.revoke()
    with pytest.raises(ValueError, match="name one of"):
        dev.revoke("A-1", lease_id="L-1")


def test_a_refusal_lasts_as_long_as_its_block(dev: DevBroker) -> None:
    with dev.refuse(reason="an exercise"):
        with pytest.raises(Denied) as denied:
            connected(dev)
        assert denied.value.reason == "banned"
    with connected(dev) as lockstep:
        assert lockstep.ready


def test_whoever_is_connected_when_it_is_refused_is_revoked(dev: DevBroker) -> None:
    told = threading.Event()
    with connected(dev, on_revoked=lambda revocation: told.set()) as lockstep:
        lockstep.credential("dev")
        trouble = dev.refuse()
        assert told.wait(10)
        trouble.end()
        trouble.end()


def test_silence_drops_secrets_and_they_come_back(dev: DevBroker) -> None:
    with connected(dev, roles=("brief",)) as lockstep:
        credential = lockstep.credential("brief")
        with dev.fall_silent():
            until(lambda: is_unavailable(credential), "the grace is over")
            assert not lockstep.ready
        until(lambda: not is_unavailable(credential), "the broker is heard again")


@pytest.mark.parametrize("crash", [False, True])
def test_a_broker_that_is_away_comes_back_with_its_state(dev: DevBroker, crash: bool) -> None:
    address = dev.address
    with connected(dev) as lockstep:
        credential = lockstep.credential("dev")
        with dev.go_away(crash=crash):
            with pytest.raises(Unavailable):
                connected(dev)
            assert credential.token.reveal()  # within its grace
        assert dev.address == address
        dev.revoke(lockstep.attestation.id if lockstep.attestation else "")
        until(lambda: not lockstep.ready, "it is still known")


def test_a_silent_broker_ends_in_order() -> None:
    with broker() as running:
        running.fall_silent()
        pid = running.pid
        running.stop()
        assert not Path(f"/proc/{pid}").exists()
        with pytest.raises(Unavailable, match="no broker"):
            running.fall_silent()


def test_waiting_ends_with_the_answer_or_says_what_it_was() -> None:
    answers = iter([0, 0, 7])
    assert until_true(lambda: next(answers)) == 7
    with pytest.raises(AssertionError, match=r"not within 0\.05 s; the last answer was False"):
        until_true(lambda: False, within=0.05)
