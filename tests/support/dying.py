"""A real broker that the kernel ends at one chosen system call of its own: between any two steps that leave a trace."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Final

from tests.support.brokers import Broker
from tests.support.programs import UNPACKED

COMMIT: Final = "fdatasync"
"""What SQLite makes a commit durable with: killed before it, nothing of the commit needs to be there."""
ANSWER: Final = "sendmsg"
"""What a gRPC answer goes out with: killed before it, everything is durable and nobody has heard."""


def strace() -> str:
    """The tracer; "" where it is not to be had, or may not trace."""
    found = shutil.which("strace") or next(map(str, UNPACKED.glob("usr/bin/strace")), "")
    return found if found and _may_trace(found) else ""


@cache
def _may_trace(program: str) -> bool:
    done = subprocess.run([program, "-qq", "-o", os.devnull, "true"], capture_output=True, check=False)
    return done.returncode == 0


def dying(folder: Path, roles: Path, call: str, number: int) -> Broker:
    """``lockstep-broker dev`` over a folder, killed when one of its threads makes a system call for the `number`-th
    time, before the kernel acts on it. 0: never, but every such call is in the file ``trace``."""
    # As a grandchild (-D), so that the broker is this process's child and gets its signals.
    tracer = [strace(), "-D", "-f", "-qq", "-e", "signal=none", "-e", f"trace={call}"]
    if number:
        tracer += ["-e", f"inject={call}:signal=SIGKILL:when={number}"]
    tracer += ["-o", str(folder / "trace")]
    return Broker(folder, _command(folder, roles), before=tracer)


def traced(folder: Path) -> int:
    """How often the busiest thread made the call."""
    counts: dict[str, int] = {}
    for line in (folder / "trace").read_text().splitlines():
        thread = line.split(None, 1)[0]
        counts[thread] = counts.get(thread, 0) + 1
    return max(counts.values(), default=0)


def copied(template: Path, folder: Path) -> Path:
    """A folder that was prepared once, for a life of its own: on ports of its own."""
    shutil.copytree(template, folder)
    (folder / "ports.json").unlink()
    return folder


def plain(folder: Path, roles: Path) -> Broker:
    """The same without a tracer."""
    return Broker(folder, _command(folder, roles))


def _command(folder: Path, roles: Path) -> Sequence[str]:
    return ["dev", "--json", "--folder", str(folder), "--with", str(roles)]
