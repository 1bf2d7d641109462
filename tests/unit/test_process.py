"""A broker's process: no order is lost, whenever it comes."""

import asyncio
import os
import signal

import structlog

from broker import process


class Quick:
    """A `broker.process.Served` whose start ends in the very turn in which it is told to leave."""

    grace = 1.0

    def __init__(self) -> None:
        self.stopped = False
        self._failure: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()

    async def start(self) -> None:
        """Ready, and the signal is there already."""
        os.kill(os.getpid(), signal.SIGTERM)
        # Returns in the turn in which the loop has taken the signal, and whoever waits for orders has it.
        told = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, told.set_result, None)
        os.kill(os.getpid(), signal.SIGUSR1)
        await told

    async def reload(self) -> bool:
        """Never asked."""
        return True

    async def drain(self, grace: float) -> None:
        """Nothing runs."""

    async def stop(self) -> None:
        """Noted."""
        self.stopped = True

    async def failed(self) -> BaseException:
        """Never."""
        return await self._failure


def test_an_order_to_leave_that_comes_as_the_start_ends_is_obeyed() -> None:
    made: list[Quick] = []

    async def build() -> Quick:
        made.append(Quick())
        # A broker that lost the order would serve for ever.
        asyncio.get_running_loop().call_later(5, os.abort)
        return made[0]

    process.run(build, structlog.get_logger(), on_ready=lambda _: None)

    assert made[0].stopped
