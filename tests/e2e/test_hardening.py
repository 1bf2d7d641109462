"""The keys of a broker stay in its memory, and its memory to itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.brokers import prepared, serving
from tests.support.memory import core_limit, modestly, shows_its_memory

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]


def test_a_broker_that_serves_writes_no_core_and_shows_nobody_its_memory(tmp_path: Path) -> None:
    folder = tmp_path / "broker"
    with serving(folder, prepared(folder), *modestly()) as broker:
        assert core_limit(broker.pid) == ("0", "0")
        assert not shows_its_memory(broker.pid)
        assert not [line for line in broker.lines if "memory is not protected" in line]
