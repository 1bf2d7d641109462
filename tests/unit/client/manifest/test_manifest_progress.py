"""Progress, as a person at a terminal sees it: the real command on a real pseudo-terminal."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.actors import clean_environment

FILES = 1_500
"""More than are hashed at a stroke."""
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def build(folder: Path, out: Path, *options: str) -> tuple[str, str]:
    """(what the terminal showed on standard error, standard output)."""
    terminal, stderr = os.openpty()
    command = [sys.executable, "-m", "lockstep_client", "manifest", "build", "-a", "pay", *options]
    environment = clean_environment({"TERM": "xterm-256color", "COLUMNS": "120"})
    with subprocess.Popen(
        [*command, "--site-packages", str(folder), "-o", str(out)],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    ) as process:
        os.close(stderr)
        shown = bytearray()
        try:
            while piece := os.read(terminal, 65_536):
                shown += piece
        except OSError:  # how Linux says that nobody holds the other end any more
            pass
        finally:
            os.close(terminal)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, shown
    return _CONTROL.sub("", shown.decode()), said


@pytest.fixture
def many(site: Any) -> Path:
    for number in range(FILES):
        (site.folder / f"m{number}.py").write_text(f"n = {number}\n")
    found: Path = site.folder
    return found


def test_a_terminal_sees_how_far_it_is(many: Path, tmp_path: Path) -> None:
    shown, said = build(many, tmp_path / "out.json")
    counts = [(int(done), int(total)) for done, total in re.findall(r"hashing .*?(\d+)/(\d+)", shown)]
    assert counts, shown
    assert counts[-1] == (FILES, FILES)
    assert [done for done, _ in counts] == sorted(done for done, _ in counts)
    assert f"wrote {tmp_path / 'out.json'}: pay@1" in said
    assert "hashing" not in said


def test_programs_see_none(many: Path, tmp_path: Path) -> None:
    shown, _ = build(many, tmp_path / "out.json", "--json")
    assert "hashing" not in shown
