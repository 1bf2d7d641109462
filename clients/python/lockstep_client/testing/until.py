"""Waiting for what announces itself to nobody."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_PAUSE = 0.02


def until(look: Callable[[], T], within: float = 20.0) -> T:
    """The first true answer of `look`; `AssertionError` after `within` seconds without one.

    For a test that would otherwise sleep: ``until(lambda: not lockstep.ready)``.
    """
    deadline = time.monotonic() + within
    pause = threading.Event()
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() >= deadline:
            raise AssertionError(f"not within {within:g} s; the last answer was {found!r}")
        pause.wait(_PAUSE)
