"""How cutters find their targets: asked at the start, after a reload and now and then, so that no cut is the first."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

import structlog

from broker.bootstrap.live import Live
from broker.errors import LockstepError
from broker.ports import TargetCutter

Log = structlog.typing.FilteringBoundLogger

EVERY: Final = 60.0
"""Seconds between two looks."""
UNKNOWN, OK, FAULTY, UNAVAILABLE = "unknown", "ok", "faulty", "unavailable"


class Targets:
    """Owned by one event loop. A fault is told at the start and after each reload; else when it is new, or gone."""

    def __init__(self, live: Live, log: Log) -> None:
        self._live = live
        self._log = log
        self._states: dict[str, str] = {}
        self._told: dict[str, frozenset[str]] = {}
        self._wanted = asyncio.Event()

    def states(self) -> Mapping[str, str]:
        """By cutter: ``ok``, ``faulty``, ``unavailable``, or ``unknown`` before the first answer."""
        return {name: self._states.get(name, UNKNOWN) for name in self._live.generation.cutters}

    def look_again(self) -> None:
        """After a reload: cutters may be others now."""
        self._wanted.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set, which ends a look that is under way."""
        stopping = asyncio.create_task(stop.wait())
        afresh = True
        while not stop.is_set():
            self._wanted.clear()
            looking = asyncio.create_task(self._look(afresh=afresh), name="look at targets")
            await asyncio.wait({stopping, looking}, return_when=asyncio.FIRST_COMPLETED)
            if not looking.done():
                looking.cancel()
                await asyncio.wait({looking})
                break
            looking.result()
            waking = asyncio.create_task(self._wanted.wait())
            await asyncio.wait({stopping, waking}, timeout=EVERY, return_when=asyncio.FIRST_COMPLETED)
            waking.cancel()
            afresh = self._wanted.is_set()
        stopping.cancel()

    async def _look(self, *, afresh: bool) -> None:
        cutters = dict(self._live.generation.cutters)
        for known in (self._states, self._told):
            for name in known.keys() - cutters.keys():
                known.pop(name)
        await asyncio.gather(*(self._ask(name, cutter, afresh) for name, cutter in cutters.items()))

    async def _ask(self, name: str, cutter: TargetCutter, afresh: bool) -> None:
        try:
            found = {fault.what: fault.mend for fault in await cutter.faults()}
            state = FAULTY if found else OK
        except LockstepError as error:
            found, state = {error.message: ""}, UNAVAILABLE
        if self._live.generation.cutters.get(name) is not cutter:
            return  # a reload has replaced it, and is looked at next
        before = self._told.get(name, frozenset())
        self._states[name], self._told[name] = state, frozenset(found)
        for what, mend in found.items():
            if afresh or what not in before:
                self._log.warning("a cutter could not do its work", cutter=name, problem=what, mend=mend)
        if before and not found:
            self._log.info("a cutter is in order again", cutter=name)
