"""Signals to ``lockstep run``: heard while it waits for the broker, and passed on once, whoever sent them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lockstep_client.settings import Settings
from tests.fakes.broker import FakeBroker, unavailable
from tests.unit.client.core.conftest import READ, Run, app

AT_ONCE = 6.0
"""Seconds that an end may take, processes of a busy machine included; nothing here waits so long by itself."""


@pytest.fixture
def away(broker: FakeBroker) -> FakeBroker:
    """It answers, and has not what it needs."""

    def gate(method: str) -> None:
        raise unavailable()

    broker.policy.gate = gate
    return broker


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_waiting_for_the_broker_ends_at_once_while_no_program_runs(
    away: FakeBroker, run: Run, number: signal.Signals
) -> None:
    process = run("--role", "a-token", "--wait", "60", "--", "sleep", "60")
    away.wait_until(lambda: away.calls != [], 20)
    started = time.monotonic()
    process.send_signal(number)
    _, err = process.communicate(timeout=50)
    assert process.returncode == 128 + number, err
    assert time.monotonic() - started < AT_ONCE
    assert "Traceback" not in err


def test_a_window_that_changes_its_size_ends_nothing(away: FakeBroker, run: Run) -> None:
    process = run("--role", "a-token", "--wait", "60", "--", "true")
    away.wait_until(lambda: away.calls != [], 20)
    process.send_signal(signal.SIGWINCH)
    away.policy.gate = lambda method: None
    _, err = process.communicate(timeout=50)
    assert process.returncode == 0, err


def test_a_program_that_waits_for_its_credential_gets_the_signal(
    away: FakeBroker, run: Run, tmp_path: Path
) -> None:
    text = "import signal, os\nsignal.signal(signal.SIGTERM, lambda *_: os._exit(9))\n" + READ
    process = run("--role", "a-token", "--wait", "60", "--", sys.executable, app(tmp_path, text))
    away.wait_until(lambda: away.calls != [], 20)
    started = time.monotonic()
    process.terminate()
    _, err = process.communicate(timeout=50)
    assert process.returncode == 9, err
    assert time.monotonic() - started < AT_ONCE


def test_the_end_of_a_program_that_waits_is_seen_at_once(away: FakeBroker, run: Run, tmp_path: Path) -> None:
    text = "import os, threading\nthreading.Timer(1, os._exit, (4,)).start()\n" + READ
    process = run("--role", "a-token", "--wait", "60", "--", sys.executable, app(tmp_path, text))
    away.wait_until(lambda: away.calls != [], 20)
    started = time.monotonic()
    _, err = process.communicate(timeout=50)
    assert process.returncode == 4, err
    assert time.monotonic() - started < AT_ONCE


# Handlers write by themselves: one that comes in the middle of a print must not print.
COUNTS = (
    "import os, signal\n"
    "told = []\n"
    "def interrupted(*_):\n"
    "    told.append(1)\n"
    "    os.write(1, b'int\\n')\n"
    "def asked(*_):\n"
    "    os.write(1, b'times %d\\n' % len(told))\n"
    "    os._exit(5)\n"
    "signal.signal(signal.SIGINT, interrupted)\n"
    "signal.signal(signal.SIGUSR1, asked)\n" + READ + "while True: signal.pause()\n"
)


def test_an_interrupt_for_the_launcher_alone_is_passed_on(
    broker: FakeBroker, run: Run, tmp_path: Path
) -> None:
    process = run("--role", "a-token", "--", sys.executable, app(tmp_path, COUNTS))
    assert process.stdout is not None
    assert process.stdout.readline().startswith("canary-")
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "int\n"
    process.send_signal(signal.SIGUSR1)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (5, "times 1\n"), err


class Terminal:
    """A program with a terminal of its own; what it writes, and keys for it."""

    def __init__(self, command: list[str], env: dict[str, str], folder: Path) -> None:
        self._master, slave = os.openpty()
        # The first terminal that a new session opens becomes its own.
        opens = 'exec <"$0" >"$0" 2>"$0"; exec "$@"'
        self.process = subprocess.Popen(
            ["/bin/sh", "-c", opens, os.ttyname(slave), *command],
            env=env,
            cwd=folder,
            start_new_session=True,
        )
        self._text = b""
        self._more = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._slave = slave

    def _read(self) -> None:
        while True:
            try:
                found = os.read(self._master, 4096)
            except OSError:
                return
            with self._more:
                self._text += found
                self._more.notify_all()

    def press(self, key: bytes) -> None:
        os.write(self._master, key)

    def shows(self, text: bytes) -> None:
        with self._more:
            assert self._more.wait_for(lambda: text in self._text, 30), self._text.decode()

    @property
    def text(self) -> str:
        return self._text.decode()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        os.close(self._slave)  # the reader hears that nobody is left
        self._reader.join(10)
        os.close(self._master)


@pytest.fixture
def terminal(settings: Settings, tmp_path: Path) -> Iterator[Terminal]:
    command = [sys.executable, "-m", "lockstep_client", "run", "--role", "a-token", "--"]
    program = app(tmp_path, COUNTS)
    env = {**os.environ, **settings.environment()}
    made = Terminal([*command, sys.executable, program], env, tmp_path)
    yield made
    made.close()


def test_a_terminals_interrupt_reaches_the_program_once(broker: FakeBroker, terminal: Terminal) -> None:
    terminal.shows(b"canary-")
    terminal.press(b"\x03")
    terminal.shows(b"int")
    terminal.process.send_signal(signal.SIGUSR1)
    terminal.shows(b"times")
    assert terminal.process.wait(20) == 5
    assert "times 1" in terminal.text
