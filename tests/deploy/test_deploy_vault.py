"""``deploy/vault`` is what the code prints, and a real server takes it as it lies there."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from broker.adapters.backends.vault_setup import USERNAME_TEMPLATE
from tests.deploy.make import FOLDER, made
from tests.support import vault_shell

if TYPE_CHECKING:
    from tests.support.openbao import OpenBao
    from tests.support.postgres_ground import PostgresGround


def test_files_are_what_the_code_makes() -> None:
    there = {
        str(file.relative_to(FOLDER)): file.read_text()
        for pattern in ("**/*.hcl", "**/*.json")
        for file in FOLDER.glob(pattern)
    }
    assert there == dict(made()), "python -m tests.deploy.make"


def test_they_hold_no_secret_and_the_one_template() -> None:
    (connection,) = (text for name, text in made().items() if "/config/" in name)
    assert json.loads(connection)["username_template"] == USERNAME_TEMPLATE
    assert "password" not in json.loads(connection)


@pytest.mark.integration
def test_a_server_takes_them_and_makes_a_login(
    openbao_server: OpenBao, postgres_ground: PostgresGround, tmp_path: Path
) -> None:
    server, admin = openbao_server, postgres_ground.vault
    namespace = f"deploy-{os.getpid()}"
    server.root.write(f"sys/namespaces/{namespace}")
    root = server.root.within(namespace)

    def run(command: str) -> None:
        vault_shell.run(server, namespace, tmp_path, command.replace("bao ", f"{vault_shell.tool()} "))

    names = [Path(name).stem for name in made() if name.startswith("policies/")]
    for name in names:
        run(f"bao policy write {name} deploy/vault/policies/{name}.hcl")
    assert set(names) <= set(root.listed("sys/policies/acl"))
    run("bao write auth/token/roles/lockstep @deploy/vault/token-role.json")
    run("bao secrets enable -path=team-db database")
    # What is somebody's own is put in by a copy, as an operator does.
    for name, text in made().items():
        if name.startswith("team-db/"):
            copy = tmp_path / Path(name).name
            text = text.replace(
                "ledger.acme.example:5432/ledger", f"{admin.host}:{admin.port}/{admin.database}"
            )
            text = text.replace("CA.pem", str(admin.ca)).replace("app_owner", postgres_ground.owner)
            copy.write_text(text)
    password = tmp_path / "password"
    password.write_text(admin.password)
    run(f"bao write team-db/config/ledger-db @{tmp_path}/ledger-db.json password=- <{password}")
    run(f"bao write team-db/roles/ledger @{tmp_path}/ledger.json")
    answer = root.call("GET", "team-db/creds/ledger")
    login = postgres_ground.server.login(
        answer["data"]["username"], answer["data"]["password"], admin.database
    )
    with login.connect() as session:
        assert session.execute("SELECT note FROM app.orders").fetchall() == [("first",)]
