"""Opening the file: one broker at a time, durable commits, readable by its owner alone."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from broker.adapters.state.sqlite.session import translated
from broker.errors import Conflict, Unavailable
from lockstep.formats import Reason

APPLICATION_ID: Final = 0x4C4B5354  # "LKST": tells our files from others'
_OLDEST: Final = (3, 37, 0)  # STRICT tables
_SYNCHRONOUS_FULL: Final = 2
_WAL_KEPT: Final = 64 * 1024 * 1024


def hold(path: Path) -> int:
    """Take the lock beside the file, create the file if need be; returns the lock's descriptor.

    Raises `Unavailable` where another process holds it, or the folder cannot be
    written. The lock lies in a file of its own: closing a second descriptor of
    the database would drop SQLite's own locks (POSIX).
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    lock = -1
    try:
        lock = os.open(f"{path}.lock", flags, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _create(path)
    except OSError as error:
        if lock >= 0:
            os.close(lock)
        if isinstance(error, BlockingIOError):
            message = f"{path.name}: another broker has this state open; a state file serves one broker"
        else:
            message = f"{path.name}: the state file cannot be opened ({error.strerror})"
        raise Unavailable(Reason.STATE_UNAVAILABLE, message) from error
    return lock


def _create(path: Path) -> None:
    try:
        created = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
        return
    os.close(created)
    # The name must survive a crash as well as the content.
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def connect(path: Path, *, writable: bool, busy: float, max_pages: int = 0) -> sqlite3.Connection:
    """A connection for the calling thread, in WAL mode with every commit synced.

    `busy` in seconds bounds the wait for a lock of a foreign reader; `max_pages`
    bounds the file (0: the disk does). Raises `Unavailable`, and `Conflict`
    where the file is another program's.
    """
    if sqlite3.sqlite_version_info < _OLDEST:
        raise Conflict(f"SQLite {sqlite3.sqlite_version} is too old: 3.37 is needed")
    with driver_errors():
        connection = sqlite3.connect(path, timeout=busy, isolation_level=None, cached_statements=256)
        try:
            _check_owner(connection, path)
            _configure(connection, writable=writable, max_pages=max_pages)
        except BaseException:
            connection.close()
            raise
    return connection


def _check_owner(connection: sqlite3.Connection, path: Path) -> None:
    found = connection.execute("PRAGMA application_id").fetchone()[0]
    tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if found != APPLICATION_ID and (found or tables):
        raise Conflict(f"{path.name}: a database of another program")


def _configure(connection: sqlite3.Connection, *, writable: bool, max_pages: int) -> None:
    if writable:
        mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise Unavailable(
                Reason.STATE_UNAVAILABLE, "the file system of the state file does not allow WAL"
            )
        connection.execute(f"PRAGMA journal_size_limit = {_WAL_KEPT}")
        if max_pages:
            connection.execute(f"PRAGMA max_page_count = {int(max_pages)}")
    else:
        connection.execute("PRAGMA query_only = ON")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute("PRAGMA cache_size = -16384")
    # Asked back: a build or a file system that quietly ignores it would lose revocations.
    if connection.execute("PRAGMA synchronous").fetchone()[0] != _SYNCHRONOUS_FULL:
        raise Unavailable(Reason.STATE_UNAVAILABLE, "this SQLite does not sync its commits")


@contextmanager
def driver_errors() -> Iterator[None]:
    """The driver's errors inside become the house's."""
    try:
        yield
    except sqlite3.Error as error:
        raise translated(error) from error
