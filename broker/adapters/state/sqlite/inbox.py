"""What waits for the state: a bounded queue with a fast lane."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from broker.errors import Unavailable
from broker.ports import Transaction
from lockstep.formats import Reason

Work = Callable[[Transaction], Awaitable[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """A work and who waits for it."""

    work: Work
    future: asyncio.Future[Any]
    urgent: bool


class Inbox:
    """A bounded queue with a fast lane, from the loop's thread to one or more lanes."""

    def __init__(self, bound: int, urgent_bound: int) -> None:
        self._bound = bound
        self._urgent_bound = urgent_bound
        self._normal: deque[Job] = deque()
        self._urgent: deque[Job] = deque()
        # One token a job, put after it: whoever holds a token finds a job.
        self._tokens: SimpleQueue[None] = SimpleQueue()
        self._closed = False

    def put(self, job: Job) -> None:
        """Raises `Unavailable` when full or closed. Urgent jobs have room of their own."""
        queue, bound = (self._urgent, self._urgent_bound) if job.urgent else (self._normal, self._bound)
        if self._closed:
            raise Unavailable(Reason.STATE_UNAVAILABLE, "the state is closed")
        if len(queue) >= bound:
            raise Unavailable(Reason.STATE_UNAVAILABLE, "too much waits for the state", retry_after=0.1)
        queue.append(job)
        self._tokens.put(None)

    def close(self, lanes: int) -> None:
        """Take nothing more; each lane ends once nothing is left."""
        if not self._closed:
            self._closed = True
            for _ in range(lanes):
                self._tokens.put(None)

    def take(self) -> Job | None:
        """Wait for a job; None when closed and empty."""
        self._tokens.get()
        return self._pop()

    def more(self) -> Job | None:
        """A job that is already there."""
        try:
            self._tokens.get_nowait()
        except Empty:
            return None
        job = self._pop()
        if job is None:  # a token of the closing: it belongs to `take`
            self._tokens.put(None)
        return job

    @property
    def hurried(self) -> bool:
        """True while something urgent waits."""
        return bool(self._urgent)

    def _pop(self) -> Job | None:
        while True:
            for queue in (self._urgent, self._normal):
                try:
                    return queue.popleft()
                except IndexError:
                    continue
            if self._closed:
                return None
