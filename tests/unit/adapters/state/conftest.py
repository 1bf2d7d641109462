"""A SQLite state, opened as a test wants it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from broker.adapters.state.sqlite import SqliteLimits, SqliteState
from tests.fakes.clock import FakeClock
from tests.fakes.entropy import CounterEntropy

Opener = Callable[..., Awaitable[SqliteState]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the test's state lies."""
    return tmp_path / "state.db"


@pytest.fixture
async def opened(path: Path) -> AsyncIterator[Opener]:
    """Opens the test's state, with limits as keywords; closes what the test left open."""
    stores: list[SqliteState] = []

    async def opener(seed: str = "", **limits: Any) -> SqliteState:
        found = await SqliteState.open(path, FakeClock(), CounterEntropy(seed), SqliteLimits(**limits))
        stores.append(found)
        return found

    yield opener
    for store in stores:
        await store.close()
