"""A thread with one connection: takes what is queued, runs it in one transaction, commits once."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from broker.adapters.state.driving import drive
from broker.adapters.state.sqlite.inbox import Inbox, Job
from broker.adapters.state.sqlite.session import Session, translated
from broker.errors import LockstepError, Misuse
from broker.ports import Transaction

_MOST_CHANGES: Final = 5_000
"""Rows after which a batch is committed."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job ended; `error` None means that `result` is durable."""

    job: Job
    result: Any
    error: BaseException | None


@dataclass(frozen=True, slots=True)
class Line:
    """A connection with its session and the stores on it."""

    connection: sqlite3.Connection
    session: Session
    transaction: Transaction


class _Lost(Exception):
    """SQLite gave up the whole transaction, not only the work that met the error."""


class Lane:
    """One thread. Owns its connection; nobody else touches it."""

    def __init__(
        self,
        name: str,
        inbox: Inbox,
        connect: Callable[[], Line],
        loop: asyncio.AbstractEventLoop,
        *,
        begin: str,
        batch: int,
    ) -> None:
        self._inbox = inbox
        self._connect = connect
        self._loop = loop
        self._begin = begin
        self._batch = batch
        self._line: Line | None = None
        self._ready: asyncio.Future[None] = loop.create_future()
        self._ended: asyncio.Future[None] = loop.create_future()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    async def start(self) -> None:
        """Returns when connected; raises what connecting raised."""
        self._thread.start()
        await self._ready

    async def ended(self) -> None:
        """Returns when the thread, if it was started, has closed its connection."""
        if self._thread.ident is not None:
            await asyncio.shield(self._ended)

    # --- on the thread ----------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._line = self._connect()
        except BaseException as error:  # noqa: BLE001 - carried to who called start()
            self._post(_settle, self._ready, error)
            self._post(_settle, self._ended, None)
            return
        self._post(_settle, self._ready, None)
        try:
            while (job := self._inbox.take()) is not None:
                outcomes = self._run_batch(job)
                if outcomes:
                    self._post(_deliver, outcomes)
        finally:
            self._inbox.close(0)
            self._drop_line()
            self._post(_settle, self._ended, None)

    def _post(self, call: Callable[..., None], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:
            pass  # the loop is closed: nobody waits any more

    def _run_batch(self, first: Job) -> list[Outcome]:
        taken: list[Job] = []
        outcomes: list[Outcome] = []
        try:
            line = self._open_line()
            line.connection.execute(self._begin)
        except (sqlite3.Error, LockstepError) as error:
            return self._refuse_all(first, _as_ours(error))
        changes = line.connection.total_changes
        try:
            job: Job | None = first
            while job is not None:
                if not job.future.done():  # else its caller was cancelled or has run out of patience
                    taken.append(job)
                    outcomes.append(self._run_one(line, job))
                # What waits, waits for the commit too: a few large works make one, not all that there are.
                large = line.connection.total_changes - changes >= _MOST_CHANGES
                if len(taken) >= self._batch or large or (job.urgent and not self._inbox.hurried):
                    break
                job = self._inbox.more()
            line.connection.execute("COMMIT")
        except _Lost:
            return self._again(taken)
        except sqlite3.Error as error:
            full = error.sqlite_errorcode == sqlite3.SQLITE_FULL
            self._roll_back()
            if full and len(taken) > 1:
                return self._again(taken)
            failed = {item.job: item for item in outcomes if item.error is not None}
            ours = _as_ours(error)
            return [failed.get(job) or Outcome(job, None, ours) for job in taken]
        return outcomes

    def _run_one(self, line: Line, job: Job) -> Outcome:
        line.connection.execute("SAVEPOINT work")
        session = line.session
        session.enter()
        try:
            result = drive(job.work, line.transaction)
            if session.fault is not None:
                raise session.fault
        except BaseException as error:
            session.leave()
            if not line.connection.in_transaction:
                raise _Lost from error
            line.connection.execute("ROLLBACK TO work")
            line.connection.execute("RELEASE work")
            return Outcome(job, None, error)
        session.leave()
        line.connection.execute("RELEASE work")
        return Outcome(job, result, None)

    def _again(self, taken: list[Job]) -> list[Outcome]:
        """After the whole transaction was lost: each work by itself, so that only the culprit fails."""
        self._roll_back()
        return [self._run_alone(job) for job in taken]

    def _run_alone(self, job: Job) -> Outcome:
        try:
            line = self._open_line()
            line.connection.execute(self._begin)
            outcome = self._run_one(line, job)
            line.connection.execute("COMMIT")
        except _Lost as lost:
            self._roll_back()
            return Outcome(job, None, lost.__cause__)
        except (sqlite3.Error, LockstepError) as error:
            self._roll_back()
            return Outcome(job, None, _as_ours(error))
        return outcome

    def _refuse_all(self, first: Job, error: LockstepError | Misuse) -> list[Outcome]:
        # Without a transaction everybody waits in vain, and each try may cost the whole time-out of a lock.
        refused = [Outcome(first, None, error)]
        while len(refused) < self._batch and (job := self._inbox.more()) is not None:
            refused.append(Outcome(job, None, error))
        return refused

    def _open_line(self) -> Line:
        if self._line is None:
            self._line = self._connect()
        return self._line

    def _roll_back(self) -> None:
        line = self._line
        if line is None or not line.connection.in_transaction:
            return
        try:
            line.connection.execute("ROLLBACK")
        except sqlite3.Error:
            self._drop_line()

    def _drop_line(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            try:
                line.connection.close()
            except sqlite3.Error:
                pass  # nothing is open on it that could be lost: what was reported is committed


def _as_ours(error: sqlite3.Error | LockstepError) -> LockstepError | Misuse:
    return translated(error) if isinstance(error, sqlite3.Error) else error


def _settle(future: asyncio.Future[None], error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)


def _deliver(outcomes: list[Outcome]) -> None:
    for outcome in outcomes:
        future = outcome.job.future
        if future.done():
            continue
        if outcome.error is None:
            future.set_result(outcome.result)
        else:
            future.set_exception(outcome.error)
