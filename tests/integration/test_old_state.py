"""A state that an older broker left: brought up to date by command or at start, with every row, and then served."""

from __future__ import annotations

import hashlib
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from broker.adapters.state.sqlite.connection import APPLICATION_ID
from broker.adapters.state.sqlite.schema import known_migrations
from lockstep.v1 import revocation_pb2
from lockstep_client.operator import Operator
from tests.support.actors import clean_environment
from tests.support.brokers import Broker, dev_broker
from tests.support.doors import post_form
from tests.support.wire import Refused, Wire, Workload, envelope, publish

ROLES = """
[manifests.app]
signers = ["dev"]

[roles.app]
mode = "enforce"
identity = { from = "dev", subject = "app-*" }
manifests = ["app"]
backend = { use = "jwt", audience = "dev" }
ttl = "5m"
revocability = "instant"
"""
FIRST = "90b0f94ff6047ec88ff3fae72bfe7bcaa85638eecd1f3d24b70c3430696560fe"
"""SHA-256 of the first migration: states out there remember it, so that it never changes again."""

GIVEN_UP = {"code_hints"}
"""Tables that a later migration drops: what they held must not be used any more."""

Rows = dict[str, list[tuple[object, ...]]]


class Old:
    """A dev folder whose state has the first schema, and what its broker had granted and revoked."""

    def __init__(self, folder: Path, roles: Path) -> None:
        self.folder = folder
        with dev_broker(folder, roles) as broker, Wire(broker.address, broker.ca) as wire:
            publish(broker, envelope(broker, "app"))
            self.workload = Workload(wire, broker.token("app-old"))
            self.workload.attest("app", roles=["app"])
            self.token = self.workload.issue("app").credential.token
            revoked = Workload(wire, broker.token("app-revoked"))
            revoked.attest("app", roles=["app"])
            self.revoked_token = revoked.issue("app").credential.token
            with pytest.raises(Refused):
                Workload(wire, broker.token("app-evil")).attest("evil", roles=["app"])
            with Operator(broker.operator_settings()) as operator:
                selector = revocation_pb2.Selector(attestation_id=revoked.attestation_id)
                operator.revoke(selector, reason="before the upgrade")
        self.path = folder / "state" / "lockstep.db"
        self.rows = _first_schema(self.path)
        self.command = ["--config", str(folder / "lockstep.toml")]

    def broker(self) -> Broker:
        return Broker(self.folder, ["serve", *self.command])

    def migrate(self, *options: str) -> tuple[int, str]:
        """``lockstep-broker migrate``: exit status, and what it said."""
        done = subprocess.run(
            [sys.executable, "-m", "broker", "migrate", *self.command, *options],
            env=clean_environment({}),
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def serves(self, broker: Broker) -> None:
        """What was good is good, what was revoked stays so, and there is more to be had."""
        asking = broker.token("dev-resource-server")
        good = post_form(broker, "/v1/introspect", asking, token=self.token)
        assert good.body["active"] is True
        assert post_form(broker, "/v1/introspect", asking, token=self.revoked_token).body == {"active": False}
        with Wire(broker.address, broker.ca) as wire:
            self.workload.wire = wire
            assert self.workload.issue("app").credential.token
            new = Workload(wire, broker.token("app-new"))
            new.attest("app", roles=["app"])
            assert new.issue("app").credential.token


def _first_schema(path: Path) -> Rows:
    """Write a state anew by the first migration alone; the rows that it then has."""
    first = known_migrations()[0]
    now = path.with_name("now.db")
    assert not path.with_name(path.name + "-wal").exists(), "the broker has not closed it"
    path.rename(now)
    with closing(sqlite3.connect(path)) as old:
        old.executescript(first.text)
        old.execute(
            "CREATE TABLE migrations (version INTEGER PRIMARY KEY, name TEXT NOT NULL, "
            "checksum TEXT NOT NULL, applied_at REAL NOT NULL) STRICT"
        )
        old.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        old.execute("ATTACH ? AS now", (str(now),))
        for table, columns in _tables(old).items():
            if table in GIVEN_UP:
                continue
            names = ", ".join(columns)
            wanted = "WHERE version = 1" if table == "migrations" else ""
            old.execute(f"INSERT INTO {table} ({names}) SELECT {names} FROM now.{table} {wanted}")
        old.execute("INSERT INTO code_hints VALUES (?, '/numpy/__init__.py', 'numpy')", (bytes(32),))
        old.commit()
    now.unlink()
    return _rows(path)


def _tables(connection: sqlite3.Connection) -> dict[str, list[str]]:
    """The stored columns of each table; generated ones are not written."""
    found = connection.execute("SELECT name FROM main.sqlite_schema WHERE type = 'table' ORDER BY name")
    return {
        name: [row[1] for row in connection.execute(f"PRAGMA main.table_info({name})")]
        for (name,) in found.fetchall()
    }


def _rows(path: Path, only: Rows | None = None) -> Rows:
    """Everything that a state holds; the columns of `only` alone, where it is given."""
    with closing(sqlite3.connect(path)) as connection:
        tables = _tables(connection)
        if only is not None:
            before = known_migrations()[0].text
            with closing(sqlite3.connect(":memory:")) as plain:
                plain.executescript(before)
                kept = {name: columns for name, columns in _tables(plain).items() if name not in GIVEN_UP}
                tables = {**kept, "migrations": tables["migrations"]}
        return {
            table: sorted(
                connection.execute(f"SELECT {', '.join(columns)} FROM {table}").fetchall(), key=repr
            )
            for table, columns in tables.items()
        }


@pytest.fixture
def old(tmp_path: Path) -> Old:
    roles = tmp_path / "roles.toml"
    roles.write_text(ROLES)
    return Old(tmp_path / "dev", roles)


def test_the_first_migration_never_changes() -> None:
    assert hashlib.sha256(known_migrations()[0].text.encode()).hexdigest() == FIRST


def test_migrate_keeps_every_row_and_the_broker_serves_on(old: Old) -> None:
    newest = len(known_migrations())
    assert newest > 1
    assert {name for name, rows in old.rows.items() if rows} >= {
        "attestations", "attestation_manifests", "code_sets", "code_units", "decisions", "head", "leases",
        "log", "manifests", "revocations", "role_versions",
    }  # fmt: skip

    code, said = old.migrate("--check")
    assert (code, "run lockstep-broker migrate" in said) == (4, True), said
    assert _rows(old.path) == old.rows

    assert old.migrate() == (0, f"schema 1 → {newest}\n")

    kept = _rows(old.path, old.rows)
    assert [row[0] for row in kept.pop("migrations")] == list(range(1, newest + 1))
    assert kept == {name: rows for name, rows in old.rows.items() if name not in {"migrations", *GIVEN_UP}}
    with closing(sqlite3.connect(old.path)) as connection:
        assert not GIVEN_UP & set(_tables(connection))
        # What a digest found, it finds.
        unfound = "SELECT count(*) FROM code_sets WHERE indexed IS NOT length(units) / 33"
        assert connection.execute(unfound).fetchone() == (0,)
    assert old.migrate("--check") == (0, f"nothing to do: schema {newest}\n")
    broker = old.broker()
    try:
        broker.start()
        old.serves(broker)
        # A state that is in use is left alone.
        assert old.migrate() == (0, f"nothing to do: schema {newest}\n")
    finally:
        assert broker.stop() == 0


def test_a_broker_that_starts_on_an_old_state_migrates_it(old: Old) -> None:
    broker = old.broker()
    try:
        broker.start()
        old.serves(broker)
        assert old.migrate("--check")[0] == 0
    finally:
        assert broker.stop() == 0


def test_a_state_of_a_newer_broker_is_refused_in_one_line(old: Old) -> None:
    assert old.migrate()[0] == 0
    newest = len(known_migrations())
    with closing(sqlite3.connect(old.path)) as connection:
        connection.execute("INSERT INTO migrations VALUES (?, 'future', 'x', 0.0)", (newest + 1,))
        connection.commit()
    before = _rows(old.path)
    done = subprocess.run(
        [sys.executable, "-m", "broker", "serve", *old.command],
        env=clean_environment({}),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 4
    wanted = (
        f"state: the state has schema {newest + 1} and this broker knows {newest}: it needs a newer broker"
    )
    assert wanted in done.stderr.splitlines()
    assert _rows(old.path) == before
