"""Which process this is, and since when it runs: what /proc says of a pid."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from typing import Final

from lockstep_client.measure.model import ProcessRef

_CONTAINER: Final = re.compile(r"(?<![0-9a-f])([0-9a-f]{64})(?![0-9a-f])")
_POD: Final = re.compile(r"pod([0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12})")
_GENERATIONS: Final = 64


@dataclass(frozen=True, slots=True)
class ProcessStat:
    """Fields of /proc/PID/stat: `start_ticks` since boot; `layout` tells an image from its execs."""

    pid: int
    parent: int
    start_ticks: int
    layout: tuple[int, int]


def process_stat(pid: int | str = "self") -> ProcessStat:
    """Raises `OSError` where there is no such process (or no /proc)."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        text = file.read()
    # The name in brackets may hold anything, brackets too: count from the last one.
    fields = text[text.rindex(b")") + 2 :].split()
    return ProcessStat(
        pid=int(text[: text.index(b" ")]),
        parent=int(fields[1]),
        start_ticks=int(fields[19]),
        layout=(int(fields[23]), int(fields[25])),
    )


def process_ref(pid: int | str = "self") -> ProcessRef:
    """Node, boot, pid and start of a process; what cannot be read stays empty."""
    node = os.uname().nodename
    try:
        found = process_stat(pid)
    except OSError:
        return ProcessRef(node=node, pid=os.getpid() if pid == "self" else int(pid))
    cgroup = _text(f"/proc/{pid}/cgroup")
    container = _CONTAINER.findall(cgroup)
    pod = _POD.search(cgroup)
    return ProcessRef(
        node=node,
        boot_id=_text("/proc/sys/kernel/random/boot_id").strip(),
        pid=found.pid,
        start_ticks=found.start_ticks,
        container_id=container[-1] if container else "",
        pod_uid=pod[1].replace("_", "-") if pod else "",
    )


def image_started_at(pid: int | str = "self") -> float:
    """When the process image began to load code, seconds since the epoch; 0.0 where it cannot be known.

    A forked child inherited what its parent loaded, so the walk goes up while
    the parent has the very same memory layout. Exact to a clock tick (10 ms).
    """
    try:
        found = process_stat(pid)
    except OSError:
        return 0.0
    for _ in range(_GENERATIONS):
        if found.parent <= 0 or found.layout == (0, 0):
            break
        try:
            parent = process_stat(found.parent)
        except OSError:
            break
        if parent.layout != found.layout:
            break
        found = parent
    since_boot = found.start_ticks / os.sysconf("SC_CLK_TCK")
    return time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - since_boot)


def children(pid: int) -> tuple[int, ...]:
    """Every living descendant of a process, nearest first; orphans that left the tree are not among them."""
    by_parent: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                found = process_stat(int(name))
            except OSError:
                continue
            by_parent.setdefault(found.parent, []).append(found.pid)
    known: list[int] = []
    waiting = [pid]
    while waiting:
        for child in by_parent.get(waiting.pop(0), ()):
            known.append(child)
            waiting.append(child)
    return tuple(known)


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(65536)
    except OSError:
        return ""
