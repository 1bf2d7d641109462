"""One Python process of the child's tree, as its launcher speaks with it: orders out, answers in, nobody waited for."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterable, Mapping
from queue import SimpleQueue
from typing import Any

from lockstep_client.measure.launch import Modules
from lockstep_client.measure.modules import Interpreter


class Peer:
    """`pid` is the kernel's word, the rest its own.

    Orders are sent by a thread of its own: a process that was stopped, or is
    in a long call, must not hold up those who speak to all of them.
    """

    def __init__(self, pid: int, link: socket.socket) -> None:
        self.pid = pid
        self.link = link
        self.magic = b""
        self.check_hashes = "default"
        self.folders: tuple[str, ...] = ()
        self.guarded = False
        self._orders: SimpleQueue[bytes | None] = SimpleQueue()
        self._heard = threading.Condition()
        self._asked = 0
        self._answer: list[Any] | None = None
        self._gone = False
        threading.Thread(target=self._send, name="lockstep-orders", daemon=True).start()

    def tell(self, order: Mapping[str, object]) -> None:
        """Send one order, in turn; does not wait for it."""
        self._orders.put(json.dumps(order).encode() + b"\n")

    def ask(self) -> None:
        """Ask what it has loaded now; `modules` waits for the answer."""
        with self._heard:
            self._asked += 1
            self._answer = None
            number = self._asked
        self.tell({"do": "measure", "number": number})

    def answer(self, number: int, facts: Iterable[Any]) -> None:
        """What it said. The answer to an earlier question is none to this one: it may have loaded more since."""
        with self._heard:
            if number == self._asked:
                self._answer = list(facts)
                self._heard.notify_all()

    def modules(self, until: float) -> Modules | None:
        """The answer to the last question; None where there is none by `until` (``time.monotonic`` seconds)."""
        with self._heard:
            self._heard.wait_for(
                lambda: self._answer is not None or self._gone, max(0.0, until - time.monotonic())
            )
            facts = self._answer
        if facts is None:
            return None
        try:
            return Modules(
                [_fact(item) for item in facts], self.folders, Interpreter(self.magic, self.check_hashes)
            )
        except (ValueError, TypeError):
            return None

    def end(self) -> None:
        """The link is over."""
        with self._heard:
            self._gone = True
            self._heard.notify_all()
        self._orders.put(None)
        try:
            self.link.shutdown(socket.SHUT_RDWR)  # also ends what is blocked in it
        except OSError:
            pass  # the other side was quicker
        self.link.close()

    def _send(self) -> None:
        while (order := self._orders.get()) is not None:
            try:
                self.link.sendall(order)
            except OSError:
                return  # it is gone; the reader sees that too


def _fact(item: Any) -> tuple[str, str, str, tuple[str, ...], str]:
    how, name, path, cached, reason = item
    return str(how), str(name), str(path), tuple(str(one) for one in cached), str(reason)
