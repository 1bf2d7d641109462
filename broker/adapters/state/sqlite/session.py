"""One connection as the stores see it: named queries, and no error of the driver."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from broker.errors import Conflict, InvalidRequest, LockstepError, Misuse, Unavailable
from lockstep.formats import Reason

Row = tuple[Any, ...]
Parameters = Sequence[Any]


def translated(error: sqlite3.Error) -> LockstepError | Misuse:
    """The house's error for one of the driver. Says the driver's code, never its text (which may quote data)."""
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    if isinstance(error, sqlite3.IntegrityError):
        return Conflict(f"the row contradicts what is stored ({name})")
    if isinstance(error, sqlite3.ProgrammingError | sqlite3.InterfaceError):
        return Misuse(f"the state was used in a way that it does not allow ({name})")
    return Unavailable(Reason.STATE_UNAVAILABLE, f"the state cannot be read or written now ({name})")


class Session:
    """Runs named queries while a transaction is open; every other use is `Misuse`.

    `fault` is the error, other than a conflict, that the current work has met:
    even if the work swallowed it, the work must not be committed.
    """

    __slots__ = ("_connection", "_open", "_queries", "_writable", "fault")

    def __init__(self, connection: sqlite3.Connection, queries: Mapping[str, str], *, writable: bool) -> None:
        self._connection = connection
        self._queries = queries
        self._writable = writable
        self._open = False
        self.fault: LockstepError | Misuse | None = None

    def enter(self) -> None:
        """A work begins."""
        self.fault = None
        self._open = True

    def leave(self) -> None:
        """The work has ended: whoever kept its transaction gets `Misuse`."""
        self._open = False

    def all(self, name: str, parameters: Parameters = ()) -> list[Row]:
        """Every row of a query."""
        self._check(writing=False)
        try:
            return self._connection.execute(self._queries[name], parameters).fetchall()
        except (sqlite3.Error, UnicodeEncodeError, OverflowError) as error:
            raise self._failed(error) from error

    def one(self, name: str, parameters: Parameters = ()) -> Row | None:
        """The first row of a query that gives few."""
        rows = self.all(name, parameters)
        return rows[0] if rows else None

    def change(self, name: str, parameters: Parameters = ()) -> int:
        """Run a statement that writes; how many rows it touched."""
        self._check(writing=True)
        try:
            return self._connection.execute(self._queries[name], parameters).rowcount
        except (sqlite3.Error, UnicodeEncodeError, OverflowError) as error:
            raise self._failed(error) from error

    def changing(self, name: str, parameters: Parameters = ()) -> list[Row]:
        """The rows that a writing statement returns."""
        self._check(writing=True)
        return self.all(name, parameters)

    def change_many(self, name: str, rows: Iterable[Parameters]) -> None:
        """Run a statement that writes once for each row."""
        self._check(writing=True)
        try:
            self._connection.executemany(self._queries[name], rows)
        except (sqlite3.Error, UnicodeEncodeError, OverflowError) as error:
            raise self._failed(error) from error

    def _check(self, *, writing: bool) -> None:
        if not self._open:
            raise Misuse("a transaction was used outside its work")
        if writing and not self._writable:
            raise Misuse("a read must not write")

    def _failed(self, error: Exception) -> LockstepError | Misuse:
        if not isinstance(error, sqlite3.Error):
            return InvalidRequest("a text or number that cannot be stored")
        found = translated(error)
        if not isinstance(found, Conflict):
            self.fault = found
        return found
