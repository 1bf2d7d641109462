"""pytest: the fixture `lockstep_broker`, one broker for the session. Needs pytest, which this package does not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lockstep_client.testing.broker import DevBroker, broker


@pytest.fixture(scope="session")
def lockstep_broker() -> Iterator[DevBroker]:
    """A real broker whose role `dev` observes."""
    with broker() as running:
        yield running
