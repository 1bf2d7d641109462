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
    """Owned by one event loop. A fault is told once, and again when it is another one, or gone."""

    def __init__(self, live: Live, log: Log) -> None:
        self._live = live
        self._log = log
        self._states: dict[str, str] = {}
        self._told: dict[str, tuple[str, ...]] = {}
        self._wanted = asyncio.Event()

    def states(self) -> Mapping[str, str]:
        """By cutter: ``ok``, ``faulty``, ``unavailable``, or ``unknown`` before the first answer."""
        return {name: self._states.get(name, UNKNOWN) for name in self._live.generation.cutters}

    def look_again(self) -> None:
        """Cutters may be others now."""
        self._wanted.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set."""
        stopping = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                self._wanted.clear()
                cutters = dict(self._live.generation.cutters)
                await asyncio.gather(*(self._look(name, cutter) for name, cutter in cutters.items()))
                waking = asyncio.create_task(self._wanted.wait())
                await asyncio.wait({stopping, waking}, timeout=EVERY, return_when=asyncio.FIRST_COMPLETED)
                waking.cancel()
        finally:
            stopping.cancel()

    async def _look(self, name: str, cutter: TargetCutter) -> None:
        try:
            found = [(fault.what, fault.mend) for fault in await cutter.faults()]
            state = FAULTY if found else OK
        except LockstepError as error:
            found, state = [(error.message, "")], UNAVAILABLE
        if self._live.generation.cutters.get(name) is not cutter:
            return  # a reload has replaced it
        self._states[name] = state
        now = tuple(what for what, _ in found)
        before = self._told.get(name, ())
        self._told[name] = now
        for what, mend in found:
            if what not in before:
                self._log.warning("a cutter could not do its work", cutter=name, problem=what, mend=mend)
        if before and not now:
            self._log.info("a cutter is in order again", cutter=name)
