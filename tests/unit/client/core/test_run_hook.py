"""The hook inside a child of ``lockstep run``: there without our package, and missed aloud where it cannot be."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from lockstep.v1 import evidence_pb2 as ev
from tests.fakes.broker import FakeBroker
from tests.unit.client.core.conftest import READ, Run, app

LATER = READ + (
    "import sys\n"
    "print(sorted(name for name in sys.modules if name.partition('.')[0] in ('lockstep', 'lockstep_client')))\n"
    "sys.stdout.flush()\n"
    "sys.stdin.readline()\n"
    "import comes_later\n"
    "sys.stdin.readline()\n"
)
BARE = ("-S", "-E")


def said(process: subprocess.Popen[str], lines: int) -> list[str]:
    """The next lines of its standard output."""
    assert process.stdout is not None
    return [process.stdout.readline() for _ in range(lines)]


def press(process: subprocess.Popen[str]) -> None:
    """Let it go on."""
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.mark.parametrize("options", [(), BARE], ids=["with our package", "without"])
def test_code_that_comes_later_is_reported(
    broker: FakeBroker, run: Run, tmp_path: Path, options: tuple[str, ...]
) -> None:
    later = Path(app(tmp_path, "X = 1\n", "comes_later.py"))
    digest = hashlib.sha256(later.read_bytes()).digest()
    program = app(tmp_path, LATER)
    process = run("--role", "a-token", "--", sys.executable, *options, program)
    credential, ours = said(process, 2)
    assert credential.startswith("canary-")
    # What watches the program is not in its way: these names are still free.
    assert ours == "[]\n"
    assert broker.reports == []
    press(process)
    broker.wait_until(lambda: any(item.object.digest == digest for item in broker.reports))
    _, err = process.communicate("\n", timeout=20)
    assert process.returncode == 0, err
    assert "reported  comes_later" in err
    assert "no hook" not in err
    # It is code in the child like any other, and measured.
    first = broker.instances["A-1"].statements[0]
    hints = {hint.name: hint.digest for hint in first.hints}
    guard = hints["_lockstep_client.guard.watch"]
    assert any(guard in item.digests for item in first.units if item.kind != ev.UNIT_KIND_UNSPECIFIED)
    assert list(first.unknown) == []


def test_a_child_without_a_hook_is_named(broker: FakeBroker, run: Run, tmp_path: Path) -> None:
    # An interpreter that lacks what the guard needs, as older ones do.
    program = app(tmp_path, "import enum\ndel enum.StrEnum\n" + READ + "print(os.getpid())\n")
    process = run("--role", "a-token", "--", sys.executable, program)
    out, err = process.communicate(timeout=40)
    assert process.returncode == 0, err
    pid = out.split()[1]
    assert f"process {pid} has no hook" in err
    assert err.count("no hook") == 1
