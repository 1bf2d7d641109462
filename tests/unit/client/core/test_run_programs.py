"""What ``lockstep run`` is given to run: what cannot be is refused in one line, and every way of Python's works."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.fakes.broker import FakeBroker
from tests.unit.client.core.conftest import READ, Run, app


def executable(folder: Path, content: bytes, name: str = "program", mode: int = 0o755) -> str:
    """A file that one may try to execute."""
    path = folder / name
    path.write_bytes(content)
    path.chmod(mode)
    return str(path)


@pytest.mark.parametrize("output", ["file", "fd"])
def test_what_the_kernel_does_not_execute_is_one_line_and_nothing_stays_granted(
    broker: FakeBroker, run: Run, tmp_path: Path, output: str
) -> None:
    program = executable(tmp_path, b"no machine's code\n")
    process = run("--role", "a-token", "--output", output, "--", program)
    out, err = process.communicate(timeout=40)
    assert (process.returncode, out) == (2, ""), err
    assert err.splitlines()[-1] == f"lockstep: {program}: cannot be executed: Exec format error"
    assert "Traceback" not in err
    assert broker.leases == {}


@pytest.mark.parametrize(
    "content",
    [b"\x7fELF", b"#!/bin/sh\nexit 0\n", f"#!{sys.executable}\nprint(1)\n".encode()],
    ids=["program", "script", "python"],
)
def test_a_file_without_the_permission_is_refused_before_anybody_is_asked(
    broker: FakeBroker, run: Run, tmp_path: Path, content: bytes
) -> None:
    program = executable(tmp_path, content, mode=0o644)
    process = run("--role", "a-token", "--", program)
    out, err = process.communicate(timeout=40)
    assert (process.returncode, out) == (2, ""), err
    assert err == f"lockstep: {program}: Permission denied\n"
    assert broker.calls == []


def test_what_python_reads_needs_no_such_permission(broker: FakeBroker, run: Run, tmp_path: Path) -> None:
    process = run("--role", "a-token", "--", sys.executable, app(tmp_path, READ))
    out, err = process.communicate(timeout=40)
    assert process.returncode == 0, err
    assert out.startswith("canary-")
