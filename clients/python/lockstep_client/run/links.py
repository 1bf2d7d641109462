"""The launcher's end: a private socket on which every Python process of the child's tree says what it loaded."""

from __future__ import annotations

import json
import logging
import queue
import socket
import struct
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lockstep_client.measure.launch import Modules
from lockstep_client.measure.modules import Interpreter

log = logging.getLogger("lockstep")

ANSWER_WITHIN = 10.0
"""Seconds that a child gets to say what it has loaded."""
_LONGEST = 64 * 1024 * 1024
_CREDENTIALS = struct.Struct("3i")


@dataclass(frozen=True, slots=True)
class Seen:
    """An observation of the guard in the child, as it crossed the socket."""

    kind: str
    digest: bytes
    path: str
    name: str
    size: int
    observed_at: float


@dataclass(slots=True)
class Peer:
    """One Python process. `pid` is the kernel's word, the rest its own."""

    pid: int
    link: socket.socket
    magic: bytes = b""
    check_hashes: str = "default"
    folders: tuple[str, ...] = ()
    guarded: bool = False
    answers: queue.Queue[list[Any]] = field(default_factory=lambda: queue.Queue(4))
    lock: threading.Lock = field(default_factory=threading.Lock)

    def tell(self, order: Mapping[str, object]) -> bool:
        """Send one order; False where the process is gone."""
        try:
            with self.lock:
                self.link.sendall(json.dumps(order).encode() + b"\n")
        except OSError:
            return False
        return True

    def modules(self) -> Modules | None:
        """What it has loaded now; None where it does not answer."""
        while not self.answers.empty():
            self.answers.get_nowait()
        if not self.tell({"do": "measure"}):
            return None
        try:
            facts = self.answers.get(timeout=ANSWER_WITHIN)
            return Modules(
                [_fact(item) for item in facts], self.folders, Interpreter(self.magic, self.check_hashes)
            )
        except (queue.Empty, ValueError, TypeError):
            return None


class Links:
    """Listens in a private folder. `wanted` is called when a process asks, or has finished loading."""

    def __init__(self, folder: Path, wanted: Callable[[], None], seen: Callable[[Seen], None]) -> None:
        self.path = str(folder / "link")
        self._wanted = wanted
        self._seen = seen
        self._lock = threading.Lock()
        self._peers: dict[int, Peer] = {}
        self._approved: dict[str, object] | None = None
        self._gone = False
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(self.path)
        self._listener.listen(64)
        threading.Thread(target=self._accept, name="lockstep-links", daemon=True).start()

    def peers(self) -> tuple[Peer, ...]:
        """Every process that is connected."""
        with self._lock:
            return tuple(self._peers.values())

    def approve(self, digests: Collection[bytes]) -> None:
        """What the broker has appraised is no news; later processes are told the same."""
        order: dict[str, object] = {"do": "approve", "digests": [item.hex() for item in digests]}
        with self._lock:
            self._approved = order
        for peer in self.peers():
            peer.tell(order)

    def go(self) -> None:
        """The credential is there."""
        with self._lock:
            self._gone = True
        for peer in self.peers():
            peer.tell({"do": "go"})

    def close(self) -> None:
        """End every link."""
        self._listener.close()
        for peer in self.peers():
            peer.link.close()

    def _accept(self) -> None:
        while True:
            try:
                link, _ = self._listener.accept()
            except OSError:
                return
            raw = link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            pid, _, _ = _CREDENTIALS.unpack(raw)
            threading.Thread(target=self._serve, args=(Peer(pid, link),), daemon=True).start()

    def _serve(self, peer: Peer) -> None:
        try:
            with peer.link.makefile("r", encoding="utf-8") as lines:
                while line := lines.readline(_LONGEST):
                    self._take(peer, json.loads(line))
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.debug("the link to %d ended: %s", peer.pid, type(error).__name__)
        finally:
            with self._lock:
                if self._peers.get(peer.pid) is peer:
                    del self._peers[peer.pid]
            peer.link.close()

    def _take(self, peer: Peer, message: dict[str, Any]) -> None:
        if "hello" in message:
            peer.magic = bytes.fromhex(message["magic"])
            peer.check_hashes = str(message["check_hashes"])
            peer.folders = tuple(str(item) for item in message["folders"])
            with self._lock:
                self._peers[peer.pid] = peer
                approved, gone = self._approved, self._gone
            if approved is not None:
                peer.tell(approved)
            if gone:
                peer.tell({"do": "go"})
        elif "facts" in message:
            peer.guarded = bool(message["guarded"])
            try:
                peer.answers.put_nowait(list(message["facts"]))
            except queue.Full:
                pass  # nobody waits any more
        elif "seen" in message:
            item = message["seen"]
            self._seen(
                Seen(
                    str(item["kind"]),
                    bytes.fromhex(item["digest"]),
                    str(item["path"]),
                    str(item["name"]),
                    int(item["size"]),
                    float(item["observed_at"]),
                )
            )
        elif "want" in message or "quiet" in message:
            self._wanted()


def _fact(item: Any) -> tuple[str, str, str, tuple[str, ...], str]:
    how, name, path, cached, reason = item
    return str(how), str(name), str(path), tuple(str(one) for one in cached), str(reason)
