"""The file: whose it is, who may read it, which schema it has."""
# ruff: noqa: ASYNC220, ASYNC240

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from broker.adapters.state.codec import to_json
from broker.adapters.state.judgements import detection_json
from broker.adapters.state.sqlite import SqliteState, migrate, schema_version
from broker.adapters.state.sqlite.connection import APPLICATION_ID, connect
from broker.adapters.state.sqlite.schema import Migration, bring_up_to_date, known_migrations
from broker.errors import Conflict, Unavailable
from broker.model.detection import DetectionState
from broker.model.revocation import LogHead
from broker.ports import Transaction
from tests.contract.state.nouns import detection
from tests.fakes.clock import FakeClock
from tests.fakes.entropy import CounterEntropy
from tests.unit.adapters.state.conftest import Opener


async def head(tx: Transaction) -> LogHead:
    return await tx.revocations.head()


async def test_only_the_owner_reads_it(path: Path, opened: Opener) -> None:
    state = await opened()
    await state.transact(lambda tx: tx.replays.claim("a", b"k", 1.0))
    files = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
    assert files == dict.fromkeys(["state.db", "state.db-shm", "state.db-wal", "state.db.lock"], 0o600)


async def test_a_file_that_others_may_read_is_closed_to_them(path: Path, opened: Opener) -> None:
    await (await opened()).close()
    path.chmod(0o644)
    await opened()
    assert path.stat().st_mode & 0o777 == 0o600


async def test_every_commit_is_synced(path: Path, opened: Opener) -> None:
    await opened()
    for writable in (True, False):
        connection = connect(path, writable=writable, busy=1.0)
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        connection.close()


async def test_a_second_broker_is_refused(path: Path, opened: Opener) -> None:
    state = await opened()
    with pytest.raises(Unavailable, match="another broker"):
        await SqliteState.open(path, FakeClock(), CounterEntropy())
    with pytest.raises(Unavailable, match="another broker"):
        migrate(path, 0.0)
    # The refused one has not loosened anything.
    assert await state.transact(lambda tx: tx.replays.claim("a", b"k", 1.0))
    await state.close()
    await opened()


async def test_a_second_process_is_refused_and_a_dead_one_holds_nothing(path: Path, opened: Opener) -> None:
    code = (
        "import sys; from pathlib import Path; from broker.adapters.state.sqlite.connection import hold\n"
        "try: hold(Path(sys.argv[1]))\n"
        "except Exception as error: print(error); sys.exit(3)\n"
        "print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(path)]
    state = await opened()
    refused = await asyncio.to_thread(subprocess.run, command, capture_output=True, timeout=30, check=False)
    assert (refused.returncode, b"another broker" in refused.stdout) == (3, True)
    await state.close()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert await asyncio.to_thread(holder.stdout.readline) == b"held\n"
        with pytest.raises(Unavailable, match="another broker"):
            await opened()
        holder.kill()
    await opened()


async def test_the_log_keeps_its_id(path: Path, opened: Opener) -> None:
    first = await opened(seed="one")
    before = await first.read(head)
    await first.close()
    second = await opened(seed="two")
    assert await second.read(head) == before
    await second.close()
    path.unlink()
    third = await opened(seed="three")
    assert (await third.read(head)).log_id != before.log_id


async def test_closing_folds_the_log_into_the_file(path: Path, opened: Opener) -> None:
    state = await opened()
    await state.transact(lambda tx: tx.replays.claim("a", b"k", 1.0))
    await state.close()
    assert sorted(file.name for file in path.parent.iterdir()) == ["state.db", "state.db.lock"]


@pytest.mark.parametrize("where", ["missing/state.db", "state.db/"])
async def test_a_folder_that_is_not_there(tmp_path: Path, where: str) -> None:
    if where.endswith("/"):
        (tmp_path / where).mkdir()
    with pytest.raises(Unavailable):
        await SqliteState.open(tmp_path / where, FakeClock(), CounterEntropy())


async def test_a_lock_is_no_way_to_another_file(path: Path) -> None:
    target = path.parent / "target"
    os.symlink(target, f"{path}.lock")
    with pytest.raises(Unavailable):
        await SqliteState.open(path, FakeClock(), CounterEntropy())
    assert not target.exists()


# --- schema ---------------------------------------------------------------------------------------


def test_versions(path: Path) -> None:
    newest = len(known_migrations())
    assert schema_version(path) == (0, newest)
    assert not path.exists()
    assert migrate(path, 5.0) == newest
    assert migrate(path, 6.0) == newest
    assert schema_version(path) == (newest, newest)
    connection = sqlite3.connect(path)
    rows = connection.execute("SELECT version, name, checksum, applied_at FROM migrations").fetchall()
    connection.close()
    assert rows == [(item.version, item.name, item.checksum, 5.0) for item in known_migrations()]


def change(path: Path, statement: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.commit()
    connection.close()


async def test_a_newer_database_is_refused(path: Path, opened: Opener) -> None:
    migrate(path, 0.0)
    newest = len(known_migrations())
    change(path, f"INSERT INTO migrations VALUES ({newest + 1}, 'future', 'x', 0.0)")
    with pytest.raises(Conflict, match="newer broker"):
        await opened()
    assert schema_version(path) == (newest + 1, newest)


async def test_a_migration_with_another_content_is_refused(path: Path, opened: Opener) -> None:
    migrate(path, 0.0)
    change(path, "UPDATE migrations SET checksum = 'x' WHERE version = 1")
    with pytest.raises(Conflict, match="migration 1"):
        await opened()


async def test_the_database_of_another_program_is_left_alone(path: Path, opened: Opener) -> None:
    change(path, "CREATE TABLE theirs (a)")
    before = path.read_bytes()
    with pytest.raises(Conflict, match="another program"):
        await opened()
    assert path.read_bytes() == before


async def test_a_file_that_is_no_database(path: Path, opened: Opener) -> None:
    path.write_bytes(b"not a database, and long enough to be sure about it" * 100)
    with pytest.raises(Unavailable, match="SQLITE_NOTADB"):
        await opened()
    path.write_bytes(b"")
    await opened()


def test_a_migration_that_fails_leaves_nothing() -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.execute("CREATE TABLE replays (a)")  # the last table of the first migration
    with pytest.raises(Unavailable):
        bring_up_to_date(connection, 0.0)
    tables = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
    connection.close()
    assert tables == [("replays",)]


async def test_a_report_that_an_older_broker_held_is_kept_and_says_nothing_of_what_it_would_have_done(
    path: Path, opened: Opener
) -> None:
    before = known_migrations()[:5]
    with closing(sqlite3.connect(path, isolation_level=None)) as old:
        for migration in before:
            for statement in migration.statements():
                old.execute(statement)
        old.execute(
            "CREATE TABLE migrations (version INTEGER PRIMARY KEY, name TEXT NOT NULL, checksum TEXT NOT NULL, "
            "applied_at REAL NOT NULL) STRICT"
        )
        rows = [(item.version, item.name, item.checksum, 0.0) for item in before]
        old.executemany("INSERT INTO migrations VALUES (?, ?, ?, ?)", rows)
        details = to_json(detection_json(detection().detection))
        old.execute(
            "INSERT INTO detections (id, detector, event_id, state, reason, decided_by, decision_id, revocation_id, "
            "received_at, instances, details) "
            "VALUES ('det-old', 'falco', 'e', 'held', 'beyond', '', 'd', '', 1.0, ?, ?)",
            ('["att-1"]', details),
        )
        old.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    state = await opened()
    kept = await state.read(lambda tx: tx.detections.get("det-old"))
    assert kept is not None
    assert (kept.state, kept.instances, kept.held) == (DetectionState.HELD, ("att-1",), None)
    ended = replace(kept, state=DetectionState.DISMISSED, decided_by="operator:a")
    assert await state.transact(lambda tx: tx.detections.decide(ended))
    assert await state.read(lambda tx: tx.proposals.page(9)) == []


def test_statements_are_split_where_sqlite_splits_them() -> None:
    text = "-- a; comment\nCREATE TABLE a (b); -- and; more\nINSERT INTO a VALUES\n  ('x;\ny');\n"
    connection = sqlite3.connect(":memory:")
    for statement in Migration(1, "x", text).statements():
        connection.execute(statement)
    assert connection.execute("SELECT b FROM a").fetchall() == [("x;\ny",)]
    connection.close()
