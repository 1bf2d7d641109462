"""The key and the secrets stay in the memory of the process that has them: no core file, no neighbour's eyes."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from lockstep_client import ConfigurationError
from lockstep_client.hardening import harden_use
from lockstep_client.settings import Settings
from tests.fakes.broker import FakeBroker
from tests.support.memory import core_has_memory, core_limit, modestly, shows_its_memory

ROOT = Path(__file__).resolve().parents[4]
PROGRAM = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_CORE, (resource.getrlimit(resource.RLIMIT_CORE)[1],) * 2)
open("/proc/self/coredump_filter", "w").write("0x33")  # other tests connect, and this is inherited
import lockstep_client
from tests.unit.client.core.conftest import Loaded
sys.modules.pop("ctypes", None)
with lockstep_client.connect(evidence=Loaded().source, harden=None if sys.argv[1] == "-" else sys.argv[1]) as ls:
    secret = ls.credential("a-token").token.reveal()
    print("ctypes" in sys.modules, flush=True)
    if sys.stdin.readline() == "die\\n":
        os.abort()
"""


def start(folder: Path, settings: Settings, harden: str) -> subprocess.Popen[str]:
    script = folder / "program.py"
    script.write_text(PROGRAM)
    return subprocess.Popen(
        [*modestly(), sys.executable, str(script), harden],
        env={**os.environ, **settings.environment(), "PYTHONPATH": str(ROOT)},
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("harden", "memory_in_core", "soft", "hard", "shown"),
    [
        ("off", True, "as it was", "as it was", True),
        ("-", False, "0", "as it was", True),
        ("core", False, "0", "as it was", True),
        ("full", False, "0", "0", False),
    ],
)
def test_a_workload(
    broker: FakeBroker,
    settings: Settings,
    tmp_path: Path,
    harden: str,
    memory_in_core: bool,
    soft: str,
    hard: str,
    shown: bool,
) -> None:
    was = core_limit(os.getpid())[1]
    process = start(tmp_path, settings, harden)
    assert process.stdout is not None
    # A library more, which is measured too, only where more is asked for.
    assert process.stdout.readline() == f"{harden == 'full'}\n"
    pid = process.pid
    assert core_has_memory(pid) is memory_in_core
    assert core_limit(pid) == tuple(was if limit == "as it was" else limit for limit in (soft, hard))
    assert shows_its_memory(pid) is shown
    process.communicate("\n", timeout=20)
    assert process.returncode == 0


@pytest.mark.parametrize("harden", ["off", "core", "full"])
def test_a_core_file_has_no_secret_in_it(
    broker: FakeBroker, settings: Settings, tmp_path: Path, harden: str
) -> None:
    pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip()
    if pattern.startswith(("|", "/")) or resource.getrlimit(resource.RLIMIT_CORE)[1] == 0:
        pytest.skip("core files go elsewhere here")
    process = start(tmp_path, settings, harden)
    assert process.stdout is not None
    process.stdout.readline()
    process.communicate("die\n", timeout=40)
    assert process.returncode < 0
    assert any(b"canary-" in core.read_bytes() for core in tmp_path.glob("core*")) == (harden == "off")


def test_the_variable_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCKSTEP_HARDEN", "full")
    assert harden_use(None) == "full"
    assert harden_use("off") == "off"
    monkeypatch.setenv("LOCKSTEP_HARDEN", "much")
    with pytest.raises(ConfigurationError, match="core, full, off"):
        harden_use(None)


def test_a_launcher_shows_nobody_its_memory_and_its_program_writes_no_core(
    broker: FakeBroker, settings: Settings, tmp_path: Path
) -> None:
    hard = core_limit(os.getpid())[1]
    process = subprocess.Popen(
        [*modestly(), sys.executable, "-m", "lockstep_client", "run", "--role", "db", "--", "sleep", "60"],
        env={**os.environ, **settings.environment()},
        preexec_fn=lambda: resource.setrlimit(
            resource.RLIMIT_CORE, (resource.getrlimit(resource.RLIMIT_CORE)[1],) * 2
        ),
        stderr=subprocess.PIPE,
        text=True,
    )
    broker.wait_until(lambda: "A-1" in broker.instances and len(broker.instances["A-1"].statements) == 2, 30)
    program = broker.instances["A-1"].statements[1].subject.pid
    assert core_limit(process.pid) == core_limit(program) == ("0", hard)
    assert not shows_its_memory(process.pid)
    assert shows_its_memory(program)  # another program: it is measured, after all
    process.terminate()
    _, err = process.communicate(timeout=20)
    assert "others may read" not in err
