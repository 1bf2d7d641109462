"""Rounds of one kind of work, several at once: one that waits for a backend keeps none of the others waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from broker.errors import LockstepError
from broker.upkeep.limits import BATCH

MOST: Final = 8
"""Rounds at once."""


class Rounds:
    """Begins a round when woken, and after each interval. Rounds must leave out what another one works on."""

    def __init__(
        self,
        tick: Callable[[], Awaitable[int]],
        *,
        interval: float,
        on_error: Callable[[LockstepError], None],
        on_done: Callable[[], None],
    ) -> None:
        """`tick` answers how much it found to do; `interval` in seconds; `on_done` follows a round that did
        something, `on_error` one that failed."""
        self._tick = tick
        self._interval = interval
        self._on_error = on_error
        self._on_done = on_done
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """There is something to do."""
        self._woken.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set; what is under way then is cancelled."""
        stopping = asyncio.create_task(stop.wait())
        under_way: set[asyncio.Task[bool]] = set()
        begin = True
        try:
            while not stop.is_set():
                if begin and len(under_way) < MOST:
                    self._woken.clear()
                    under_way.add(asyncio.create_task(self._round()))
                woken = asyncio.create_task(self._woken.wait())
                done, _ = await asyncio.wait(
                    {stopping, woken, *under_way},
                    timeout=self._interval,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                woken.cancel()
                ended = under_way & done
                under_way -= ended
                more = sum(task.result() for task in ended)
                begin = not done or self._woken.is_set() or more > 0
        finally:
            for task in (stopping, *under_way):
                task.cancel()
            await asyncio.gather(stopping, *under_way, return_exceptions=True)

    async def _round(self) -> bool:
        """True where there is more."""
        found = 0
        try:
            found = await self._tick()
        except LockstepError as error:
            self._on_error(error)
        if found:
            self._on_done()
        return found >= BATCH
