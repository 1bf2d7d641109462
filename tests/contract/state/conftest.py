"""Every plug of the state, opened for one test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker.adapters.state.sqlite import SqliteState
from broker.ports import StateStore
from tests.fakes.clock import FakeClock
from tests.fakes.entropy import CounterEntropy
from tests.fakes.state import MemoryState


@pytest.fixture(params=["memory", "sqlite"])
async def state(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[StateStore]:
    """An empty store of each kind."""
    store: StateStore
    if request.param == "memory":
        store = MemoryState()
    else:
        store = await SqliteState.open(tmp_path / "state.db", FakeClock(), CounterEntropy())
    yield store
    await store.close()
