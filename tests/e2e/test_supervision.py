"""A supervisor hears when a broker serves, reloads, lives and leaves; the unit that we ship is as tight as it says."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.actors import PATIENCE, clean_environment
from tests.support.brokers import prepared

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "deploy" / "systemd" / "lockstep-broker.service"


class Ear:
    """The socket that systemd would listen on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._pending: list[str] = []

    def hear(self, wanted: str) -> None:
        """Wait until a line begins so."""
        deadline = time.monotonic() + PATIENCE
        while True:
            while self._pending:
                if self._pending.pop(0).startswith(wanted):
                    return
            self._socket.settimeout(max(0.01, deadline - time.monotonic()))
            self._pending += self._socket.recv(4096).decode().splitlines()

    def close(self) -> None:
        """Deaf."""
        self._socket.close()


@pytest.fixture
def ear(tmp_path: Path) -> Iterator[Ear]:
    made = Ear(tmp_path / "notify")
    yield made
    made.close()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here")
def test_the_unit_is_sound_and_tight() -> None:
    security = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=15", "--no-pager", str(UNIT)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert security.returncode == 0, security.stdout + security.stderr
    page = (ROOT / "docs" / "operations.md").read_text()
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", security.stdout)
    assert found is not None
    assert f"**{found[1]}**" in page, security.stdout


def test_it_is_told_what_happens(tmp_path: Path, ear: Ear) -> None:
    prepared(tmp_path / "dev")
    process = subprocess.Popen(
        [sys.executable, "-m", "broker", "serve", "--config", str(tmp_path / "dev" / "lockstep.toml")],
        env=clean_environment({"NOTIFY_SOCKET": str(ear.path), "WATCHDOG_USEC": "200000"}),
        stderr=subprocess.DEVNULL,
    )
    try:
        ear.hear("READY=1")
        ear.hear("WATCHDOG=1")
        ear.hear("WATCHDOG=1")
        process.send_signal(1)
        ear.hear("RELOADING=1")
        ear.hear("MONOTONIC_USEC=")
        ear.hear("READY=1")
        process.terminate()
        ear.hear("STOPPING=1")
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait(5)


# As systemd's MemoryDenyWriteExecute=, NoNewPrivileges= and LimitCORE= (prctl(2): PR_SET_MDWE, PR_SET_NO_NEW_PRIVS).
STRICT = """
import ctypes, os, resource, sys
libc = ctypes.CDLL(None, use_errno=True)
for option in (65, 38):
    if libc.prctl(option, 1, 0, 0, 0):
        sys.exit(f"prctl {option}: {os.strerror(ctypes.get_errno())}")
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
os.execv(sys.argv[1], sys.argv[1:])
"""


KERNEL = tuple(int(part) for part in re.findall(r"\d+", os.uname().release)[:2])


@pytest.mark.skipif(KERNEL < (6, 3), reason="this kernel cannot deny memory that is written and executed")
def test_it_serves_without_what_the_unit_takes_away(tmp_path: Path, ear: Ear) -> None:
    prepared(tmp_path / "dev")
    serve = [sys.executable, "-m", "broker", "serve", "--config", str(tmp_path / "dev" / "lockstep.toml")]
    process = subprocess.Popen(
        [sys.executable, "-c", STRICT, *serve],
        env=clean_environment({"NOTIFY_SOCKET": str(ear.path)}),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        ear.hear("READY=1")
        process.terminate()
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.communicate(timeout=5)
