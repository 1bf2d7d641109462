"""The processes of the demo, and the lines that they say."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PATIENCE = 20.0
"""Seconds that any one step may take before the demo gives up and says which."""


class StageError(RuntimeError):
    """A step of the demo did not come about; the message says which and what was heard."""


class Actor:
    """One process that answers in JSON lines on standard output."""

    def __init__(self, name: str, command: Sequence[str], env: Mapping[str, str]) -> None:
        self.name = name
        self._process = subprocess.Popen(
            command,
            env={**os.environ, **env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._lines: queue.Queue[dict[str, Any] | None] = queue.Queue(1000)
        self._unasked: list[dict[str, Any]] = []
        self._noise: list[str] = []
        self._readers = [
            threading.Thread(target=self._read, daemon=True),
            threading.Thread(target=self._drain, daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with contextlib.suppress(ValueError):
                self._lines.put(json.loads(line))
        self._lines.put(None)

    def _drain(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._noise = [*self._noise[-40:], line]

    def tell(self, *words: str) -> None:
        """Write one line to its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(words) + "\n")
        self._process.stdin.flush()

    def hear(self, *events: str, patience: float = PATIENCE) -> dict[str, Any]:
        """The first line not heard yet whose ``event`` is one of `events` (any line where none is named)."""
        for index, line in enumerate(self._unasked):
            if not events or line.get("event") in events:
                return self._unasked.pop(index)
        deadline = time.monotonic() + patience
        while True:
            try:
                heard = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise StageError(
                    self._complaint(f"said no {' or '.join(events)} in {patience:.0f} s")
                ) from None
            if heard is None:
                raise StageError(self._complaint("ended"))
            line = heard
            if not events or line.get("event") in events:
                return line
            self._unasked.append(line)

    def _complaint(self, what: str) -> str:
        return f"{self.name} {what}\n{''.join(self._noise)}".rstrip()

    def wait(self) -> int:
        """Its exit status, once it has ended."""
        return self._process.wait(PATIENCE)

    def end(self) -> None:
        """Terminate, and insist after a while."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(10)
        for reader in self._readers:
            reader.join(5)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Signals to leave are obeyed after the block: whoever leaves must know what has begun."""
    came: list[int] = []
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, lambda told, _: came.append(told)) for number in numbers}
    try:
        yield
    finally:
        for number, obey in before.items():
            signal.signal(number, obey)
        for number in came:
            signal.raise_signal(number)


@contextlib.contextmanager
def acting(name: str, command: Sequence[str], env: Mapping[str, str]) -> Iterator[Actor]:
    """An actor that ends with the block."""
    with contextlib.ExitStack() as stack:
        with undisturbed():
            actor = Actor(name, command, env)
            stack.callback(actor.end)
        yield actor


@contextlib.contextmanager
def plugin_market() -> Iterator[str]:
    """Serves plugin.py on loopback; yields its URL."""
    body = (HERE / "market" / "plugin.py").read_bytes()

    class Shelf(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Shelf)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/plugin.py"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def run(command: Sequence[str], env: Mapping[str, str]) -> str:
    """A command that must succeed; its standard output."""
    with contextlib.ExitStack() as stack:
        with undisturbed():
            process = stack.enter_context(
                subprocess.Popen(
                    command,
                    env={**os.environ, **env},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    process_group=0,  # it has workers, which end with it
                )
            )
            stack.callback(_end_group, process)
        out, err = process.communicate(timeout=60)
    if process.returncode:
        raise StageError(f"$ {' '.join(command)}\nexit {process.returncode}\n{out}{err}".rstrip())
    return out


def _end_group(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


def beside(name: str) -> str:
    """A console script of this interpreter's environment."""
    return str(Path(sys.executable).with_name(name))
