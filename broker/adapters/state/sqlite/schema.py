"""The schema: numbered migrations, each applied once and remembered with its checksum."""

from __future__ import annotations

import hashlib
import os
import re
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Final

from broker.adapters.state.sqlite.connection import APPLICATION_ID, connect, driver_errors, hold
from broker.errors import Conflict

_FILE: Final = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
_BUSY: Final = 5.0
_BOOK: Final = """
CREATE TABLE IF NOT EXISTS migrations (
    version    INTEGER PRIMARY KEY,
    name       TEXT NOT NULL,
    checksum   TEXT NOT NULL,
    applied_at REAL NOT NULL
) STRICT
"""


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered file."""

    version: int
    name: str
    text: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the text, hexadecimal."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def statements(self) -> Iterator[str]:
        """Its statements, one by one, so that they run in the caller's transaction."""
        pending = ""
        for line in self.text.splitlines(keepends=True):
            pending += line
            if sqlite3.complete_statement(pending):
                yield pending
                pending = ""


def known_migrations() -> Sequence[Migration]:
    """The migrations that this code knows, in order, without a gap."""
    folder = files("broker.adapters.state.sqlite") / "migrations"
    found = []
    for file in folder.iterdir():
        named = _FILE.fullmatch(file.name)
        if named:
            found.append(Migration(int(named[1]), named[2], file.read_text(encoding="utf-8")))
    found.sort(key=lambda migration: migration.version)
    if [migration.version for migration in found] != list(range(1, len(found) + 1)):
        raise ValueError("the migrations are not numbered 1, 2, 3 …")
    return found


def bring_up_to_date(connection: sqlite3.Connection, now: float) -> int:
    """Apply what is missing, all or nothing; the version reached.

    `now` in seconds, UTC. Raises `Conflict` where the database is newer than
    this code, or was made by migrations with another content.
    """
    known = known_migrations()
    with driver_errors():
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.execute(_BOOK)
            applied = _check_applied(connection, known)
            for migration in known[applied:]:
                for statement in migration.statements():
                    connection.execute(statement)
                connection.execute(
                    "INSERT INTO migrations (version, name, checksum, applied_at) VALUES (?, ?, ?, ?)",
                    (migration.version, migration.name, migration.checksum, now),
                )
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
    return len(known)


def _check_applied(connection: sqlite3.Connection, known: Sequence[Migration]) -> int:
    rows = connection.execute("SELECT version, checksum FROM migrations ORDER BY version").fetchall()
    if len(rows) > len(known):
        raise Conflict(
            f"the state has schema {rows[-1][0]} and this broker knows {len(known)}: it needs a newer broker"
        )
    for (version, checksum), migration in zip(rows, known, strict=False):
        if (version, checksum) != (migration.version, migration.checksum):
            raise Conflict(
                f"migration {migration.version} of the state is not the one that this broker knows"
            )
    return len(rows)


def migrate(path: Path, now: float) -> int:
    """Bring a state file, which no broker has open, up to date; the version reached.

    Raises `Unavailable` where it is in use or unreadable, `Conflict` where it is newer than this code.
    """
    lock = hold(path)
    try:
        connection = connect(path, writable=True, busy=_BUSY)
        try:
            return bring_up_to_date(connection, now)
        finally:
            connection.close()
    finally:
        os.close(lock)


def schema_version(path: Path) -> tuple[int, int]:
    """(version of a state file, newest version that this code knows); 0 for a file that is not there yet.

    Raises `Unavailable` or `Conflict` for a file that is no state file.
    """
    newest = len(known_migrations())
    if not path.exists():
        return 0, newest
    connection = connect(path, writable=False, busy=_BUSY)
    try:
        with driver_errors():
            there = connection.execute(
                "SELECT count(*) FROM sqlite_schema WHERE name = 'migrations'"
            ).fetchone()[0]
            if not there:
                return 0, newest
            return int(
                connection.execute("SELECT coalesce(max(version), 0) FROM migrations").fetchone()[0]
            ), newest
    finally:
        connection.close()
