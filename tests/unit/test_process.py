"""A broker's process: no order is lost, whenever it comes."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable

import structlog

from broker import process

LOST = 10.0
"""Seconds after which a broker that still serves has lost its order."""


class Quick:
    """A `broker.process.Served` whose start ends in the very turn in which an order comes."""

    grace = 1.0

    def __init__(self, order: signal.Signals) -> None:
        self.told: list[str] = []
        self._order = order
        loop = asyncio.get_running_loop()
        self._failure: asyncio.Future[BaseException] = loop.create_future()
        loop.call_later(LOST, self._failure.set_result, TimeoutError("the order was lost"))

    async def start(self) -> None:
        """Ready, and the signal is there already."""
        os.kill(os.getpid(), self._order)
        # Returns in the turn in which the loop has taken the signal, and whoever waits for orders has it.
        told = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, told.set_result, None)
        os.kill(os.getpid(), signal.SIGUSR1)
        await told

    async def reload(self) -> bool:
        """Noted; then the broker is to leave."""
        self.told.append("reload")
        os.kill(os.getpid(), signal.SIGTERM)
        return True

    async def drain(self, grace: float) -> None:
        """Nothing runs."""
        self.told.append("drain")

    async def stop(self) -> None:
        """Noted."""
        self.told.append("stop")

    async def failed(self) -> BaseException:
        """Only where the order was lost."""
        return await self._failure


def run(order: signal.Signals) -> list[str]:
    made: list[Quick] = []

    async def build() -> Quick:
        made.append(Quick(order))
        return made[0]

    serve: Callable[[], Awaitable[process.Served]] = build
    process.run(serve, structlog.get_logger(), on_ready=lambda _: None)
    return made[0].told


def test_an_order_to_leave_that_comes_as_the_start_ends_is_obeyed() -> None:
    assert run(signal.SIGTERM) == ["stop"]


def test_a_reload_that_is_asked_for_as_the_start_ends_comes_after_it() -> None:
    assert run(signal.SIGHUP) == ["reload", "drain", "stop"]
