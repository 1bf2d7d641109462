"""Keys and secrets live in memory: what keeps that memory out of core files, and out of other processes' reach."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Literal

from lockstep_client.errors import ConfigurationError

log = logging.getLogger("lockstep")

HardenUse = Literal["core", "full", "off"]
HARDEN_VARIABLE = "LOCKSTEP_HARDEN"
_USES = ("core", "full", "off")
_FILTER = Path("/proc/self/coredump_filter")
_PR_SET_DUMPABLE = 4


def harden_use(asked: HardenUse | None) -> HardenUse:
    """The argument, else ``LOCKSTEP_HARDEN``, else ``core``. Raises `ConfigurationError`."""
    use = asked or os.environ.get(HARDEN_VARIABLE) or "core"
    for known in _USES:
        if use == known:
            return known  # type: ignore[return-value]
    raise ConfigurationError(f"{HARDEN_VARIABLE}: one of {', '.join(_USES)}", setting=HARDEN_VARIABLE)


def harden(use: HardenUse) -> None:
    """Do it, for the life of this process and of its forks.

    ``core``: no core file is written, and where a handler takes one all the same
    (core(5)) it has no memory in it. ``full``: nor does any other process of
    the same user read this memory. Programs that are started inherit the first
    two. Raises `ConfigurationError` where ``full`` cannot be had.
    """
    if use == "off":
        return
    try:
        no_core_file(for_good=use == "full")
        # Once the process is not dumpable, its file is root's: a second time, it is only looked at.
        if sys.platform == "linux" and int(_FILTER.read_text(), 16):
            _FILTER.write_text("0")
        if use == "full":
            unreadable()
    except OSError as error:
        if use == "full":
            raise ConfigurationError(
                f"{HARDEN_VARIABLE}: full: {error.strerror}", setting=HARDEN_VARIABLE
            ) from None
        log.warning("a core file of this process may have secrets in it: %s", error.strerror)


def no_core_file(*, for_good: bool) -> None:
    """RLIMIT_CORE is 0 (getrlimit(2)); unless `for_good`, whoever wants core files may raise it again.

    Programs that are started inherit it. Raises `OSError`.
    """
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0 if for_good else hard))
    except ValueError as error:
        raise OSError(0, str(error)) from None


def unreadable() -> None:
    """Not dumpable (PR_SET_DUMPABLE of prctl(2)): no core by whatever handler, no ptrace, no ``/proc/PID/mem``.

    A program that is started is dumpable again. Raises `OSError`.
    """
    if sys.platform != "linux":
        return
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
