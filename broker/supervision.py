"""What a supervisor is told of this process: systemd's notification protocol (sd_notify(3)), where there is one."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Supervisor:
    """Says READY, RELOADING, STOPPING, and at intervals that the loop still turns.

    `address` is a Unix socket's path or, behind ``@``, an abstract name; empty:
    nobody listens. `within` (seconds, 0: never) is how long the supervisor waits
    for a sign of life before it ends the process. Nothing here raises: a
    supervisor that cannot be told draws its own conclusions.
    """

    address: str = ""
    within: float = 0.0

    @classmethod
    def of(cls, environment: Mapping[str, str], pid: int) -> Supervisor:
        """From ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and ``WATCHDOG_PID``, as systemd sets them."""
        micros = environment.get("WATCHDOG_USEC", "")
        meant = environment.get("WATCHDOG_PID", str(pid)) == str(pid)
        within = int(micros) / 1e6 if micros.isascii() and micros.isdigit() and meant else 0.0
        return cls(environment.get("NOTIFY_SOCKET", ""), within)

    def ready(self) -> None:
        """It serves."""
        self._tell("READY=1")

    def reloading(self) -> None:
        """It takes a new configuration; `ready` follows (systemd 253: ``Type=notify-reload``)."""
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """It drains."""
        self._tell("STOPPING=1")

    async def beat(self) -> None:
        """Signs of life for as long as the loop turns; returns at once where nobody waits for them."""
        if not self.within or not self.address:
            return
        while True:
            self._tell("WATCHDOG=1")
            await asyncio.sleep(self.within / 2)

    def _tell(self, message: str) -> None:
        if not self.address:
            return
        name = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
                # A supervisor that does not read holds nothing up.
                channel.setblocking(False)
                channel.sendto(message.encode(), name)
        except OSError:
            return
