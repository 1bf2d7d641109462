"""Real servers that tests share: started when the first test asks, ended with the run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.openbao import OpenBao, openbao
from tests.support.vault_ground import Ground, lay_out


@pytest.fixture(scope="session")
def openbao_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    """One OpenBao in memory. Whoever seals, stops or freezes takes one of their own (`openbao`)."""
    with openbao(tmp_path_factory.mktemp("openbao")) as server:
        yield server


@pytest.fixture
def ground(openbao_server: OpenBao, tmp_path: Path) -> Ground:
    """A namespace of this test's own on the shared server."""
    return lay_out(openbao_server, tmp_path / "ground")
