"""What a verifier knows of the log: which one it is, how far it reaches, how fresh that is, and what it forgets."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from google.protobuf.duration_pb2 import Duration

from lockstep.v1 import revocation_pb2 as rv
from lockstep_client import Revoked
from lockstep_client.settings import Settings
from lockstep_client.verify import TokenVerifier, Verified
from lockstep_client.verify.denials import REMEMBERED, Denials
from lockstep_client.watch import WatchSession
from tests.fakes.broker import FakeBroker
from tests.fakes.clock import START
from tests.fakes.introspection import IntrospectionServer
from tests.fakes.tls import ServerFiles
from tests.unit.client.core.conftest import ISSUER, Clock, Signer, becomes, refusal


def position(seq: int, log_id: str = "log-1") -> rv.LogPosition:
    return rv.LogPosition(log_id=log_id, seq=seq)


def entry(seq: int, log_id: str = "log-1") -> rv.RevocationEvent:
    return rv.RevocationEvent(
        kind=rv.EVENT_KIND_REVOKED,
        cut=True,
        selector=rv.Selector(attestation_id="A-1"),
        position=position(seq, log_id),
    )


class Times:
    """Two clocks, each put where a test likes."""

    def __init__(self) -> None:
        self.at, self.said = 1000.0, START

    def steady(self) -> float:
        return self.at

    def wall(self) -> float:
        return self.said

    def pass_(self, seconds: float) -> None:
        self.at += seconds
        self.said += seconds


def token(as_of: int, *, issued: float | None = START, lives: float = 300.0) -> Verified:
    began = dt.datetime.fromtimestamp(START if issued is None else issued, dt.UTC)
    return Verified(
        subject="s",
        audience="a",
        role="r",
        mode="enforce",
        assurance="self",
        attestation="A-1",
        lease="L-1",
        token_id="T-1",
        scope=frozenset(),
        manifests=(),
        expires_at=began + dt.timedelta(seconds=lives),
        as_of=as_of,
        issued_at=None if issued is None else began,
    )


class TestForgetting:
    def test_a_wall_clock_that_jumps_forgets_nothing(self) -> None:
        times = Times()
        denials = Denials(times)
        denials.replace([], position(10))
        denials.add(entry(20))
        times.said += 25 * 3600
        assert denials.forget() == 0
        times.said -= 25 * 3600
        assert denials.hit(token(10))

    def test_what_is_old_goes_and_long_tokens_are_asked_about_from_then_on(self) -> None:
        times = Times()
        denials = Denials(times)
        denials.replace([], position(10))
        denials.add(entry(20))
        old = token(10, lives=REMEMBERED + 1)
        times.pass_(REMEMBERED - 1)
        assert denials.forget() == 0
        assert denials.hit(old)
        times.pass_(2)
        assert denials.forget() == 1
        assert len(denials) == 0
        assert denials.must_ask(old)
        assert denials.must_ask(replace(old, issued_at=None))
        assert not denials.must_ask(token(10, issued=times.said, lives=300))
        assert not denials.must_ask(token(20, issued=times.said, lives=REMEMBERED + 1))

    def test_a_snapshot_has_what_was_forgotten(self) -> None:
        times = Times()
        denials = Denials(times)
        denials.replace([entry(5)], position(10))
        times.pass_(REMEMBERED + 1)
        assert denials.forget() == 1
        denials.replace([entry(5)], position(10))
        assert denials.hit(token(4, lives=REMEMBERED * 2))


class TestAnotherLog:
    """After a restored backup numbers come again: seq 401 of the new log is later than as_of 500 of the old one."""

    def test_what_was_granted_under_the_old_one_is_asked_about(self) -> None:
        times = Times()
        denials = Denials(times)
        denials.replace([], position(500))
        times.pass_(100)
        granted = token(500, issued=times.said)
        assert not denials.must_ask(granted)
        times.pass_(10)
        denials.replace([], position(400, "log-2"))
        for seq in range(401, 700):
            denials.add(entry(seq, "log-2"))
        assert denials.must_ask(granted)
        assert denials.must_ask(token(300, issued=times.said - 50))
        assert denials.must_ask(token(600, issued=None))
        assert not denials.must_ask(token(699, issued=times.said + 60))

    def test_a_clock_that_was_behind_when_it_changed_hides_nothing(self) -> None:
        times = Times()
        denials = Denials(times)
        denials.replace([], position(500))
        times.said -= 3600
        denials.replace([], position(400, "log-2"))
        times.said += 3600
        times.pass_(60)
        assert denials.must_ask(token(500, issued=times.said - 90))

    def test_who_came_after_the_change_asks_about_what_knows_more_than_there_was(self) -> None:
        times = Times()
        denials = Denials(times)
        denials.replace([], position(400, "log-2"))
        lost = token(500, issued=times.said - 100)
        assert denials.must_ask(lost)
        assert not denials.ahead(lost)  # no use to wait for the feed
        denials.reached(position(600, "log-2"))
        assert denials.must_ask(lost)
        assert not denials.must_ask(token(400, issued=times.said - 100))

    def test_a_child_knows_it_too(self) -> None:
        times = Times()
        denials = Denials(times)
        denials.replace([], position(500))
        denials.replace([], position(400, "log-2"))
        denials.after_fork_in_child()
        times.pass_(600)
        denials.replace([], position(700, "log-2"))
        assert denials.must_ask(token(450, issued=START))


class TestLive:
    """The same over a real stream, with a real door to ask at."""

    def test_a_token_of_a_lost_stretch_is_asked_about(
        self,
        live: TokenVerifier,
        signer: Signer,
        broker: FakeBroker,
        clock: Clock,
        introspection: IntrospectionServer,
    ) -> None:
        token = signer.token()
        assert live.verify(token)
        broker.restore(3, "log-2")
        introspection.active = False
        refusal(lambda: live.verify(token), Revoked)  # as_of 5 is beyond what the new log has
        broker.revoke(rv.Selector(attestation_id="A-1"))
        broker.append(rv.RevocationEvent(kind=rv.EVENT_KIND_LIFTED))
        broker.append(rv.RevocationEvent(kind=rv.EVENT_KIND_LIFTED))
        becomes(lambda: live.ready)
        with pytest.raises(Revoked):
            live.verify(token)  # and still when its numbers have come again
        introspection.active = True
        assert live.verify(token)

        clock.ahead += 60
        becomes(lambda: live.ready, 20)
        asked = len(introspection.asked)
        fresh = signer.token(iat=int(START) + 60, exp=int(START) + 360, facts={"as_of": 6})
        assert live.verify(fresh)
        assert len(introspection.asked) == asked

    def test_a_token_that_is_a_moment_ahead_waits_for_the_feed_and_not_for_the_door(
        self, live: TokenVerifier, signer: Signer, broker: FakeBroker, introspection: IntrospectionServer
    ) -> None:
        broker.append(rv.RevocationEvent(kind=rv.EVENT_KIND_LIFTED), theirs=False)
        assert live.verify(signer.token(facts={"as_of": 6}))
        assert introspection.asked == []

    def test_a_token_that_stays_ahead_is_asked_about(
        self, live: TokenVerifier, signer: Signer, introspection: IntrospectionServer
    ) -> None:
        ahead = signer.token(facts={"as_of": 99})
        assert live.verify(ahead)
        introspection.active = False
        with pytest.raises(Revoked):
            live.verify(ahead)
        assert len(introspection.asked) == 2

    def test_a_verifier_that_starts_after_the_restore_asks_too(
        self,
        signer: Signer,
        clock: Clock,
        broker: FakeBroker,
        tls: ServerFiles,
        tmp_path: Path,
        introspection: IntrospectionServer,
    ) -> None:
        broker.append(rv.RevocationEvent(kind=rv.EVENT_KIND_LIFTED))
        identity = tmp_path / "server.jwt"
        identity.write_text("resource.server.jwt")
        settings = Settings(
            address=broker.address,
            ca_file=str(tls.ca_file),
            identity_token_file=str(identity),
            http_url=introspection.url,
        )
        introspection.active = False
        with TokenVerifier(
            audience="pay-api", issuer=ISSUER, jwks=signer.jwks, settings=settings, clock=clock
        ) as it:
            it.wait_ready(5)
            old = signer.token(iat=int(START) - 60, facts={"as_of": 3})
            for _ in range(5):
                broker.append(rv.RevocationEvent(kind=rv.EVENT_KIND_LIFTED))
            refusal(lambda: it.verify(old), Revoked, 5)
            assert it.verify(signer.token(iat=int(START) - 60, facts={"as_of": 1}))

    def test_a_farewell_makes_nothing_fresh(
        self, live: TokenVerifier, broker: FakeBroker, clock: Clock
    ) -> None:
        broker.policy.beats = False
        clock.ahead += 6.5
        assert not live.ready
        watches = broker.calls.count("WatchRevocations")
        broker.tell(rv.WatchRevocationsResponse(beat=rv.Beat(going_away=True, grace=Duration(seconds=30))))
        # It has been taken: the verifier went elsewhere.
        broker.wait_until(lambda: broker.calls.count("WatchRevocations") > watches)
        assert not live.ready


class Noted:
    """A `Sink` that writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []

    def snapshot(self, events: Sequence[rv.RevocationEvent], position: rv.LogPosition) -> None:
        self.told.append(("snapshot", position.log_id, position.seq))

    def event(self, event: rv.RevocationEvent) -> None:
        self.told.append(("event", event.position.seq))

    def reached(self, position: rv.LogPosition) -> None:
        self.told.append(("reached", position.seq))

    def beat(self, asked_at: float | None, grace: float) -> None:
        self.told.append(("beat", asked_at, grace))

    def denied(self, error: Exception) -> None:
        raise AssertionError(error)


class Left:
    """A stream that knows whether it was left."""

    left = False

    def leave(self) -> None:
        self.left = True


class TestSession:
    @pytest.fixture
    def times(self) -> Times:
        return Times()

    @pytest.fixture
    def kept(self) -> list[rv.LogPosition | None]:
        return []

    @pytest.fixture
    def session(self, times: Times, kept: list[rv.LogPosition | None]) -> Iterator[WatchSession]:
        self.sink = Noted()
        it = WatchSession("", position(1), self.sink, times, kept.append)
        yield it
        it.end()

    def test_a_farewell_hands_on_its_grace_and_no_time(self, session: WatchSession, times: Times) -> None:
        pings = session.later(lambda: None)
        number = next(pings).ping.id
        times.pass_(60)  # held up on the way
        stream = Left()
        farewell = rv.WatchRevocationsResponse(beat=rv.Beat(going_away=True, grace=Duration(seconds=9)))
        assert session.take(farewell, stream)  # type: ignore[arg-type]
        assert stream.left
        answer = rv.WatchRevocationsResponse(beat=rv.Beat(ping_id=number))
        assert not session.take(answer, stream)  # type: ignore[arg-type]
        assert self.sink.told == [("beat", None, 9.0), ("beat", 1000.0, 0.0)]

    @pytest.mark.parametrize("kind", ["event", "beat"])
    def test_what_comes_of_another_log_is_not_applied_but_begun_anew(
        self, session: WatchSession, kept: list[rv.LogPosition | None], kind: str
    ) -> None:
        answer = (
            rv.WatchRevocationsResponse(event=entry(2, "log-2"))
            if kind == "event"
            else rv.WatchRevocationsResponse(beat=rv.Beat(position=position(2, "log-2")))
        )
        assert session.take(answer, Left())  # type: ignore[arg-type]
        assert self.sink.told == []
        assert kept == [None]
