"""The one signal that a broker leaves: streams end themselves on it, health says NOT_SERVING."""

from __future__ import annotations

import asyncio


class Drain:
    """Set once. `grace` in seconds is how long callers have to go elsewhere."""

    def __init__(self) -> None:
        self._begun = asyncio.Event()
        self.grace = 0.0

    @property
    def begun(self) -> bool:
        """True from the announcement on."""
        return self._begun.is_set()

    def begin(self, grace: float) -> None:
        """Announce it."""
        self.grace = grace
        self._begun.set()

    async def wait(self) -> None:
        """Until it is announced."""
        await self._begun.wait()
