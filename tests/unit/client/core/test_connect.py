"""The sync face against a real server: attest, hold, renew, give back, and every kind of no."""

from __future__ import annotations

import copy
import pickle
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import lockstep_client
from lockstep.v1 import revocation_pb2
from lockstep_client import Denied, Revocation, Revoked, Unavailable
from lockstep_client.evidence import EvidenceSource
from lockstep_client.settings import Settings
from tests.fakes.broker import FakeBroker, Refused, denied, unavailable
from tests.fakes.tls import ServerFiles
from tests.unit.client.core.conftest import Loaded, becomes, refusal

Evidence = Callable[[], EvidenceSource]


def test_attest_hold_and_give_back(broker: FakeBroker, settings: Settings, evidence: Evidence) -> None:
    with lockstep_client.connect(settings=settings, evidence=evidence, roles=["db"]) as ls:
        assert ls.ready
        assert ls.attestation is not None
        assert ls.attestation.roles["db"].mode == "enforce"
        db = ls.credential("db")
        assert db is ls.credential("db")
        assert db.username.startswith("u-")
        assert db.password.reveal().startswith("canary-")
        assert db.lease_id in broker.leases
        assert db.parameters == {"audience": "api"}
    assert broker.leases == {}
    assert broker.identities == ["header.claims.signature"]
    with pytest.raises(Unavailable):
        _ = db.password


def test_one_role_is_a_list_of_one(broker: FakeBroker, settings: Settings, evidence: Evidence) -> None:
    with pytest.raises(TypeError, match=r"roles=\['db'\]"):
        lockstep_client.connect(settings=settings, evidence=evidence, roles="db")
    assert broker.calls == []


def test_a_secret_shows_itself_only_when_asked(settings: Settings, evidence: Evidence) -> None:
    with lockstep_client.connect(settings=settings, evidence=evidence) as ls:
        db = ls.credential("db")
        for shown in (repr(db), str(db), repr(db.fields), f"{db.password}", repr(ls), str(vars)):
            assert "canary" not in shown
        for thing in (db, db.password, ls):
            with pytest.raises(TypeError):
                pickle.dumps(thing)
            with pytest.raises(TypeError):
                copy.copy(thing)


def test_a_rolling_nonce_is_learnt_from_refusals(
    broker: FakeBroker, settings: Settings, evidence: Evidence
) -> None:
    broker.policy.nonce_every_call = True
    with lockstep_client.connect(settings=settings, evidence=evidence) as ls:
        broker.new_nonce()
        assert ls.credential("db").username


def test_a_ban_without_a_cut_takes_nothing_that_is_held(
    broker: FakeBroker, settings: Settings, evidence: Evidence
) -> None:
    told = threading.Event()
    with lockstep_client.connect(settings=settings, evidence=evidence, on_revoked=lambda _: told.set()) as ls:
        db = ls.credential("db")
        broker.revoke(revocation_pb2.Selector(identity="iss|me"), cut=False, ban=True)
        broker.wait_until(lambda: 1 in broker.acknowledged)
        assert db.password.reveal()
        assert not told.is_set()


def test_a_challenge_is_asked_for_once_everything_is_measured(
    broker: FakeBroker, settings: Settings, loaded: Loaded
) -> None:
    """It lives for seconds, and children that do not answer take as long to measure."""
    asked: list[int] = []
    loaded.measuring = lambda: asked.append(broker.calls.count("GetChallenge"))
    broker.policy.attestation_ttl = 2.0
    with lockstep_client.connect(settings=settings, evidence=loaded.source):
        broker.wait_until(lambda: "Reattest" in broker.calls)
    assert asked[:2] == [0, 1]


def test_renewal_adds_what_was_loaded_and_rotates(
    broker: FakeBroker, settings: Settings, evidence: Evidence, loaded: Loaded
) -> None:
    broker.policy.lease_ttl = broker.policy.attestation_ttl = 1.0
    rotated = threading.Event()
    with lockstep_client.connect(settings=settings, evidence=evidence) as ls:
        db = ls.credential("db")
        db.on_rotated(rotated.set)
        before = db.password.reveal()
        loaded.digests.add(bytes([2]) * 32)
        assert rotated.wait(10)
        assert db.password.reveal() != before
        broker.wait_until(lambda: broker.calls.count("RenewLease") >= 3)
        assert ls.ready
        (instance,) = broker.instances.values()
        assert list(instance.statements[1].units[0].digests) == [bytes([2]) * 32]
        assert instance.statements[1].base_digest == instance.statements[0].code_set_digest


def test_revocation_takes_the_secret_before_the_callback(
    broker: FakeBroker, settings: Settings, evidence: Evidence
) -> None:
    told: list[Revocation] = []
    seen: list[str] = []
    done = threading.Event()
    with lockstep_client.connect(settings=settings, evidence=evidence) as ls:
        db = ls.credential("db")

        @ls.on_revoked
        def note(revocation: Revocation) -> None:
            told.append(revocation)
            try:
                seen.append(db.password.reveal())
            except Revoked as error:
                seen.append(error.decision)
            done.set()

        broker.wait_until(lambda: broker.watched != [])
        broker.revoke(revocation_pb2.Selector(attestation_id=ls.attestation.id if ls.attestation else ""))
        assert done.wait(5)
        assert seen == ["D-9"]
        assert told[0].reason == "test"
        assert not ls.ready
        with pytest.raises(Revoked):
            ls.credential("other")
        broker.wait_until(lambda: 1 in broker.acknowledged)
    assert "RevokeLease" not in broker.calls


def test_a_revocation_of_one_lease_leaves_the_others(
    broker: FakeBroker, settings: Settings, evidence: Evidence
) -> None:
    done = threading.Event()
    with lockstep_client.connect(settings=settings, evidence=evidence) as ls:
        one, other = ls.credential("one"), ls.credential("other-token")
        ls.on_revoked(lambda _: done.set())
        broker.wait_until(lambda: broker.watched != [])
        broker.revoke(revocation_pb2.Selector(lease_id=one.lease_id), ban=False)
        assert done.wait(5)
        with pytest.raises(Revoked):
            _ = one.username
        assert other.token.reveal().startswith("canary")


def test_what_was_revoked_before_we_attested_does_not_count(
    broker: FakeBroker, settings: Settings, evidence: Evidence
) -> None:
    broker.revoke(revocation_pb2.Selector(identity="iss|me"), ban=False)
    with lockstep_client.connect(settings=settings, evidence=evidence) as ls:
        broker.wait_until(lambda: 1 in broker.acknowledged)
        assert ls.credential("db").username


def test_denied_is_not_retried(broker: FakeBroker, settings: Settings, evidence: Evidence) -> None:
    def gate(method: str) -> None:
        if method == "Attest":
            raise denied("appraisal_failed", "D-4", 3)

    broker.policy.gate = gate
    with pytest.raises(Denied) as caught:
        lockstep_client.connect(settings=settings, evidence=evidence, wait=20)
    assert (caught.value.reason, caught.value.decision, caught.value.count) == ("appraisal_failed", "D-4", 3)
    assert "lockstep explain D-4" in str(caught.value)
    assert broker.calls.count("Attest") == 1


def test_unavailable_is_tried_again_while_asked_to_wait(
    broker: FakeBroker, settings: Settings, evidence: Evidence
) -> None:
    left = [2]

    def gate(method: str) -> None:
        if method == "Attest" and left[0]:
            left[0] -= 1
            raise unavailable()

    broker.policy.gate = gate
    with pytest.raises(Unavailable):
        lockstep_client.connect(settings=settings, evidence=evidence)
    with lockstep_client.connect(settings=settings, evidence=evidence, wait=20) as ls:
        assert ls.ready


def test_nobody_listens(settings: Settings, evidence: Evidence, broker: FakeBroker, loaded: Loaded) -> None:
    measured: list[None] = []
    loaded.measuring = lambda: measured.append(None)
    broker.stop()
    started = time.monotonic()
    with pytest.raises(Unavailable):
        lockstep_client.connect(settings=settings, evidence=evidence)
    assert time.monotonic() - started < 5
    # The connection comes first: what it loads is measured with the rest.
    assert measured == []


def test_another_certificate_is_refused(
    settings: Settings, evidence: Evidence, tmp_path: Path, tls: ServerFiles
) -> None:
    from tests.fakes.tls import server_files

    stranger = Settings(
        address=settings.address,
        ca_file=str(server_files(tmp_path).ca_file),
        identity_token_file=settings.identity_token_file,
    )
    with pytest.raises(Unavailable):
        lockstep_client.connect(settings=stranger, evidence=evidence)


def test_the_next_address_is_tried(broker: FakeBroker, settings: Settings, evidence: Evidence) -> None:
    both = Settings(
        address=f"127.0.0.1:1,{settings.address}",
        ca_file=settings.ca_file,
        identity_token_file=settings.identity_token_file,
    )
    with lockstep_client.connect(settings=both, evidence=evidence) as ls:
        assert ls.credential("db").username


def test_a_restarted_broker_is_found_again(
    broker: FakeBroker, settings: Settings, evidence: Evidence
) -> None:
    broker.policy.lease_ttl = broker.policy.attestation_ttl = 2.0
    with lockstep_client.connect(settings=settings, evidence=evidence) as ls:
        ls.credential("db")
        broker.wait_until(lambda: broker.watched != [])
        broker.stop()
        broker.start()
        renewals = broker.calls.count("RenewLease")
        broker.wait_until(lambda: broker.watched != [] and broker.calls.count("RenewLease") > renewals)
        # The watch goes on where it was: this must reach us.
        lost = threading.Event()
        ls.on_revoked(lambda _: lost.set())
        (attestation_id,) = broker.instances
        broker.revoke(revocation_pb2.Selector(attestation_id=attestation_id))
        assert lost.wait(5)


def test_what_was_revoked_while_the_stream_was_down_is_learnt(
    broker: FakeBroker, settings: Settings, evidence: Evidence
) -> None:
    lost = threading.Event()
    with lockstep_client.connect(settings=settings, evidence=evidence) as ls:
        ls.on_revoked(lambda _: lost.set())
        broker.wait_until(lambda: broker.watched != [])
        broker.stop()
        (attestation_id,) = broker.instances
        broker.revoke(revocation_pb2.Selector(attestation_id=attestation_id))
        broker.start()
        assert lost.wait(10)


def test_resync_asks_for_a_snapshot(broker: FakeBroker, settings: Settings, evidence: Evidence) -> None:
    with lockstep_client.connect(settings=settings, evidence=evidence):
        broker.wait_until(lambda: broker.watched != [])
        opened = broker.calls.count("WatchRevocations")
        broker.tell(revocation_pb2.WatchRevocationsResponse(resync=revocation_pb2.Resync(reason="pruned")))
        broker.wait_until(lambda: broker.calls.count("WatchRevocations") > opened and broker.watched != [])


def test_a_broker_that_forgot_us_is_attested_to_anew(
    broker: FakeBroker, settings: Settings, evidence: Evidence
) -> None:
    broker.policy.lease_ttl = broker.policy.attestation_ttl = 2.0
    with lockstep_client.connect(settings=settings, evidence=evidence) as ls:
        db = ls.credential("db")
        first = db.lease_id
        broker.forget()
        broker.wait_until(lambda: broker.calls.count("Attest") == 2 and len(broker.requests["db"]) == 2)
        broker.wait_until(lambda: broker.watched == ["A-2"])
        becomes(lambda: db.lease_id != first)


def test_another_log_is_attested_to_anew(broker: FakeBroker, settings: Settings, evidence: Evidence) -> None:
    """After a restored backup: which of its entries our attestation knew of, only the broker can say."""
    for _ in range(5):
        broker.append(revocation_pb2.RevocationEvent(kind=revocation_pb2.EVENT_KIND_LIFTED))
    with lockstep_client.connect(settings=settings, evidence=evidence) as ls:
        broker.wait_until(lambda: broker.watched == ["A-1"])
        broker.restore(2, "log-2")
        broker.wait_until(lambda: "Reattest" in broker.calls)
        assert ls.ready


@pytest.mark.parametrize("target", ["attestation_id", "instance_key"])
def test_what_names_this_very_instance_counts_in_any_log(
    broker: FakeBroker, settings: Settings, evidence: Evidence, target: str
) -> None:
    """Its number is one that the attestation had already seen in the log before."""
    for _ in range(5):
        broker.append(revocation_pb2.RevocationEvent(kind=revocation_pb2.EVENT_KIND_LIFTED))

    def away(method: str) -> None:
        if method == "Reattest":
            raise unavailable()

    with lockstep_client.connect(settings=settings, evidence=evidence) as ls:
        db = ls.credential("db")
        broker.wait_until(lambda: broker.watched == ["A-1"])
        broker.policy.gate = away
        broker.restore(2, "log-2")
        broker.wait_until(lambda: broker.calls.count("WatchRevocations") > 1 and broker.watched == ["A-1"])
        # This one may be older than the attestation.
        broker.revoke(revocation_pb2.Selector(identity="https://idp|me"))
        broker.wait_until(lambda: 3 in broker.acknowledged)
        assert db.password
        thumbprint = ls._connection.parts().exchange.key.thumbprint
        broker.revoke(
            revocation_pb2.Selector(instance_key=thumbprint)
            if target == "instance_key"
            else revocation_pb2.Selector(attestation_id="A-1")
        )
        refusal(lambda: db.password, Revoked)


def test_a_refused_renewal_ends_in_denied(broker: FakeBroker, settings: Settings, evidence: Evidence) -> None:
    broker.policy.lease_ttl = broker.policy.attestation_ttl = 1.5

    def gate(method: str) -> None:
        if method == "Reattest":
            raise denied("appraisal_failed", "D-5", 1)

    with lockstep_client.connect(settings=settings, evidence=evidence) as ls:
        db = ls.credential("db")
        broker.policy.gate = gate
        error = refusal(lambda: db.password, Denied)
        assert "appraisal_failed" in str(error)
        assert broker.calls.count("Reattest") == 1


def test_silence_drops_secrets_and_a_voice_brings_them_back(
    broker: FakeBroker, settings: Settings, evidence: Evidence
) -> None:
    broker.policy.grace = 0.5
    with lockstep_client.connect(settings=settings, evidence=evidence) as ls:
        db = ls.credential("db")
        broker.stop()
        refusal(lambda: db.password, Unavailable)
        broker.policy.grace = 30.0
        broker.start()
        broker.wait_until(lambda: len(broker.requests["db"]) == 2)
        becomes(lambda: ls.ready)
        assert db.password.reveal().startswith("canary")


def test_a_retried_issue_keeps_its_request_id(
    broker: FakeBroker, settings: Settings, evidence: Evidence
) -> None:
    answers = [True]

    def gate(method: str) -> None:
        if method == "RevokeLease":
            raise unavailable()

    broker.policy.gate = gate
    original = broker.issue

    def lose_the_first(request: object) -> object:
        answer = original(request)  # type: ignore[arg-type]
        if answers:
            answers.clear()
            raise Refused(unavailable().code, "state_unavailable")
        return answer

    with lockstep_client.connect(settings=settings, evidence=evidence) as ls:
        broker._server.stop(0).wait(5) if broker._server else None
        broker.issue = lose_the_first  # type: ignore[method-assign,assignment]
        broker.start()
        assert ls.credential("db", wait=10).username
    assert len(broker.requests["db"]) == 2
    assert len(set(broker.requests["db"])) == 1


def test_leaving_does_not_wait_for_a_dead_broker(
    broker: FakeBroker, settings: Settings, evidence: Evidence
) -> None:
    ls = lockstep_client.connect(settings=settings, evidence=evidence)
    ls.credential("db")
    broker.stop()
    started = time.monotonic()
    ls.close()
    ls.close()
    assert time.monotonic() - started < 4


def test_a_callback_that_cannot_be_awaited_anywhere_is_said(
    broker: FakeBroker, settings: Settings, evidence: Evidence, caplog: pytest.LogCaptureFixture
) -> None:
    done = threading.Event()
    with lockstep_client.connect(settings=settings, evidence=evidence) as ls:

        @ls.on_revoked
        async def nowhere(_: Revocation) -> None:
            raise AssertionError("there is no loop to run in")

        ls.on_revoked(lambda _: done.set())  # and the others are told all the same
        broker.wait_until(lambda: broker.watched != [])
        broker.revoke(revocation_pb2.Selector(attestation_id="A-1"))
        assert done.wait(5)
    (said,) = [record for record in caplog.records if "callback" in record.getMessage()]
    assert "nowhere" in said.getMessage()
    assert said.exc_info is not None
    assert "event loop" in str(said.exc_info[1])
