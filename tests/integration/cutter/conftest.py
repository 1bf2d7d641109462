"""A cutter at the shared PostgreSQL, and ids that no other test has."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker.adapters.cutters.postgres import PostgresCutter
from broker.adapters.entropy import SystemEntropy
from tests.support.postgres_ground import PostgresGround, cutter_options

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder talks to a real server."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.integration)


@pytest.fixture
async def cutter(postgres_ground: PostgresGround, tmp_path: Path) -> AsyncIterator[PostgresCutter]:
    """As the broker has it."""
    cutter = PostgresCutter(cutter_options(postgres_ground.cutter, tmp_path))
    yield cutter
    await cutter.close()


@pytest.fixture
def attestation() -> str:
    """An id as the broker makes it."""
    return SystemEntropy().identifier("A", time.time())


@pytest.fixture
def other() -> str:
    """Another one."""
    return SystemEntropy().identifier("A", time.time())
