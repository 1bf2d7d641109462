"""The small parts of the doors: addresses, seats, metadata, tasks that outlive their callers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import structlog
import structlog.testing
from hypothesis import given
from hypothesis import strategies as st

from broker.api.arrival import Arrival, bearer_of, peer_of, rate_address, read_metadata
from broker.api.limits import Limits
from broker.api.listening import ListenError, split_address
from broker.api.proofs import UsedProofs
from broker.api.refusals import MOST, RefusalLog
from broker.api.seats import Seats
from broker.api.tasks import Crew
from broker.errors import Denied, LimitExceeded, Unauthenticated
from broker.model.caller import ProofUse
from lockstep.formats import Reason


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:192.0.2.7:4711", "192.0.2.7"),
        ("ipv6:%5B2001:db8:1:2:3:4:5:6%5D:4711", "2001:db8:1:2::/64"),
        ("ipv6:[2001:db8:1:2:ffff::1]:4711", "2001:db8:1:2::/64"),
        ("ipv6:%5B::ffff:192.0.2.7%5D:1", "192.0.2.7"),
        ("ipv6:%5Bfe80::1%25eth0%5D:1", "fe80::/64"),
        ("ipv6:%5B::1%5D:1", "::/64"),
        ("unix:/run/lockstep.sock", "unix"),
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8::1", "2001:db8::/64"),
        ("", "unknown"),
        ("junk", "unknown"),
    ],
)
def test_rates_are_counted_by_address_and_by_the_64_bits_that_one_holder_has(peer: str, address: str) -> None:
    assert rate_address(peer) == address


@given(st.text(max_size=60))
def test_any_peer_has_some_address(peer: str) -> None:
    assert rate_address(peer)


@given(
    st.lists(st.tuples(st.sampled_from(["lockstep-proof", "authorization", "x"]), st.text() | st.binary()))
)
def test_metadata_is_read_or_refused(metadata: list[tuple[str, str | bytes]]) -> None:
    try:
        found = read_metadata("/m", "ipv4:192.0.2.7:1", metadata)
    except Unauthenticated:
        return
    assert found.address == "192.0.2.7"


def test_no_repr_shows_what_was_brought() -> None:
    arrival = Arrival("/m", "192.0.2.7", proof="s3cret-proof", bearer=bearer_of("Bearer s3cret"))
    assert "s3cret" not in repr(arrival)


@pytest.mark.parametrize("value", ["Bearer", "Bearer ", "Basic x", "Bearer a\nb", "Bearer \xe9", "bear er"])
def test_what_is_no_bearer_is_refused(value: str) -> None:
    with pytest.raises(Unauthenticated):
        bearer_of(value)


def test_a_bearers_scheme_is_of_any_case() -> None:
    found = bearer_of("bEaReR abc")
    assert found is not None
    assert found.token == "abc"
    assert bearer_of("") is None


def test_a_peer_is_its_leaf_and_its_chain() -> None:
    one = b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"
    two = one.replace(b"AA", b"BB")
    found = peer_of({"x509_pem_cert": [one], "x509_pem_cert_chain": [one + two]})
    assert found is not None
    assert (found.leaf, found.chain) == (one, (one, two))
    assert peer_of({}) is None
    assert peer_of({"x509_pem_cert": []}) is None


@pytest.mark.parametrize("address", ["", "host", "host:", "host:x", "host:-1", "host:65536", ":٣"])
def test_an_address_is_host_and_port(address: str) -> None:
    with pytest.raises(ListenError):
        split_address(address)


def test_addresses_are_split() -> None:
    assert split_address("[::1]:443") == ("::1", 443)
    assert split_address(":0") == ("", 0)


def test_seats_are_bounded_in_all_and_each() -> None:
    seats = Seats(Limits(streams=3, streams_per_caller=2, public_streams=2, public_streams_per_address=1))
    with seats.take("a"), seats.take("a"):
        with pytest.raises(LimitExceeded), seats.take("a"):
            pass
        with seats.take("b"), pytest.raises(LimitExceeded), seats.take("c"):
            pass
        assert len(seats) == 2
    assert len(seats) == 0
    with pytest.raises(KeyError), seats.take("a"):
        raise KeyError
    assert len(seats) == 0


def test_nobody_s_streams_take_no_caller_s_seats() -> None:
    seats = Seats(Limits(streams=1, streams_per_caller=1, public_streams=2, public_streams_per_address=1))
    with seats.public("192.0.2.1"), seats.public("192.0.2.2"), seats.opening("192.0.2.3"):
        for address in ("192.0.2.1", "192.0.2.4"):
            with pytest.raises(LimitExceeded), seats.public(address):
                pass
        with seats.take("a"):
            assert len(seats) == 1


def test_refusals_without_a_decision_are_said_but_never_more_than_can_be_read() -> None:
    now = 0.0
    with structlog.testing.capture_logs() as lines:
        refusals = RefusalLog(structlog.get_logger(), lambda: now)
        for error in (
            Denied(Reason.REVOKED, "kept", decision_id="D-1"),
            Unauthenticated(Reason.PROOF_REJECTED, "a retry"),
            LimitExceeded("slow down"),
        ):
            refusals.refused("/x", error, "192.0.2.7")
        assert lines == []
        for _ in range(100):
            refusals.refused("/x", Denied(Reason.CHALLENGE_REJECTED, "not ours"), "192.0.2.7")
        assert len(lines) == MOST
        now = 1.0
        refusals.refused("/x", Denied(Reason.CHALLENGE_REJECTED, "not ours"), "192.0.2.7")
    assert lines[0] == {
        "event": "refused",
        "log_level": "warning",
        "method": "/x",
        "reason": "challenge_rejected",
        "why": "not ours",
        "address": "192.0.2.7",
    }
    assert lines[-1]["unsaid"] == 100 - MOST


def test_a_used_proof_is_remembered_until_it_ends() -> None:
    used = UsedProofs(10)
    use = ProofUse(b"t" * 32, "jti", 100.0)
    used.claim(use, 1.0)
    with pytest.raises(Unauthenticated):
        used.claim(use, 99.9)
    # Another key's equal jti is another proof.
    used.claim(ProofUse(b"u" * 32, "jti", 100.0), 99.9)
    used.claim(use, 100.0)


# --- the crew -----------------------------------------------------------------------------------------


class Lines:
    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def log(self) -> Any:
        return structlog.wrap_logger(None, processors=[self._take], wrapper_class=structlog.BoundLogger)

    def _take(self, _: Any, __: str, event: Any) -> Any:
        self.lines.append(dict(event))
        raise structlog.DropEvent


async def test_the_crew_finishes_what_a_cancelled_caller_began() -> None:
    crew, go, done = Crew(2, Lines().log()), asyncio.Event(), []

    async def work() -> str:
        await go.wait()
        done.append(True)
        return "made"

    caller = asyncio.create_task(crew.see_through("issue", work))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert len(crew) == 1
    go.set()
    assert await crew.finish(5.0)
    assert done == [True]
    assert len(crew) == 0


async def test_the_crew_is_bounded() -> None:
    crew, go = Crew(1, Lines().log()), asyncio.Event()
    first = asyncio.create_task(crew.see_through("issue", go.wait))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    with pytest.raises(LimitExceeded):
        await crew.see_through("issue", go.wait)  # type: ignore[arg-type]
    go.set()
    await first
    assert len(crew) == 0


@pytest.mark.parametrize(
    ("error", "lines"), [(KeyError("s3cret"), 1), (Denied(Reason.REVOKED, "revoked meanwhile"), 0)]
)
async def test_what_nobody_awaits_any_more_is_told_to_the_log(error: Exception, lines: int) -> None:
    log, go = Lines(), asyncio.Event()
    crew = Crew(1, log.log())

    async def work() -> None:
        await go.wait()
        raise error

    caller = asyncio.create_task(crew.see_through("issue", work))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    go.set()
    assert await crew.finish(5.0)
    await asyncio.sleep(0)
    assert len(log.lines) == lines
    assert "s3cret" not in repr(log.lines)


async def test_the_crew_cuts_what_does_not_end() -> None:
    crew = Crew(1, Lines().log())
    caller = asyncio.create_task(crew.see_through("issue", asyncio.Event().wait))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not await crew.finish(0.01)
    with pytest.raises(asyncio.CancelledError):
        await caller
