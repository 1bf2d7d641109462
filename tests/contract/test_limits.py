"""Contract: buckets of tokens that refill evenly, with a bounded number of keys."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.adapters.limits import TokenBuckets
from broker.errors import Misuse
from broker.model.role import Rate


def test_a_burst_then_evenly() -> None:
    buckets = TokenBuckets({"attest": Rate(3, 6.0)})
    assert [buckets.allow("attest", "a", 100.0) for _ in range(3)] == [0.0] * 3
    assert buckets.allow("attest", "a", 100.0) == pytest.approx(2.0)
    # Refusals cost nothing.
    assert buckets.allow("attest", "a", 101.5) == pytest.approx(0.5)
    assert buckets.allow("attest", "a", 102.0) == 0.0
    assert buckets.allow("attest", "a", 102.0) == pytest.approx(2.0)
    assert [buckets.allow("attest", "a", 200.0) for _ in range(4)] == [0.0, 0.0, 0.0, pytest.approx(2.0)]


def test_keys_and_scopes_are_apart() -> None:
    buckets = TokenBuckets({"attest": Rate(1, 10.0), "issue": Rate(1, 10.0)})
    assert buckets.allow("attest", "a", 0.0) == 0.0
    assert buckets.allow("attest", "b", 0.0) == 0.0
    assert buckets.allow("issue", "a", 0.0) == 0.0
    assert buckets.allow("attest", "a", 0.0) == 10.0


def test_a_scope_without_a_rate() -> None:
    with pytest.raises(Misuse):
        TokenBuckets({}).allow("attest", "a", 0.0)


@pytest.mark.parametrize(("count", "period", "keys"), [(0, 1.0, 1), (1, 0.0, 1), (1, 1.0, 0)])
def test_rates_that_let_nothing_through(count: int, period: float, keys: int) -> None:
    with pytest.raises(ValueError, match="above zero"):
        TokenBuckets({"a": Rate(count, period)}, keys=keys)


def test_a_flood_of_keys_buys_no_fresh_bucket() -> None:
    buckets = TokenBuckets({"attest": Rate(2, 10.0), "issue": Rate(2, 10.0)}, keys=100)
    assert [buckets.allow("attest", "me", 0.0) for _ in range(2)] == [0.0, 0.0]
    found = [buckets.allow("attest", f"flood-{number}", 0.0) for number in range(1_000)]
    assert found.count(0.0) == 99
    # The spent bucket is still spent, the refused are told when to come, and other scopes are open.
    assert buckets.allow("attest", "me", 0.0) == pytest.approx(5.0)
    assert all(0.0 < wait <= 10.0 for wait in found[99:])
    assert buckets.allow("issue", "me", 0.0) == 0.0
    # Once the buckets are full again, there is room.
    assert buckets.allow("attest", "new", 10.0) == 0.0
    assert [buckets.allow("attest", f"again-{number}", 11.0) for number in range(90)] == [0.0] * 90


def test_a_clock_that_goes_back_gives_nothing_away() -> None:
    buckets = TokenBuckets({"attest": Rate(1, 10.0)})
    assert buckets.allow("attest", "a", 100.0) == 0.0
    assert buckets.allow("attest", "a", 50.0) == pytest.approx(60.0)


@given(
    count=st.integers(1, 20),
    period=st.floats(0.1, 100.0),
    gaps=st.lists(st.floats(0.0, 20.0), min_size=1, max_size=200),
)
def test_never_more_than_the_rate_in_any_window(count: int, period: float, gaps: list[float]) -> None:
    buckets = TokenBuckets({"a": Rate(count, period)})
    now, spent = 1_000.0, []
    for gap in gaps:
        now += gap
        if buckets.allow("a", "k", now) == 0.0:
            spent.append(now)
    # A window of the period holds at most a full bucket and what refilled meanwhile: count + count.
    step = period / count
    for first in range(len(spent)):
        for last in range(first, len(spent)):
            width = spent[last] - spent[first]
            assert last - first + 1 <= count + width / step + 1e-3


@given(waits=st.lists(st.floats(0.0, 5.0), max_size=50))
def test_who_waits_as_told_is_served(waits: list[float]) -> None:
    buckets = TokenBuckets({"a": Rate(3, 7.0)})
    now = 1_000_000_000.0
    for extra in waits:
        wait = buckets.allow("a", "k", now)
        now += wait + extra
        if wait:
            assert buckets.allow("a", "k", now) == 0.0
