"""Ids sort by time, and every moment has something that sorts before all that comes at or after it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.adapters.entropy import SystemEntropy
from broker.model.identifiers import first_of, spelled

MOMENTS = st.floats(min_value=0.001, max_value=4e9, allow_nan=False)


@given(
    st.integers(0, 2**48 - 1), st.integers(0, 2**80 - 1), st.integers(0, 2**48 - 1), st.integers(0, 2**80 - 1)
)
def test_ids_sort_as_their_times_do(one: int, low: int, other: int, high: int) -> None:
    assert ((one, low) < (other, high)) == (spelled("D", one, low) < spelled("D", other, high))


@given(MOMENTS, MOMENTS)
def test_what_is_made_later_sorts_behind_the_first_of_a_moment(at: float, made: float) -> None:
    behind = SystemEntropy().identifier("V", made) >= first_of("V", at)
    if made >= at:
        assert behind
    elif int(made * 1000) < int(at * 1000):
        assert not behind


def test_a_moment_that_no_id_can_have_is_before_all() -> None:
    assert first_of("V", 0.0) == first_of("V", -5.0) == first_of("V", 1e12) == ""
    with pytest.raises(ValueError, match="out of range"):
        spelled("V", 2**48, 0)
