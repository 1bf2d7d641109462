"""Tasks that outlive the call that began them: a grant that was started is finished, whoever hung up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import structlog

from broker.api.answers import log_unexpected
from broker.errors import LimitExceeded, LockstepError

T = TypeVar("T")


class Crew:
    """Supervised, bounded, and awaited at shutdown."""

    def __init__(self, size: int, log: structlog.typing.FilteringBoundLogger) -> None:
        self._size = size
        self._log = log
        self._running: set[asyncio.Task[Any]] = set()
        self._abandoned: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._running)

    async def see_through(self, what: str, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Await work that is not cancelled with its caller. Raises `LimitExceeded` beyond the bound."""
        if len(self._running) >= self._size:
            raise LimitExceeded("too many grants are being made", retry_after=1.0)
        task = asyncio.create_task(work(), name=what)
        self._running.add(task)
        task.add_done_callback(self._ended)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self._abandoned.add(task)
            if task.done():
                self._ended(task)
            raise

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if task not in self._abandoned:
            return
        self._abandoned.discard(task)
        # Nobody awaits it any more: what it raised is told here or nowhere.
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, LockstepError):
            log_unexpected(self._log, task.get_name(), error)

    async def finish(self, timeout: float) -> bool:
        """Wait for all of them; False where some still ran after `timeout` seconds and were cancelled."""
        if not self._running:
            return True
        _, late = await asyncio.wait(self._running, timeout=timeout)
        for task in late:
            task.cancel()
        if late:
            await asyncio.gather(*late, return_exceptions=True)
        return not late
