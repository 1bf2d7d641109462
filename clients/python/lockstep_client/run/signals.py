"""Signals of the launcher: which are the program's too, and which end the launcher where there is no program."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Final, Self

HEARD: Final = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
    signal.SIGCONT,
)
"""Passed on to the program."""
_ENDS_NOTHING: Final = frozenset({signal.SIGWINCH, signal.SIGCONT})
_FROM_THE_KEYBOARD: Final = frozenset({signal.SIGINT, signal.SIGQUIT})


class Signals:
    """Calls `note` with the number of each signal, on a thread of its own; entered on the main thread.

    By the wake-up descriptor: a handler in Python runs only once the main thread
    gets to it, and one that is just beginning to wait for a lock does not.
    """

    def __init__(self, note: Callable[[int], None]) -> None:
        self._note = note
        self._before: dict[int, Any] = {}
        self._read = self._write = self._woken = -1

    def __enter__(self) -> Self:
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._woken = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, _noted) for number in HEARD}
        threading.Thread(target=self._listen, name="lockstep-signals", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, action in self._before.items():
            signal.signal(number, action)
        signal.set_wakeup_fd(self._woken)
        os.close(self._write)  # its reader sees the end

    def _listen(self) -> None:
        with open(self._read, "rb", buffering=0) as numbers:
            while found := numbers.read(64):
                for number in found:
                    if number in HEARD:
                        self._note(number)


def ends(number: int) -> bool:
    """True where it ends a process that does not mind it (signal(7))."""
    return number not in _ENDS_NOTHING


def has_it_already(pid: int, number: int) -> bool:
    """True where a terminal has sent it to the program as well: a key's signal goes to the whole foreground group.

    Who pressed the key is not told; where the program stands in the foreground, it counts as the terminal.
    """
    if number not in _FROM_THE_KEYBOARD:
        return False
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return False  # none: somebody has sent it to us alone
    try:
        return os.tcgetpgrp(terminal) == os.getpgid(pid)
    except OSError:
        return False
    finally:
        os.close(terminal)


def _noted(_number: int, _frame: FrameType | None) -> None:
    """What is to be done is done by whoever reads the wake-up descriptor."""
