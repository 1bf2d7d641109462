"""The launcher's end: a private socket on which every Python process of the child's tree says what it loaded."""

from __future__ import annotations

import json
import logging
import socket
import struct
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lockstep_client.measure.launch import Modules
from lockstep_client.run.peer import Peer

log = logging.getLogger("lockstep")

ANSWER_WITHIN = 10.0
"""Seconds that all children together get to say what they have loaded."""
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


class Links:
    """Listens in a private folder.

    `wanted` is called when a process asks, or has finished loading; `seen` with
    what its guard saw; `lost` with how many observations nobody will be told of.
    """

    def __init__(
        self,
        folder: Path,
        wanted: Callable[[], None],
        seen: Callable[[Seen], None],
        lost: Callable[[int], None],
        *,
        answer_within: float = ANSWER_WITHIN,
    ) -> None:
        self.path = str(folder / "link")
        self._wanted = wanted
        self._seen = seen
        self._lost = lost
        self._answer_within = answer_within
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

    def modules(self) -> Mapping[int, Modules]:
        """What each process has loaded now, by pid; without those that have not answered within `ANSWER_WITHIN`."""
        peers = self.peers()
        for peer in peers:
            peer.ask()
        until = time.monotonic() + self._answer_within
        return {peer.pid: said for peer in peers if (said := peer.modules(until)) is not None}

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
            peer.end()

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
            with peer.link.makefile("rb") as lines:
                while line := lines.readline(_LONGEST):
                    self._receive(peer, line)
        except OSError as error:
            log.debug("the link to %d ended: %s", peer.pid, type(error).__name__)
        finally:
            with self._lock:
                if self._peers.get(peer.pid) is peer:
                    del self._peers[peer.pid]
            peer.end()

    def _receive(self, peer: Peer, line: bytes) -> None:
        try:
            self._take(peer, json.loads(line))
        except Exception as error:  # noqa: BLE001 - a door: one message that is none must not end what comes after it
            log.warning("a message of process %d cannot be read: %s", peer.pid, type(error).__name__)
            self._lost(1)

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
            peer.answer(int(message["number"]), message["facts"])
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
        elif "lost" in message:
            self._lost(max(0, int(message["lost"])))
        elif "want" in message or "quiet" in message:
            self._wanted()
