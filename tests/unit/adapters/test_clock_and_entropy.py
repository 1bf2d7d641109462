"""Time never runs back, and ids sort by it."""

from __future__ import annotations

import itertools
import re
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.adapters.clock import SystemClock
from broker.adapters.entropy import SystemEntropy
from broker.ports import Entropy
from tests.fakes.entropy import CounterEntropy

_CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"
_SHAPE = re.compile(r"att-[0-7][0-9a-hjkmnp-tv-z]{25}")


def milliseconds(identifier: str) -> int:
    value = 0
    for letter in identifier.rpartition("-")[2][:10]:
        value = value * 32 + _CROCKFORD.index(letter)
    return value


def test_now_is_the_time() -> None:
    before = time.time()
    assert before <= SystemClock().now() <= time.time()


def test_now_never_decreases() -> None:
    clock = SystemClock()
    found = [clock.now() for _ in range(10_000)]
    assert found == sorted(found)


def test_monotonic_counts_from_boot() -> None:
    with open("/proc/uptime") as uptime:
        up = float(uptime.read().split()[0])
    # /proc/uptime is CLOCK_BOOTTIME, but for a container's own offset.
    assert SystemClock().monotonic() == pytest.approx(time.clock_gettime(time.CLOCK_BOOTTIME), abs=1.0)
    assert up > 0


@pytest.mark.parametrize("entropy", [SystemEntropy(), CounterEntropy()], ids=["system", "counter"])
class TestIdentifiers:
    def test_shape_and_time(self, entropy: Entropy) -> None:
        found = entropy.identifier("att", 1_800_000_000.1239)
        assert _SHAPE.fullmatch(found)
        assert milliseconds(found) == 1_800_000_000_123

    def test_sorted_as_made(self, entropy: Entropy) -> None:
        times = [1_900_000_000 + step // 100 / 1000 for step in range(1_000)]
        found = [entropy.identifier("att", now) for now in times]
        assert found == sorted(set(found))

    def test_tokens_differ(self, entropy: Entropy) -> None:
        found = {entropy.token(16) for _ in range(100)}
        assert len(found) == 100
        assert {len(token) for token in found} == {16}


def test_an_id_sorts_after_the_one_before_even_when_its_time_is_earlier() -> None:
    entropy = SystemEntropy()
    found = [entropy.identifier("att", now) for now in (2_000_000_000.0, 1_900_000_000.0, 2_000_000_000.0)]
    assert found == sorted(set(found))


def test_ids_of_one_millisecond_cannot_be_guessed_from_one_another() -> None:
    entropy = SystemEntropy()
    numbers = [int.from_bytes(entropy.identifier("a", 2e9).encode()) for _ in range(100)]
    steps = {second - first for first, second in itertools.pairwise(numbers)}
    assert len(steps) == 99


def test_ids_of_two_processes_differ() -> None:
    assert SystemEntropy().identifier("a", 2e9) != SystemEntropy().identifier("a", 2e9)


def test_threads_share_it() -> None:
    entropy, found = SystemEntropy(), []

    def work() -> None:
        for _ in range(1_000):
            found.append(entropy.identifier("a", 2e9))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 4_000


@pytest.mark.parametrize("now", [-1.0, 1e13])
def test_times_out_of_range(now: float) -> None:
    with pytest.raises(ValueError, match="out of range"):
        SystemEntropy().identifier("a", now)


@given(st.lists(st.floats(0, 4e9), min_size=2, max_size=20))
def test_ids_rise_whatever_the_clock_does(times: list[float]) -> None:
    entropy = SystemEntropy()
    found = [entropy.identifier("a", now) for now in times]
    assert found == sorted(set(found))
