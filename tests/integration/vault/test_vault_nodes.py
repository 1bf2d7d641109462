"""Of a cluster only the active node is asked, wherever it stands in the list, and no node that is not in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.adapters.backends.vault.nodes import origin
from broker.errors import Unavailable
from tests.support.openbao import OpenBao, Refused, openbao
from tests.support.vault_ground import lay_out
from tests.support.vault_plug import grant, key_value, opened, plug

pytestmark = pytest.mark.integration


def is_active(server: OpenBao) -> bool:
    try:
        server.root.call("GET", "sys/health")
    except Refused:
        return False
    return True


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[OpenBao, OpenBao]]:
    """(the active node, a standby)."""
    folder = tmp_path_factory.mktemp("cluster")
    standby = OpenBao(folder / "two", storage="raft")
    with openbao(folder / "one", storage="raft") as active:
        standby.join(active)
        try:
            # A busy machine may have made them change places.
            yield (active, standby) if is_active(active) else (standby, active)
        finally:
            standby.stop()


async def test_the_active_one_is_found_and_a_standby_is_never_asked(
    cluster: tuple[OpenBao, OpenBao], tmp_path: Path
) -> None:
    active, standby = cluster
    ground = lay_out(active, tmp_path / "ground")
    path = key_value(ground)
    authorities = tmp_path / "both.pem"
    authorities.write_bytes(active.ca.read_bytes() + standby.ca.read_bytes())
    both = ground.options(addresses=(standby.address, active.address), ca_file=authorities)
    async with plug(both) as backend:
        held = await opened(backend)
        assert (await backend.issue(grant(backend, held, path))).credential.fields
        assert await backend._session.channel.nodes.active() == active.address
    async with plug(ground.options(addresses=(standby.address,), ca_file=authorities)) as backend:
        with pytest.raises(Unavailable) as refused:
            await opened(backend)
        assert str(refused.value) == "the backend does not answer"
        assert backend.trouble == f"{standby.address}: standby"
        # A redirect is followed inside the list only.
        assert not backend._session.channel.nodes.redirected(f"{active.address}/v1/sys/mounts")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://Vault.example/v1/x", "https://vault.example:443"),
        ("https://[::1]:8200", "https://[::1]:8200"),
        ("http://vault.example:8200", ""),
        ("https://vault.example:x", ""),
        ("/v1/relative", ""),
    ],
)
def test_an_origin_is_one_spelling(url: str, expected: str) -> None:
    assert origin(url) == expected
