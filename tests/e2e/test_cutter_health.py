"""A cutter that could not cut is known before anything is to be cut: at the start, after a reload, in /readyz."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.e2e.test_vault_reload import readyz
from tests.support.brokers import Broker, dev_broker

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.postgres import Login, Postgres

PATIENCE = 20.0
CUTTER = """
[cutters.{name}]
kind = "postgres"
host = "{cutter.host}"
port = {cutter.port}
database = "{cutter.database}"
user = "{cutter.user}"
password_file = "{cutter.password_file}"
ca_file = "{cutter.ca}"
"""


def shown(broker: Broker, name: str, state: str) -> None:
    """Wait until /readyz says so of a cutter."""
    deadline = time.monotonic() + PATIENCE
    while (found := readyz(broker))["components"].get(f"cutters.{name}") != state:
        assert time.monotonic() < deadline, found
    assert found["ready"] is True, "nobody is turned away for it"


@pytest.mark.integration
def test_what_is_wrong_is_said_at_the_start_and_after_a_reload(
    postgres_server: Postgres, database: Login, tmp_path: Path
) -> None:
    from tests.support.postgres_ground import cutter_options, lay_out

    ground = lay_out(postgres_server, postgres_server.create_database())
    in_order = cutter_options(ground.cutter, tmp_path)
    # The same login at a database without the functions.
    lacking = cutter_options(
        postgres_server.login(ground.cutter.user, ground.cutter.password, database.database), tmp_path
    )
    roles = tmp_path / "roles.toml"
    roles.touch(mode=0o600)
    text = CUTTER.format(name="orders", cutter=in_order) + CUTTER.format(name="ledger", cutter=lacking)
    roles.write_text(text)
    with dev_broker(tmp_path / "dev", roles) as broker:
        told = broker.heard("a cutter could not do its work")
        assert (told["cutter"], told["level"]) == ("ledger", "warning")
        assert "may not call lockstep's functions" in told["problem"]
        assert told["mend"].endswith(f"-d {database.database} -f deploy/vault/postgres/cutter.sql")
        shown(broker, "orders", "ok")
        shown(broker, "ledger", "faulty")

        lay_out(postgres_server, database)
        mark = len(broker.lines)
        assert broker.reload()
        broker.heard("a cutter is in order again", since=mark)
        shown(broker, "ledger", "ok")

        roles.write_text(text.replace(f"port = {in_order.port}", "port = 1", 1))
        mark = len(broker.lines)
        assert broker.reload()
        told = broker.heard("a cutter could not do its work", since=mark)
        assert (told["cutter"], told["problem"]) == ("orders", "cutter: the database cannot be reached")
        shown(broker, "orders", "unavailable")
        # Whoever reloads wants to hear how it is now.
        mark = len(broker.lines)
        assert broker.reload()
        assert broker.heard("a cutter could not do its work", since=mark)["cutter"] == "orders"
        assert ground.cutter.password not in broker.log

        roles.write_text(CUTTER.format(name="ledger", cutter=lacking))
        assert broker.reload()
        assert set(readyz(broker)["components"]) == {"cutters.ledger"}
    postgres_server.drop_database(ground.superuser.database)
