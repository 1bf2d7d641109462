"""What ``lockstep run`` is given to run: what cannot be is refused in one line, and every way of Python's works."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipapp
from pathlib import Path

import pytest

from lockstep.v1 import evidence_pb2 as ev
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


MAIN = "import sys, prices\n" + READ + "print(sys.argv, sys.path[0], __name__, __spec__.name, prices.TEA)\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A program as a folder: what ``python -m zipapp`` takes, too."""
    made = tmp_path / "shop"
    made.mkdir()
    (made / "__main__.py").write_text(MAIN)
    (made / "prices.py").write_text("TEA = 3\n")
    return made


@pytest.mark.parametrize("how", ["folder", "zipapp", "zipapp of its own"])
def test_a_folder_and_an_archive_run_as_in_python(
    broker: FakeBroker, run: Run, tmp_path: Path, folder: Path, how: str
) -> None:
    target = folder
    if how != "folder":
        target = tmp_path / "shop.pyz"
        zipapp.create_archive(folder, target, interpreter=sys.executable)
    command = [str(target)] if how == "zipapp of its own" else [sys.executable, str(target)]

    plain = subprocess.run(
        [*command, "x"],
        env={**os.environ, "LOCKSTEP_CREDENTIAL_FILE": os.devnull, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    out, err = (process := run("--role", "a-token", "--", *command, "x")).communicate(timeout=40)
    assert process.returncode == 0, err

    credential, said = out.splitlines()
    assert credential.startswith("canary-")
    assert said == plain.stdout.splitlines()[1] == f"['{target}', 'x'] {target} __main__ __main__ 3"
    statement = broker.instances["A-1"].statements[0]
    found = {item.kind: set(item.digests) for item in statement.units}
    if how == "folder":
        files = [target / "__main__.py", target / "prices.py"]
        assert {sha(file) for file in files} <= found[ev.UNIT_KIND_PYTHON_SOURCE]
    else:
        assert found[ev.UNIT_KIND_PYTHON_ARCHIVE] == {sha(target)}
        assert sha(target) not in found.get(ev.UNIT_KIND_SCRIPT, set())
    assert list(statement.unknown) == []


def test_an_archive_is_known_before_it_runs_where_the_credential_comes_first(
    broker: FakeBroker, run: Run, tmp_path: Path, folder: Path
) -> None:
    target = tmp_path / "shop.pyz"
    (folder / "__main__.py").write_text("import os\nprint(os.environ['LOCKSTEP_TOKEN'])\n")
    zipapp.create_archive(folder, target)
    process = run("--role", "a-token", "--output", "env", "--", sys.executable, str(target))
    out, err = process.communicate(timeout=40)
    assert process.returncode == 0, err
    assert out.startswith("canary-")
    found = {item.kind: set(item.digests) for item in broker.instances["A-1"].statements[0].units}
    assert found[ev.UNIT_KIND_PYTHON_ARCHIVE] == {sha(target)}


def sha(path: Path) -> bytes:
    """Of a file."""
    return hashlib.sha256(path.read_bytes()).digest()
