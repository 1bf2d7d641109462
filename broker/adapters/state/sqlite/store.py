"""SqliteState: the state of a broker that stands alone, in one file."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from broker.adapters.state.sqlite.connection import connect
from broker.adapters.state.sqlite.connection import hold as hold_lock
from broker.adapters.state.sqlite.inbox import Inbox, Job
from broker.adapters.state.sqlite.lane import Lane, Line
from broker.adapters.state.sqlite.queries import load_queries
from broker.adapters.state.sqlite.revocations import start_log
from broker.adapters.state.sqlite.schema import bring_up_to_date
from broker.adapters.state.sqlite.session import Session
from broker.adapters.state.sqlite.transaction import SqliteTransaction
from broker.errors import Unavailable
from broker.ports import Clock, Entropy, Transaction
from lockstep.formats import Reason

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SqliteLimits:
    """Bounds: works waiting for the writer, urgent ones, reads; threads that read; works a commit.

    `patience` (seconds) is how long a caller waits at most, `busy` (seconds)
    how long a foreign lock is waited for. `max_pages` bounds the file (pages of
    4 KiB; 0: only the disk does).
    """

    queue: int = 8_192
    urgent_queue: int = 1_024
    read_queue: int = 8_192
    readers: int = 2
    batch: int = 256
    patience: float = 10.0
    busy: float = 1.0
    max_pages: int = 0


class SqliteState:
    """Plug of `broker.ports.StateStore` over one SQLite file, for one event loop.

    One thread writes and commits what has queued up, urgent work first, in one
    synced commit; a few read. A caller that is cancelled, or whose patience
    ends (`Unavailable`), does not know whether its work was committed: it is,
    wholly, or not at all.
    """

    def __init__(
        self, lock: int, patience: float, writer: tuple[Inbox, Lane], readers: tuple[Inbox, list[Lane]]
    ) -> None:
        """Use `open`."""
        self._lock = lock
        self._patience = patience
        self._writes, self._writer = writer
        self._reads, self._readers = readers
        self._closing: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls, path: Path, clock: Clock, entropy: Entropy, limits: SqliteLimits | None = None
    ) -> SqliteState:
        """Open, create or migrate the file and hold it.

        Raises `Unavailable` where another broker holds it or it cannot be
        written, `Conflict` where it is newer than this code or not ours.
        """
        limits = limits or SqliteLimits()
        loop = asyncio.get_running_loop()
        queries = load_queries()
        now, log_id = clock.now(), entropy.token(16).hex()

        def writing() -> Line:
            connection = connect(path, writable=True, busy=limits.busy, max_pages=limits.max_pages)
            try:
                bring_up_to_date(connection, now)
                start_log(connection, queries, log_id)
            except BaseException:
                connection.close()
                raise
            session = Session(connection, queries, writable=True)
            return Line(connection, session, SqliteTransaction(session))

        def reading() -> Line:
            connection = connect(path, writable=False, busy=limits.busy)
            session = Session(connection, queries, writable=False)
            return Line(connection, session, SqliteTransaction(session))

        lock = hold_lock(path)
        writes = Inbox(limits.queue, limits.urgent_queue)
        reads = Inbox(limits.read_queue, limits.urgent_queue)
        writer = Lane("state-write", writes, writing, loop, begin="BEGIN IMMEDIATE", batch=limits.batch)
        readers = [
            Lane(f"state-read-{number}", reads, reading, loop, begin="BEGIN", batch=16)
            for number in range(limits.readers)
        ]
        try:
            await writer.start()
        except BaseException:
            writes.close(1)
            os.close(lock)
            raise
        self = cls(lock, limits.patience, (writes, writer), (reads, readers))
        try:
            for reader in readers:
                await reader.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def transact(self, work: Callable[[Transaction], Awaitable[T]], *, urgent: bool = False) -> T:
        """See `broker.ports.StateStore`."""
        return await self._run(self._writes, work, urgent=urgent)

    async def read(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        """See `broker.ports.StateStore`. Sees everything that was committed before the call."""
        return await self._run(self._reads, work, urgent=False)

    async def _run(self, inbox: Inbox, work: Callable[[Transaction], Awaitable[T]], *, urgent: bool) -> T:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        inbox.put(Job(work, future, urgent))
        overdue = loop.call_later(self._patience, _give_up, future)
        try:
            return await future
        finally:
            overdue.cancel()

    async def close(self) -> None:
        """Finish what is queued, then close. May be called again."""
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        # Readers first: the last connection to close folds the log back into the file.
        self._reads.close(len(self._readers))
        for reader in self._readers:
            await reader.ended()
        self._writes.close(1)
        await self._writer.ended()
        os.close(self._lock)


def _give_up(future: asyncio.Future[T]) -> None:
    if not future.done():
        message = "the state did not answer in time; the work may still be committed"
        future.set_exception(Unavailable(Reason.STATE_UNAVAILABLE, message))
