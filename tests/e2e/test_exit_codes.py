"""Every command ends with the code that its page promises: 75 nobody there, 78 denied, 2 a wrong command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.actors import clean_environment
from tests.support.brokers import Broker
from tests.support.commands import ALL
from tests.support.wire import envelope

DECISION = "D-01m8gm6kxb151rkwjyfr8ptznc"

ASKING = {
    "run": ["--role", "app", "--wait", "0", "--", "true"],
    "get": ["app"],
    "wait": ["--timeout", "0s", "--role", "app"],
    "manifest publish": ["signed.dsse.json"],
    "manifest approve": ["--from", DECISION, "--yes"],
    "manifest diff": ["app@1", "app@2"],
    "manifest list": [],
    "manifest show": ["app@1"],
    "manifest retire": ["app@1", "--reason", "r", "--yes"],
    "manifest withdraw": ["app@1", "--reason", "r", "--yes"],
    "manifest lower": ["app", "--to", "1", "--reason", "r", "--yes"],
    "explain": [DECISION],
    "report": [],
    "attestations": [],
    "leases": [],
    "detections": [],
    "detections approve": ["R-01m8gm6kxb151rkwjyfr8ptznc", "--reason", "r"],
    "detections dismiss": ["R-01m8gm6kxb151rkwjyfr8ptznc", "--reason", "r"],
    "revoke": ["--identity", "spiffe://nobody.invalid/x", "--reason", "r"],
    "revocations lift": ["V-01m8gm6kxb151rkwjyfr8ptznc", "--reason", "r"],
    "revocations": [],
    "revocations proposals": [],
    "revocations withdraw": ["V-01m8gm6kxb151rkwjyfr8ptznc", "--reason", "r"],
    "receipts": ["V-01m8gm6kxb151rkwjyfr8ptznc"],
    "watch": ["--for", "1"],
    "status": [],
}
"""How each command that asks a broker is called by somebody who may not."""
LOCAL = {"audit verify", "manifest build", "manifest sign", "manifest verify", "manifest index", "completion"}
OPEN = {"status"}
"""Anybody's: it grants nothing and shows nothing."""
HIDDEN = {"explain", "manifest approve"}
"""What is not yours is not there: whether there is such a decision is nobody else's business."""


@pytest.fixture(scope="module")
def stranger(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], Path]:
    """An environment of an identity that may do nothing, and a folder with a manifest that nobody's key signed."""
    folder = tmp_path_factory.mktemp("stranger")
    (folder / "signed.dsse.json").write_bytes(envelope(broker, "unit", version=9_000))
    nobody = str(broker.token_file("nobody"))
    env = broker.env("nobody", LOCKSTEP_OPERATOR_TOKEN_FILE=nobody)
    return env, folder


def lockstep(folder: Path, env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lockstep_client", *arguments],
        env=clean_environment(env),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=45,
        check=False,
    )


def test_every_command_is_tried() -> None:
    ours = {name.removeprefix("lockstep ") for name, _ in ALL if name.startswith("lockstep ")}
    assert ours == ASKING.keys() | LOCAL


@pytest.mark.parametrize("name", ASKING)
def test_nobody_there_is_75(name: str, stranger: tuple[dict[str, str], Path]) -> None:
    env, folder = stranger
    done = lockstep(folder, {**env, "LOCKSTEP_ADDRESS": "127.0.0.1:1"}, *name.split(), *ASKING[name])
    assert done.returncode == 75, done.stderr
    assert "127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", [name for name in ASKING if name not in OPEN])
def test_denied_is_78(name: str, stranger: tuple[dict[str, str], Path]) -> None:
    env, folder = stranger
    done = lockstep(folder, env, *name.split(), *ASKING[name])
    assert done.returncode == (1 if name in HIDDEN else 78), done.stdout + done.stderr
    assert ("or it is not yours" in done.stderr) == (name in HIDDEN)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", [*ASKING, *sorted(LOCAL)])
def test_a_wrong_command_line_is_2_and_asks_nobody(name: str, tmp_path: Path) -> None:
    done = lockstep(tmp_path, {}, *name.split(), "--no-such-option")
    assert done.returncode == 2, done.stdout + done.stderr
    assert f"Try 'lockstep {name}" in done.stderr


@pytest.mark.parametrize("name", ASKING)
def test_a_missing_setting_is_2_and_says_which(name: str, stranger: tuple[dict[str, str], Path]) -> None:
    env, folder = stranger
    kept = {key: value for key, value in env.items() if key != "LOCKSTEP_ADDRESS"}
    done = lockstep(folder, kept, *name.split(), *ASKING[name])
    assert done.returncode == 2, done.stdout + done.stderr
    assert "LOCKSTEP_ADDRESS" in done.stderr


@pytest.mark.parametrize("name", [name for name, _ in ALL if name.startswith("lockstep-broker ")])
def test_a_wrong_command_line_of_the_broker_is_2(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "broker", *name.split()[1:], "--no-such-option"],
        env=clean_environment({}),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=45,
        check=False,
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Try '" in done.stderr
