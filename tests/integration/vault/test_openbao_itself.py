"""What Lockstep relies on at the real server: life cycle of the process under test, and facts of its API."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.openbao import OpenBao, Refused, openbao
from tests.support.vault_ground import TOKEN_ROLE, Ground

pytestmark = pytest.mark.integration


def test_what_raft_stores_survives_a_kill(tmp_path: Path) -> None:
    with openbao(tmp_path, storage="raft") as server:
        server.root.write("sys/mounts/kv", type="kv")
        server.root.write("kv/kept", word="here")
        server.kill()
        server.start()
        assert server.root.read("kv/kept") == {"word": "here"}
        server.seal()
        with pytest.raises(Refused, match="503"):
            server.root.read("kv/kept")
        server.unseal()
        assert server.root.read("kv/kept") == {"word": "here"}


class TestThePolicyThatWeShip:
    @pytest.fixture
    def broker(self, ground: Ground) -> Ground:
        files = ground.approle()
        answer = ground.root.as_token("").write(
            "auth/approle/login",
            role_id=Path(files["role_id_file"]).read_text(),
            secret_id=Path(files["secret_id_file"]).read_text(),
        )
        ground.root, ground.server = ground.root.as_token(answer["auth"]["client_token"]), ground.server
        return ground

    def test_it_makes_service_tokens_of_instances_only(self, broker: Ground, openbao_server: OpenBao) -> None:
        path = f"auth/token/create/{TOKEN_ROLE}"
        auth = broker.root.write(path, entity_alias="ls-a-1", ttl=300)["auth"]
        assert (auth["token_type"], auth["orphan"], auth["lease_duration"]) == ("service", True, 300)
        assert "default" not in auth["policies"]
        for wrong in (
            {"entity_alias": "root", "ttl": 300},
            {"entity_alias": "ls-a-1", "ttl": 300, "type": "batch"},
            {"entity_alias": "ls-a-1", "ttl": 300, "policies": ["root"]},
            {"entity_alias": "ls-a-1"},
            {"ttl": 300},
        ):
            with pytest.raises(Refused):
                broker.root.write(path, **wrong)

    def test_it_disables_entities_and_changes_nothing_else_of_them(self, broker: Ground) -> None:
        auth = broker.root.write(f"auth/token/create/{TOKEN_ROLE}", entity_alias="ls-a-1", ttl=300)["auth"]
        path = f"identity/entity/id/{auth['entity_id']}"
        for wrong in ({"policies": ["root"]}, {"disabled": True, "policies": ["root"]}, {"disabled": False}):
            with pytest.raises(Refused, match="403"):
                broker.root.write(path, **wrong)
        broker.root.write(path, disabled=True)
        with pytest.raises(Refused, match="disabled"):
            broker.root.write(f"auth/token/create/{TOKEN_ROLE}", entity_alias="ls-a-1", ttl=300)

    def test_it_reads_no_secret(self, broker: Ground, openbao_server: OpenBao) -> None:
        root = openbao_server.root.within(broker.namespace)
        root.write("sys/mounts/kv", type="kv")
        root.write("kv/a", word="secret")
        with pytest.raises(Refused, match="403"):
            broker.root.read("kv/a")
