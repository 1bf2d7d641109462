"""Every plug of the state, opened for one test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from broker.adapters.state.sqlite import SqliteLimits, SqliteState
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


Opener = Callable[..., Awaitable[SqliteState]]


@pytest.fixture
async def open_sqlite(tmp_path: Path) -> AsyncIterator[Opener]:
    """Opens the test's SQLite file, with limits as keywords; closes what the test left open."""
    opened: list[SqliteState] = []

    async def opener(path: Path | None = None, **limits: Any) -> SqliteState:
        clock, entropy = FakeClock(), CounterEntropy()
        found = await SqliteState.open(path or tmp_path / "state.db", clock, entropy, SqliteLimits(**limits))
        opened.append(found)
        return found

    yield opener
    for store in opened:
        await store.close()
