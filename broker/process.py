"""One broker as a process: its loop, its signals, its last words."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
from collections.abc import Awaitable, Callable
from typing import Protocol

import structlog
import uvloop

Log = structlog.typing.FilteringBoundLogger


class Served(Protocol):
    """What a process runs: `broker.bootstrap.broker.Broker`."""

    async def start(self) -> None:
        """Ready when this returns."""

    async def reload(self) -> bool:
        """Take a new configuration; False where it was refused and the old one goes on."""

    async def drain(self, grace: float) -> None:
        """Let what runs end."""

    async def stop(self) -> None:
        """End now."""

    async def failed(self) -> BaseException:
        """Waits until a part that must not end has ended, and says why."""

    @property
    def grace(self) -> float:
        """Seconds to drain."""


class Crashed(Exception):
    """A part of the broker that must not end has ended; the log has the reason."""


def run(
    build: Callable[[], Awaitable[Served]],
    log: Log,
    *,
    on_ready: Callable[[Served], None],
    beside: Callable[[asyncio.Event], Awaitable[None]] | None = None,
) -> None:
    """Serve until a signal says otherwise.

    SIGTERM and SIGINT drain, a second one ends at once; SIGHUP reloads. `beside`
    runs as long as the broker serves. Raises what `build` and `start` raise,
    and `Crashed`.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(build, log, on_ready=on_ready, beside=beside))


async def _serve(
    build: Callable[[], Awaitable[Served]],
    log: Log,
    *,
    on_ready: Callable[[Served], None],
    beside: Callable[[asyncio.Event], Awaitable[None]] | None,
) -> None:
    orders: asyncio.Queue[signal.Signals] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, orders.put_nowait, number)
    broker = await build()
    stop = asyncio.Event()
    companion = asyncio.ensure_future(beside(stop)) if beside is not None else None
    try:
        if await _until_leaving(broker.start(), orders, log):
            return
        # What was made at start lives on: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        on_ready(broker)
        await _attend(broker, orders, log)
    finally:
        stop.set()
        if companion is not None:
            await companion
        await broker.stop()


async def _attend(broker: Served, orders: asyncio.Queue[signal.Signals], log: Log) -> None:
    """Obey signals until one says to leave."""
    failing = asyncio.ensure_future(broker.failed())
    try:
        while True:
            waiting = asyncio.ensure_future(orders.get())
            await asyncio.wait((waiting, failing), return_when=asyncio.FIRST_COMPLETED)
            if failing.done():
                waiting.cancel()
                raise Crashed from failing.result()
            if waiting.result() is not signal.SIGHUP:
                break
            await broker.reload()
        log.info("draining", seconds=broker.grace)
        await _until_leaving(broker.drain(broker.grace), orders, log)
    finally:
        failing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await failing


async def _until_leaving(work: Awaitable[None], orders: asyncio.Queue[signal.Signals], log: Log) -> bool:
    """Await some work, unless a signal says to leave: True then. A reload that is asked for meanwhile comes after."""
    task = asyncio.ensure_future(work)
    reload = False
    try:
        while True:
            waiting = asyncio.ensure_future(orders.get())
            await asyncio.wait((task, waiting), return_when=asyncio.FIRST_COMPLETED)
            # Both may have come in one turn, and an order that was taken is asked for by nobody else.
            order = waiting.result() if waiting.done() else None
            waiting.cancel()
            if order is signal.SIGHUP:
                reload = True
            elif order is not None:
                log.warning("ending at once")
                return True
            if task.done():
                task.result()
                if reload:
                    orders.put_nowait(signal.SIGHUP)
                return False
    finally:
        if not task.done():
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
