"""The circuit opens after failures in a row, lets one probe through at a time, and closes on an answer."""

from __future__ import annotations

import pytest

from broker.adapters.backends.vault.circuit import Circuit
from broker.adapters.backends.vault.flights import Flights
from broker.errors import Unavailable
from tests.fakes.clock import FakeClock


def test_it_opens_and_closes() -> None:
    clock = FakeClock()
    circuit = Circuit(clock, failures=3, pause=2.0)
    for _ in range(2):
        circuit.enter()
        circuit.failed()
    circuit.answered()
    for _ in range(3):
        circuit.enter()
        circuit.failed()
    assert circuit.open
    with pytest.raises(Unavailable) as refused:
        circuit.enter()
    assert refused.value.retry_after == 2.0
    clock.advance(2.0)
    circuit.enter()
    # One probe at a time; where nothing is heard of it, another after a pause.
    with pytest.raises(Unavailable):
        circuit.enter()
    clock.advance(2.0)
    circuit.enter()
    circuit.failed()
    with pytest.raises(Unavailable):
        circuit.enter()
    clock.advance(2.0)
    circuit.enter()
    circuit.answered()
    assert not circuit.open
    circuit.enter()
    circuit.enter()


def test_calls_are_counted_by_instance() -> None:
    clock = FakeClock()
    flights = Flights(clock, longest=30.0)
    with flights.sending("A-1"), flights.sending("A-1") as second:
        second.open = True
        assert not flights.quiet("A-1")
        assert flights.quiet("A-2")
        second.open = False
    assert flights.quiet("A-1")


@pytest.mark.parametrize("how", ["open", "lost"])
def test_a_call_without_an_answer_counts_for_as_long_as_it_may_take(how: str) -> None:
    clock = FakeClock()
    flights = Flights(clock, longest=30.0)
    with flights.sending("A-1") as flight:
        setattr(flight, how, True)
    clock.advance(29.9)
    assert not flights.quiet("A-1")
    clock.advance(0.2)
    assert flights.quiet("A-1")
