"""Inside a Python child: tells the launcher what is loaded, waits for the credential where it is opened.

Standard library only, and no code of the application before it. Whatever this
says is level *self*: the process could say anything.
"""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import sys
import threading
from types import ModuleType
from typing import Any

QUIET_AFTER = 0.5
"""Seconds without a new module after which the program counts as loaded."""
LOOK_EVERY = 0.1
WAIT_AT_MOST = 60.0
"""Seconds that opening the credential waits for the launcher."""
MOST_HELD_BACK = 10_000
"""Observations that wait until it is known what the broker has appraised; beyond it they are counted as lost."""


class Link:
    """One line of JSON a message, both ways, on a thread of its own."""

    def __init__(self, path: str, credential: str, facts: ModuleType, ours: Any) -> None:
        """`ours` loads modules of this package (`ByPath`)."""
        self._path = path
        self._credential = credential
        self._facts = facts
        self._ours = ours
        self._given = threading.Event()
        self._send_lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._guard: Any = None
        self._approved: Any = None
        self._held_back: list[dict[str, Any]] | None = []

    def open(self) -> None:
        """Connect and begin; also in a forked child, which speaks for itself."""
        self._send_lock = threading.Lock()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self._socket.connect(self._path)
        except OSError:
            self._socket = None
            self._given.set()
            return
        threading.Thread(target=self._run, args=(self._socket,), name="lockstep-link", daemon=True).start()

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        """An audit hook: whoever opens the credential first waits until it has been granted."""
        if event != "open" or self._given.is_set():
            return
        path = arguments[0]
        if isinstance(path, bytes):
            path = os.fsdecode(path)
        if isinstance(path, str) and os.path.basename(path) == os.path.basename(self._credential):
            self._send({"want": True})
            self._given.wait(WAIT_AT_MOST)

    def _run(self, link: socket.socket) -> None:
        self._send(
            {
                "hello": os.getpid(),
                "magic": importlib.util.MAGIC_NUMBER.hex(),
                "check_hashes": getattr(sys.modules["_imp"], "check_hash_based_pycs", "default"),
                "folders": self._facts.site_folders(),
            }
        )
        if not self._given.is_set():
            threading.Thread(target=self._say_when_quiet, name="lockstep-quiet", daemon=True).start()
        try:
            with link.makefile("r", encoding="utf-8") as lines:
                for line in lines:
                    self._obey(json.loads(line))
        except (OSError, ValueError):
            pass  # the launcher is gone: nothing is granted any more, what was granted ends by itself
        self._given.set()

    def _obey(self, order: dict[str, Any]) -> None:
        if order.get("do") == "measure":
            self._watch()
            self._send(
                {
                    "facts": self._facts.module_facts(),
                    "guarded": self._guard is not None,
                    "number": order.get("number"),
                }
            )
        elif order.get("do") == "approve":
            self._approve(order)
        elif order.get("do") == "go":
            self._given.set()

    def _say_when_quiet(self) -> None:
        count, since = -1, 0.0
        while not self._given.is_set() and since < QUIET_AFTER:
            now = len(sys.modules)
            count, since = (now, 0.0) if now != count else (count, since + LOOK_EVERY)
            self._given.wait(LOOK_EVERY)
        self._send({"quiet": count})

    def _watch(self) -> None:
        """From the first measurement on, the guard says what runs."""
        if self._guard is not None:
            return
        try:
            guard = self._ours.module("lockstep_client.guard")
            approved = guard.Approved()
            made = guard.Guard(self._tell, approved, missed=self._missed)
            made.install()
        except Exception:  # noqa: BLE001 - a door: whatever an older interpreter lacks; the launcher says so
            return
        self._approved, self._guard = approved, made

    def _tell(self, seen: Any) -> None:
        item = {
            "kind": seen.kind,
            "digest": seen.digest.hex(),
            "path": seen.path,
            "name": seen.name,
            "size": seen.size,
            "observed_at": seen.observed_at,
        }
        waiting = self._held_back
        if waiting is None:
            self._send({"seen": item})
        elif len(waiting) < MOST_HELD_BACK:
            waiting.append(item)  # until it is known what the broker has appraised
        else:
            self._missed(1)

    def _missed(self, count: int) -> None:
        self._send({"lost": count})

    def _approve(self, order: dict[str, Any]) -> None:
        digests = [bytes.fromhex(text) for text in order.get("digests", ())]
        if self._approved is not None:
            self._approved.add(digests)
        waiting, self._held_back = self._held_back, None
        known = set(order.get("digests", ()))
        for item in waiting or ():
            if item["digest"] not in known:
                self._send({"seen": item})

    def _send(self, message: dict[str, Any]) -> None:
        link = self._socket
        if link is None:
            return
        try:
            with self._send_lock:
                link.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            self._given.set()


def begin(facts: ModuleType, runner: ModuleType, bypath: ModuleType) -> None:
    """Connect, then run the program as if it had been the interpreter's first argument."""
    _, path, credential, wire, mode, target, *arguments = sys.argv
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    ours = bypath.ByPath({"lockstep_client": package, "lockstep": wire})
    link = Link(path, credential, facts, ours)
    link.open()
    if credential:
        sys.addaudithook(link.hook)
    os.register_at_fork(after_in_child=link.open)
    runner.run(mode, target, arguments)
