"""Which node is the active one: standbys may answer from an older state, so they are never asked."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from broker.adapters.backends.vault.wire import Call, Lane, Lost, NotSent, Wire
from broker.ports import Clock

PROBE: Final = 2.0
"""Seconds that a node has to say how it is."""
AGE: Final = 5.0
"""Seconds that the answer counts."""
_WORDS: Final = {
    429: "standby",
    472: "disaster recovery secondary",
    473: "standby",
    501: "not initialised",
    503: "sealed",
}


class NoActiveNode(Exception):
    """None of the configured nodes says that it is active; the message says what they say."""


class Nodes:
    """The configured nodes of one cluster, and no other: a redirect elsewhere is not followed."""

    def __init__(self, wire: Wire, clock: Clock, addresses: Sequence[str]) -> None:
        self._wire = wire
        self._clock = clock
        self._addresses = [origin(address) for address in addresses]
        self._active = ""
        self._looked = float("-inf")
        self._missed = float("-inf")
        self._why = ""
        self._looking = asyncio.Lock()

    async def active(self) -> str:
        """Its address. Raises `NoActiveNode`."""
        if self._fresh():
            return self._active
        began = self._clock.monotonic()
        async with self._looking:
            if self._fresh():
                return self._active
            # Whoever waited while another looked has the same answer.
            if self._missed < began:
                await self._look()
            if not self._fresh():
                raise NoActiveNode(self._why)
            return self._active

    def suspect(self, address: str) -> None:
        """It did not answer as the active node does: look again before the next call."""
        if address == self._active:
            self._looked = float("-inf")

    def doubt(self) -> None:
        """Look again before the next call."""
        self._looked = float("-inf")

    def redirected(self, location: str) -> bool:
        """A standby names the active node; False where that is none of ours."""
        target = origin(location)
        if target not in self._addresses:
            return False
        self._active, self._looked = target, self._clock.monotonic()
        return True

    def _fresh(self) -> bool:
        return bool(self._active) and self._clock.monotonic() - self._looked < AGE

    async def _look(self) -> None:
        found = await asyncio.gather(*(self._ask(address) for address in self._addresses))
        active = [address for address, word in zip(self._addresses, found, strict=True) if not word]
        if not active:
            self._missed = self._clock.monotonic()
            self._why = ", ".join(map(": ".join, zip(self._addresses, found, strict=True)))
            return
        # Where two claim it, the one that we know steps down soon, or is right.
        if self._active not in active:
            self._active = active[0]
        self._looked = self._clock.monotonic()

    async def _ask(self, address: str) -> str:
        """Empty for the active node, else what it is."""
        try:
            answer = await self._wire.exchange(address, Call("GET", "sys/health", lane=Lane.STOP), PROBE)
        except (NotSent, Lost) as error:
            return str(error)
        return "" if answer.status == 200 else _WORDS.get(answer.status, f"answers {answer.status}")


def origin(url: str) -> str:
    """``https://host:port`` of a URL, in lower case; empty for anything but https."""
    parts = urlsplit(url)
    try:
        port = parts.port or 443
    except ValueError:
        return ""
    host = parts.hostname or ""
    if parts.scheme != "https" or not host:
        return ""
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
