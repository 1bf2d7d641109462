"""Leaving: a process that has to end does, whatever its own code is waiting for."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable

LEAVE_WITHIN = 5.0
"""Seconds that callbacks get before a process that has to leave leaves."""
_LAST_WORDS = 1.0
"""Seconds in which what was logged and printed is written out."""


def leave(code: int) -> None:
    """End the process now: code that is no longer trusted gets no say in it, so no exit handlers run."""
    # Beside this thread: a lock of a stream is held for as long as nobody reads what another thread writes.
    words = threading.Thread(target=_write_out, name="lockstep-leaving", daemon=True)
    try:
        words.start()
        words.join(_LAST_WORDS)
    except RuntimeError:  # the interpreter is going down, and writes out by itself
        pass
    os._exit(code)


def leave_at_last(leaving: Callable[[int], None], code: int) -> None:
    """Call `leaving` in `LEAVE_WITHIN` seconds, unless the process has ended by then; at once where no thread can be
    had that would."""
    last = threading.Timer(LEAVE_WITHIN, leaving, (code,))
    last.daemon = True
    try:
        last.start()
    except RuntimeError:
        leaving(code)


def _write_out() -> None:
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            pass
