"""The process that makes the load: takes one order a line on standard input, answers with its figures.

Load and broker are processes of their own, so that neither's interpreter lock is in the other's way.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import uvloop

from benchmarks.cases import CASES, Ground, Once, Spot

GRACE = 30.0
"""Seconds that calls under way may take after the end of an open loop."""


class Tally:
    """Seconds of every measure, and how many operations failed."""

    def __init__(self) -> None:
        self.taken: dict[str, list[float]] = {}
        self.done = 0
        self.failures: dict[str, int] = {}

    def count(self, measures: dict[str, float]) -> None:
        """One operation is done."""
        self.done += 1
        for name, seconds in measures.items():
            self.taken.setdefault(name, []).append(seconds)

    def failed(self, error: Exception) -> None:
        """One failed; it has no latency, and the report says how many there were."""
        details = getattr(error, "details", None)
        words = f"{type(error).__name__}: {details() if callable(details) else error}"
        self.failures[words[:200]] = self.failures.get(words[:200], 0) + 1

    def figures(self, seconds: float) -> dict[str, Any]:
        """For the answer; latencies in milliseconds."""
        return {
            "seconds": seconds,
            "operations": self.done,
            "rate": self.done / seconds,
            "failures": self.failures,
            "measures": {
                name: {"p50": _percentile(taken, 0.5) * 1e3, "p99": _percentile(taken, 0.99) * 1e3}
                for name, taken in self.taken.items()
            },
        }


def _percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


async def closed(spots: list[Spot], seconds: float) -> dict[str, Any]:
    """Every spot does one operation after the other."""
    tally = Tally()
    begun = time.perf_counter()
    end = begun + seconds

    async def caller(once: Once) -> None:
        while time.perf_counter() < end:
            try:
                tally.count(await once())
            except Exception as error:  # a load that stops at the first failure measures nothing
                tally.failed(error)

    await asyncio.gather(*(caller(spot.once) for spot in spots))
    return tally.figures(time.perf_counter() - begun)


async def opened(spots: list[Spot], seconds: float, rate: float) -> dict[str, Any]:
    """`rate` operations a second start when they are due, whatever became of those before.

    Latency counts from the time that an operation was due, so that a server
    that stalls cannot hide it by stalling its callers (coordinated omission).
    """
    tally = Tally()
    begun = time.perf_counter()
    running: set[asyncio.Task[None]] = set()

    async def one(once: Once, due: float) -> None:
        try:
            await once()
        except Exception as error:
            tally.failed(error)
        else:
            tally.count({"open": time.perf_counter() - due})

    for number in range(int(seconds * rate)):
        due = begun + number / rate
        pause = due - time.perf_counter()
        if pause > 0:
            await asyncio.sleep(pause)
        task = asyncio.create_task(one(spots[number % len(spots)].once, due))
        running.add(task)
        task.add_done_callback(running.discard)
    if running:
        await asyncio.wait(running, timeout=GRACE)
    return tally.figures(time.perf_counter() - begun)


async def obey(order: dict[str, Any], answer: Callable[[dict[str, Any]], None]) -> None:
    """Prepare, say so, measure, say how it went."""
    ground = Ground(**order["ground"])
    spots = await CASES[order["case"]].prepare(ground, order["concurrency"])
    gc.collect()
    answer({"prepared": True})
    await asyncio.to_thread(sys.stdin.readline)
    work: Awaitable[dict[str, Any]]
    if order.get("rate"):
        work = opened(spots, order["seconds"], order["rate"])
    else:
        work = closed(spots, order["seconds"])
    answer(await work)
    for spot in spots:
        await spot.close()


async def _main() -> None:
    def answer(found: dict[str, Any]) -> None:
        print(json.dumps(found), flush=True)

    while line := await asyncio.to_thread(sys.stdin.readline):
        await obey(json.loads(line), answer)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_main())
