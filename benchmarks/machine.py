"""Names the machine that was measured, so that a figure is never quoted without it."""

from __future__ import annotations

import os
import platform
import ssl
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path


def machine() -> dict[str, str | int]:
    """CPU model, usable cores, kernel, and the versions that matter."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "grpcio": version("grpcio"),
        "cryptography": version("cryptography"),
        "openssl": ssl.OPENSSL_VERSION,
        "load_before": f"{os.getloadavg()[0]:.2f}",
    }


def named(where: Mapping[str, str | int]) -> str:
    """What a `machine` is, for people."""
    return f"{where['cpu']}, {where['cores']} cores, Python {where['python']}, load {where['load_before']}"


def cpu_seconds(pid: int) -> float:
    """User and system time that a process has used, all threads, in seconds (proc_pid_stat(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident(pid: int) -> int:
    """Bytes of a process that are in memory (proc_pid_status(5): VmRSS)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(pid)


def descriptors(pid: int) -> int:
    """How many files a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
