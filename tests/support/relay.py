"""A wire that can be cut: relays TCP to a door, until it does not."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType
from typing import Self


class Relay:
    """``with Relay(port) as relay``; clients come to `relay.address`. `cut` ends every connection and takes no more,
    `mute` loses every answer, and what comes on a connection that was opened after `hold` waits until `release`.

    One that `holds` is a balancer that goes on with a request whose caller has gone.
    """

    def __init__(self, port: int, *, holds: bool = False) -> None:
        self._port = port
        self._holds = holds
        self._whole = threading.Event()
        self._whole.set()
        self._mute = threading.Event()
        self._passing = threading.Event()
        self._passing.set()
        self.held = threading.Event()
        """Set once something has come and waits."""
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._acceptor = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._acceptor.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Waking the acceptor: closing alone would leave it in accept().
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.release()
        self._acceptor.join(5)
        self.cut()
        for thread in self._threads:
            thread.join(5)

    def cut(self) -> None:
        """Nothing passes any more; whoever connects is turned away."""
        self._whole.clear()
        with self._lock:
            ends, self._open = self._open, set()
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def mute(self) -> None:
        """Whatever is sent arrives, and no answer comes back."""
        self._mute.set()

    def hold(self) -> None:
        """What is sent on new connections is on its way, and does not arrive."""
        self._passing = threading.Event()
        self.held.clear()

    def release(self) -> None:
        """It arrives."""
        self._passing.set()

    def mend(self) -> None:
        """New connections pass again, and answers."""
        self._mute.clear()
        self._whole.set()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if not self._whole.is_set():
                near.close()
                continue
            try:
                far = socket.create_connection(("127.0.0.1", self._port), timeout=5)
            except OSError:
                near.close()
                continue
            far.settimeout(None)
            with self._lock:
                self._open |= {near, far}
            for source, sink, answers in ((near, far, False), (far, near, True)):
                thread = threading.Thread(
                    target=self._pump, args=(source, sink, answers, self._passing), daemon=True
                )
                thread.start()
                self._threads.append(thread)

    def _pump(
        self, source: socket.socket, sink: socket.socket, answers: bool, passing: threading.Event
    ) -> None:
        tells = answers or not self._holds
        try:
            while data := source.recv(65536):
                if not passing.is_set():
                    self.held.set()
                    passing.wait(60)
                if not (answers and self._mute.is_set()):
                    sink.sendall(data)
        except OSError:
            pass
        if tells:
            with contextlib.suppress(OSError):
                sink.shutdown(socket.SHUT_WR)
