"""The user's own code, run on one thread of its own: it may block, and nothing that matters waits for it."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import TypeVar

log = logging.getLogger("lockstep")

_MOST = 256
E = TypeVar("E")


class Callbacks:
    """Bounded; a callback that raises is logged and does not stop the others."""

    def __init__(self, name: str = "lockstep-callbacks") -> None:
        self._name = name
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue(_MOST)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def post(self, callback: Callable[[E], object], argument: E) -> None:
        """Run it soon, in order. Dropped, with an error in the log, where 256 wait already."""

        def run() -> None:
            callback(argument)

        self._put(run)

    def then(self, action: Callable[[], None]) -> None:
        """Run an action after everything that was posted before."""
        self._put(action)

    def drain(self, timeout: float) -> bool:
        """Wait until everything posted so far has run; False after `timeout` seconds."""
        if self._thread is None or self._thread is threading.current_thread():
            return True
        done = threading.Event()
        self._put(done.set)
        return done.wait(timeout)

    def close(self) -> None:
        """Let what is queued run, then end."""
        if self._thread is not None:
            try:
                self._queue.put_nowait(None)
            except queue.Full:
                pass

    def _put(self, action: Callable[[], None]) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
        try:
            self._queue.put_nowait(action)
        except queue.Full:
            log.error("a callback was dropped: %d others wait", _MOST)

    def _run(self) -> None:
        while (action := self._queue.get()) is not None:
            started = time.monotonic()
            try:
                action()
            except Exception:  # a door: the user's code may raise anything
                log.exception("a callback failed after %.3f s", time.monotonic() - started)
