"""Processes of a test that answer in JSON lines on standard output, each with a deadline for every answer."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

PATIENCE = 20.0
"""Seconds that any one event may take."""


class Missing(AssertionError):
    """An event did not come in time; says which, and what was heard instead."""


def until(look: Callable[[], Any], what: str, within: float = PATIENCE, pause: float = 0.02) -> Any:
    """The first true answer of `look`, for what announces itself to nobody; bounded by `within` seconds."""
    deadline = time.monotonic() + within
    waiting = threading.Event()
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise Missing(f"not within {within:.0f} s: {what}")
        waiting.wait(pause)


def clean_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without settings of the house, and `extra`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LOCKSTEP_")}
    # Bytecode is what gets measured: whether it is written must not depend on who runs the tests.
    kept.pop("PYTHONDONTWRITEBYTECODE", None)
    return {**kept, **extra}


class Actor:
    """One process; what it says on standard output as JSON objects is an event by its ``event``."""

    def __init__(self, name: str, command: Sequence[str], env: Mapping[str, str]) -> None:
        self.name = name
        self._process = subprocess.Popen(
            command,
            env=clean_environment(env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._lines: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._unasked: list[dict[str, Any]] = []
        self._noise: list[str] = []
        self._readers = [threading.Thread(target=read, daemon=True) for read in (self._read, self._drain)]
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def noise(self) -> str:
        """What it wrote to standard error so far."""
        return "".join(self._noise)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                self._lines.put(json.loads(line))
            except ValueError:
                self._noise.append(line)
        self._lines.put(None)

    def _drain(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._noise.append(line)

    def tell(self, *words: str) -> None:
        """One line to its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(words) + "\n")
        self._process.stdin.flush()

    def hear(self, *events: str, within: float = PATIENCE) -> dict[str, Any]:
        """The first line not heard yet whose ``event`` is one of `events`."""
        for index, line in enumerate(self._unasked):
            if line.get("event") in events:
                return self._unasked.pop(index)
        deadline = time.monotonic() + within
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise Missing(self._complaint(f"said no {' or '.join(events)} in {within:.0f} s")) from None
            if line is None:
                raise Missing(self._complaint(f"ended before {' or '.join(events)}"))
            if line.get("event") in events:
                return line
            self._unasked.append(line)

    def ask(self, *words: str, within: float = PATIENCE) -> dict[str, Any]:
        """Tell, and the ``answer`` to it."""
        self.tell(*words)
        return self.hear("answer", within=within)

    def _complaint(self, what: str) -> str:
        return f"{self.name} {what}; heard {self._unasked}\n{self.noise[-4000:]}".rstrip()

    def wait(self, within: float = PATIENCE) -> int:
        """Its exit status, once it has ended."""
        try:
            return self._process.wait(within)
        except subprocess.TimeoutExpired:
            raise Missing(self._complaint(f"did not end in {within:.0f} s")) from None

    def signal(self, number: int) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def end(self) -> None:
        """Terminate, insist after a while, and close what was opened."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(5)
        for reader in self._readers:
            reader.join(5)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


@contextlib.contextmanager
def acting(name: str, command: Sequence[str], env: Mapping[str, str]) -> Iterator[Actor]:
    """An actor that ends with the block."""
    actor = Actor(name, command, env)
    try:
        yield actor
    finally:
        actor.end()


def commands_with(text: str) -> list[str]:
    """Command lines of the processes of this machine that have a text in them."""
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            command = (process / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue  # it has just ended
        if text in command:
            found.append(command)
    return found
