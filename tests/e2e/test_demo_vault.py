"""The demo with a database tells the truth: login and session were there, and are gone; nothing is left behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.actors import clean_environment, commands_with

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """Plays it once, in a temporary folder of its own; what it recorded, and the folder."""
    folder = tmp_path_factory.mktemp("demo-vault")
    # PostgreSQL does not run as root: whoever it runs as must get through to its folder.
    for path in (folder, *folder.parents[:2]):
        path.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "examples/demo/vault.py", "--json"],
        cwd=ROOT,
        env=clean_environment({"TMPDIR": str(folder)}),
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), folder


@pytest.mark.timeout(120)
def test_an_open_session_is_cut_and_the_login_is_refused(played: tuple[dict[str, Any], Path]) -> None:
    act = played[0]["act"]
    said = {item["what"].partition(":")[0]: item["ms"] for item in act["moments"]}
    assert said["denied"] < said["the server closed the open session"] < said["cannot book"]
    assert "refuses the copy of the login" in said
    assert act["receipt"]["unconfirmed"] == []
    assert act["receipt"]["leases"] == 1
    names = [step["name"] for step in act["receipt"]["steps"]]
    assert {"denied", "frozen", "cut", "cleaned", "drained", "closed", "gone", "confirmed"} <= set(names)
    assert act["username"].startswith("ls-A-")


def test_the_servers_say_the_same(played: tuple[dict[str, Any], Path]) -> None:
    assert played[0]["left"] == {"roles": 0, "leases": []}


def test_nothing_is_left_behind(played: tuple[dict[str, Any], Path]) -> None:
    folder = played[1]
    assert list(folder.iterdir()) == []
    assert commands_with(str(folder)) == []
