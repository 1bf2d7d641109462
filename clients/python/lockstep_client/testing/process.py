"""``lockstep-broker dev`` as a process of its own; the broker has to be installed, and is never imported."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from lockstep_client.errors import Unavailable

READY_WITHIN = 20.0
"""Seconds that a start may take."""
_STOP_WITHIN = 10.0


class BrokerProcess:
    """Starts, stops, pauses and crashes; its state and its addresses stay over all of that."""

    def __init__(self, folder: Path, options: Sequence[str] = ()) -> None:
        self.folder = folder
        self._options = tuple(options)
        self._process: subprocess.Popen[str] | None = None
        self._facts: Mapping[str, object] = {}
        self._log = folder.parent / f"{folder.name}.log"

    def start(self, timeout: float = READY_WITHIN) -> None:
        """Start, or start again over the same state, and wait until it is ready. Raises `Unavailable`."""
        command = [sys.executable, "-m", "broker", "dev", "--json", "--folder", str(self.folder)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("LOCKSTEP_")}
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                [*command, *self._options], stdout=subprocess.PIPE, stderr=log, text=True, env=environment
            )
        self._process = process
        line = _first_line(process, timeout)
        try:
            self._facts = json.loads(line)
        except ValueError:
            self.kill()
            raise Unavailable(
                f"the broker is not ready after {timeout:g} s, or has ended: {self.log()[-2000:]}"
            ) from None

    @property
    def address(self) -> str:
        """``host:port`` of the gRPC door."""
        return str(self._facts["address"])

    @property
    def mtls_address(self) -> str:
        """``host:port`` of the gRPC door that asks for a client certificate."""
        return str(self._facts["mtls_address"])

    @property
    def http_url(self) -> str:
        """The HTTP door."""
        return str(self._facts["http_url"])

    @property
    def env(self) -> dict[str, str]:
        """``LOCKSTEP_*`` for clients, operators included."""
        found = self._facts["env"]
        return {str(name): str(value) for name, value in found.items()} if isinstance(found, dict) else {}

    @property
    def pid(self) -> int:
        """Of the process; 0 while there is none."""
        return self._process.pid if self._process is not None else 0

    def log(self) -> str:
        """What it wrote to its standard error."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def pause(self) -> None:
        """Hold it in the middle of whatever it does, with every connection open. Raises `Unavailable` without one."""
        if self._process is None or self._process.poll() is not None:
            raise Unavailable("there is no broker that could be paused")
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        """Let it go on; nothing where it is not paused."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """Ask it to end in order, and wait; killed where it does not."""
        self.resume()  # a paused one hears nothing
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(_STOP_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        _close(process.stdout)

    def kill(self) -> None:
        """End it without asking, as a crash would."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            _close(process.stdout)


def _first_line(process: subprocess.Popen[str], timeout: float) -> str:
    """The first line, or nothing after `timeout` seconds; the rest is read and dropped, so that it never blocks."""
    lines: queue.Queue[str] = queue.Queue()

    def read(stream: IO[str]) -> None:
        lines.put(stream.readline())
        try:
            for _ in stream:
                pass
        except ValueError:
            pass  # closed by `stop`

    assert process.stdout is not None  # noqa: S101 - asked for above
    threading.Thread(target=read, args=(process.stdout,), daemon=True).start()
    try:
        return lines.get(timeout=timeout)
    except queue.Empty:
        return ""


def _close(stream: IO[str] | None) -> None:
    if stream is not None:
        stream.close()
