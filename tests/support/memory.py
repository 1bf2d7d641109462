"""What others get to see of a process's memory, as the kernel tells and shows it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def core_limit(pid: int) -> tuple[str, str]:
    """RLIMIT_CORE, soft and hard."""
    found = re.search(
        r"^Max core file size\s+(\S+)\s+(\S+)", Path(f"/proc/{pid}/limits").read_text(), re.MULTILINE
    )
    assert found is not None
    return found[1], found[2]


def core_has_memory(pid: int) -> bool:
    """False where nothing of it would be written (core(5))."""
    return int(Path(f"/proc/{pid}/coredump_filter").read_text(), 16) != 0


def modestly() -> list[str]:
    """What to put before a command whose memory somebody will ask for: root has the right to see everything."""
    if os.geteuid() != 0:
        return []
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("no setpriv here")
    return [setpriv, "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace"]


def shows_its_memory(pid: int) -> bool:
    """True where another process of the same user may read it; of one that was started `modestly`."""
    if os.geteuid() != 0:  # a system may keep neighbours out in any case: what is not dumpable is root's
        return Path(f"/proc/{pid}/environ").stat().st_uid == os.geteuid()
    look = [*modestly(), sys.executable, "-S", "-c", f"open('/proc/{pid}/mem', 'rb').close()"]
    return subprocess.run(look, capture_output=True).returncode == 0


def peak(pid: int) -> int:
    """Bytes that a process has had in memory at most (VmHWM, proc_pid_status(5))."""
    found = re.search(r"^VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024
