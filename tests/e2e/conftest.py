"""One broker for every test that does not stop it; each test brings an identity of its own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.brokers import Broker, dev_broker
from tests.support.wire import Wire, envelope, publish

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder starts real brokers."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """Application ``app`` approves the units ``app`` and ``lib``."""
    folder = tmp_path_factory.mktemp("shared")
    roles = Path(shutil.copy(HERE / "roles.toml", folder / "roles.toml"))
    with dev_broker(folder / "dev", roles) as running:
        publish(running, envelope(running, "app", "lib"))
        yield running


@pytest.fixture
def wire(broker: Broker) -> Iterator[Wire]:
    """A connection to the door for tokens."""
    with Wire(broker.address, broker.ca) as connection:
        yield connection
