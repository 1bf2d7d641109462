"""From the hook to the report without waiting: a bounded queue and one thread that empties it."""

from __future__ import annotations

import _thread
import os
import sys
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Final

from lockstep_client.guard.observation import Observation

MOST_WAITING: Final = 1024
"""Observations that may wait; beyond it they are counted as lost."""
SWEEP_EVERY: Final = 5.0
"""Seconds between looks at executable memory when nothing happens."""
SWEEP_AFTER: Final = 0.1
"""Seconds between a request for a look and the look: a library is announced before it is mapped."""
_Item = Observation | threading.Event | None
"""An event is set when everything before it has been delivered."""


class Outbox:
    """Takes observations from any thread, even in the middle of an import or a lock, and never blocks it.

    The thread is started when it is first needed and again after a fork;
    `SimpleQueue.put` is reentrant, which a lock would not be. `lost` counts what
    nobody was told.
    """

    def __init__(
        self,
        deliver: Callable[[Observation], None],
        sweep: Callable[[], None],
        missed: Callable[[int], None] = lambda _: None,
    ) -> None:
        """All are called on the outbox's thread; what they raise is dropped.

        `missed` hears how many observations were lost since it was last called.
        """
        self._deliver = deliver
        self._sweep = sweep
        self._missed = missed
        # One a process: what a parent's threads held at a fork stays behind with the parent's queue.
        self._queues: dict[int, SimpleQueue[_Item]] = {}
        self._sweep_wanted = False
        self.lost = 0
        self._owned = 0
        self.stopped = False

    def put(self, item: Observation | None) -> bool:
        """Hand over and go on; never raises. False where it was lost.

        None asks for a sweep, soon: a burst of requests is one sweep.
        """
        queue = self._queues.get(os.getpid()) or self._begin()
        if item is None:
            if self._sweep_wanted:
                return True
            self._sweep_wanted = True
        if queue.qsize() >= MOST_WAITING:
            self.lost += 1
            return False
        queue.put(item)
        return True

    def _begin(self) -> SimpleQueue[_Item]:
        own: SimpleQueue[_Item] = SimpleQueue()
        queue = self._queues.setdefault(os.getpid(), own)
        if queue is own:  # of several threads one begins
            self._owned = self.lost  # what a parent lost, the parent says
            try:
                _thread.start_new_thread(self._run, (queue,))
            except RuntimeError:  # the interpreter is going down
                self.stopped = True
        return queue

    def start(self) -> None:
        """Begin sweeping before anything happens."""
        self.put(None)

    def flush(self, timeout: float) -> bool:
        """Wait until everything has been delivered; False after `timeout` seconds."""
        queue = self._queues.get(os.getpid())
        if queue is None:
            return True  # nothing was put here
        mark = threading.Event()
        queue.put(mark)
        return mark.wait(timeout)

    def _run(self, queue: SimpleQueue[_Item]) -> None:
        due = time.monotonic() + SWEEP_EVERY
        while not self.stopped and not sys.is_finalizing():
            try:
                item = queue.get(timeout=max(0.0, due - time.monotonic()))
            except Empty:
                self._look()
                due = time.monotonic() + SWEEP_EVERY
                continue
            if item is None:
                due = min(due, time.monotonic() + SWEEP_AFTER)
            elif isinstance(item, threading.Event):
                if self._sweep_wanted:
                    self._look()
                item.set()
            else:
                self._guarded(self._deliver, item)
                self._own_up()

    def _look(self) -> None:
        self._sweep_wanted = False  # first: what is mapped from here on asks anew
        self._guarded(self._sweep)
        self._own_up()

    def _own_up(self) -> None:
        """A queue that lost something and one that had nothing to say must not look alike."""
        lost = self.lost
        if lost == self._owned:
            return
        try:
            self._missed(lost - self._owned)
        except Exception:  # noqa: BLE001 - a door: it is said with the next one
            return
        self._owned = lost

    def _guarded(self, act: Callable[..., None], *arguments: Observation) -> None:
        try:
            act(*arguments)
        except Exception:  # noqa: BLE001 - a door: whatever the receiver does, the next one is delivered
            self.lost += 1
