"""The demo tells the truth: what it says has happened, and it leaves nothing behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.actors import clean_environment, commands_with, until

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """Plays it once, in a temporary folder of its own; what it recorded, and the folder."""
    folder = tmp_path_factory.mktemp("demo")
    done = subprocess.run(
        [sys.executable, "examples/demo/run.py", "--json"],
        cwd=ROOT,
        env=clean_environment({"TMPDIR": str(folder)}),
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), folder


def said(act: dict[str, Any], who: str, *parts: str) -> list[float]:
    """When somebody said something with these parts, in milliseconds."""
    return [
        item["ms"]
        for item in act["moments"]
        if item["who"] == who and all(part in item["what"] for part in parts)
    ]


def test_a_plugin_that_is_imported_costs_the_credential(stage: tuple[dict[str, Any], Path]) -> None:
    act = stage[0]["act_one"]

    assert said(act, "broker", "denied")
    assert said(act, "shop", "told", "banned") or said(act, "shop", "told", "secrets dropped")
    assert said(act, "shop", "has no credential")
    assert said(act, "orders", "refuses", "401")
    assert min(said(act, "broker", "denied")) < min(said(act, "orders", "refuses", "401"))
    assert act["receipt"]["leases"] == 1
    assert act["receipt"]["unconfirmed"] == []


def test_a_webhook_alone_is_enough(stage: tuple[dict[str, Any], Path]) -> None:
    act = stage[0]["act_two"]

    assert said(act, "webhook", "answered: applied")
    assert said(act, "shop", "told")
    assert said(act, "orders", "refuses", "401")
    assert act["receipt"]["leases"] == 1
    assert min(said(act, "broker", "denied")) < min(said(act, "shop", "told"))


def test_the_steps_of_a_receipt_are_in_order(stage: tuple[dict[str, Any], Path]) -> None:
    for act in ("act_one", "act_two"):
        steps = stage[0][act]["receipt"]["steps"]
        assert [step["at"] for step in steps] == sorted(step["at"] for step in steps)
        assert steps[-1]["name"] == "confirmed"


@pytest.fixture
def _heard() -> Iterator[None]:
    """A run in the background of a shell ignores an interrupt, and so would all that it starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_heard")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_nothing_is_left_behind_by_one_that_is_ended(tmp_path: Path, how: signal.Signals) -> None:
    playing = subprocess.Popen(
        [sys.executable, "examples/demo/run.py"],
        cwd=ROOT,
        env=clean_environment({"TMPDIR": str(tmp_path)}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with playing:
        assert playing.stdout is not None
        assert playing.stderr is not None
        for line in playing.stdout:
            if "ready in" in line:  # a broker runs, and a manifest is being built
                break
        playing.send_signal(how)
        playing.stdout.read()
        said = playing.stderr.read()
        assert playing.wait(20) == 128 + how
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []
    # Workers of a command were killed with it, and it is the kernel's turn.
    until(lambda: commands_with(str(tmp_path)) == [], "every process has ended")


def test_nothing_is_left_behind(stage: tuple[dict[str, Any], Path]) -> None:
    folder = stage[1]
    assert list(folder.iterdir()) == []
    assert commands_with(str(folder)) == []
