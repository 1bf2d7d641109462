"""Shells complete both commands: real ones, at a terminal, with the tabulator key."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.actors import PATIENCE, clean_environment

SHELLS = {
    "bash": (["bash", "--noprofile", "--norc", "-i"], 'eval "$({0} completion bash)"'),
    "zsh": (["zsh", "-f", "-i"], 'autoload -U compinit; compinit -D -u; eval "$({0} completion zsh)"'),
    "fish": (["fish", "--no-config", "-i"], "{0} completion fish | source"),
}
_CONTROL = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]|\r|\x07")


class Terminal:
    """A shell that believes that somebody types."""

    def __init__(self, command: list[str], folder: Path) -> None:
        self._keys, terminal = pty.openpty()
        environ = clean_environment({"TERM": "dumb", "HOME": str(folder)})
        environ["PATH"] = f"{Path(sys.executable).parent}:{environ['PATH']}"
        self._shell = subprocess.Popen(
            ["setsid", "--ctty", "--wait", *command],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            cwd=folder,
            env=environ,
        )
        os.close(terminal)
        self._seen = b""

    def type(self, text: str) -> None:
        """Keys."""
        os.write(self._keys, text.encode())

    def see(self, pattern: str) -> None:
        """Wait until it stands there, after what was waited for before."""
        deadline = time.monotonic() + PATIENCE
        while True:
            text = _CONTROL.sub(b"", self._seen).decode(errors="replace")
            if re.search(pattern, text):
                self._seen = b""
                return
            left = deadline - time.monotonic()
            ready, _, _ = select.select([self._keys], [], [], max(0.0, left))
            assert ready, f"not within {PATIENCE:g} s: {pattern}\n{text}"
            self._seen += os.read(self._keys, 65_536)

    def end(self) -> None:
        """A terminal that hangs up ends its shell."""
        os.close(self._keys)
        try:
            self._shell.wait(10)
        except subprocess.TimeoutExpired:
            self._shell.kill()
            self._shell.wait()


@pytest.fixture(params=SHELLS)
def terminal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Terminal, str]]:
    """One of the shells, and how it learns of a command; skipped where it is not on this machine."""
    command, learn = SHELLS[request.param]
    if shutil.which(command[0]) is None:
        pytest.skip(
            f"there is no {command[0]} here (apt-get install {command[0]}): its completion is not tried"
        )
    opened = Terminal(command, tmp_path)
    try:
        yield opened, learn
    finally:
        opened.end()


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("lockstep rec", "lockstep receipts"),
        ("lockstep manifest low", "lockstep manifest lower"),
        ("lockstep leases --stu", "lockstep leases --stuck"),
        ("lockstep get pay --format kub", "--format kubectl"),
        ("lockstep-broker check-c", "lockstep-broker check-config"),
        ("lockstep-broker vault set", "lockstep-broker vault setup"),
    ],
)
def test_a_word_is_completed(terminal: tuple[Terminal, str], typed: str, completed: str) -> None:
    shell, learn = terminal
    shell.type(f"{learn.format(typed.split()[0])}; echo le''arned\r")
    shell.see("^learned|\nlearned")
    shell.type(f"{typed}\t")
    shell.see(re.escape(completed))


def test_commands_are_completed_without_being_imported() -> None:
    code = (
        "import sys; from lockstep_client.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit:\n    pass\n"
        "print(*sorted(name for name in sys.modules if name == 'grpc' or name.startswith('lockstep_client.cli.')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=clean_environment(
            {"_LOCKSTEP_COMPLETE": "bash_complete", "COMP_WORDS": "lockstep re", "COMP_CWORD": "1"}
        ),
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout.splitlines() == [
        *(f"plain,{name}" for name in ("report", "revoke", "revocations", "receipts")),
        "lockstep_client.cli.main",
    ]
