"""Looking after cutters: what is told when, and an end that waits for no target."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from structlog.testing import CapturingLogger

from broker.bootstrap.live import Live
from broker.bootstrap.targets import Targets
from broker.model.account import TargetFault
from tests.fakes.cutter import FakeCutter

WIDE = TargetFault("it has attributes", "ALTER ROLE …", wide=True)


class World:
    """Targets of cutters by name, and what was logged."""

    def __init__(self, **cutters: FakeCutter) -> None:
        self.cutters: dict[str, FakeCutter] = cutters
        self.log = CapturingLogger()
        live = SimpleNamespace(generation=SimpleNamespace(cutters=self.cutters))
        self.targets = Targets(cast(Live, live), cast(Any, self.log))

    def told(self) -> list[tuple[str, str]]:
        """(cutter, what is wrong) of each line, and "" where all is well again; told once."""
        lines = [(call.kwargs["cutter"], call.kwargs.get("problem", "")) for call in self.log.calls]
        self.log.calls.clear()
        return lines

    async def look(self, *, afresh: bool = False) -> None:
        await self.targets._look(afresh=afresh)


async def test_a_fault_is_told_once_and_when_it_is_gone() -> None:
    bad, good = FakeCutter(), FakeCutter()
    bad.wrong = (WIDE,)
    world = World(bad=bad, good=good)
    assert world.targets.states() == {"bad": "unknown", "good": "unknown"}
    await world.look(afresh=True)
    assert world.told() == [("bad", "it has attributes")]
    assert world.targets.states() == {"bad": "faulty", "good": "ok"}
    await world.look()
    assert world.told() == []
    await world.look(afresh=True)
    assert world.told() == [("bad", "it has attributes")]
    bad.fail("faults")
    await world.look()
    assert world.told() == [("bad", "the target does not answer")]
    assert world.targets.states()["bad"] == "unavailable"
    bad.wrong = ()
    await world.look()
    assert world.told() == [("bad", "")]
    assert world.targets.states() == {"bad": "ok", "good": "ok"}


async def test_one_that_is_gone_is_forgotten_and_what_a_reload_replaced_says_nothing() -> None:
    old = FakeCutter()
    old.wrong = (WIDE,)
    world = World(one=old)
    gate = old.hold("faults")
    looking = asyncio.create_task(world.look())
    await old.heard("faults")
    world.cutters["one"] = FakeCutter()
    gate.set()
    await looking
    assert world.told() == []
    assert world.targets.states() == {"one": "unknown"}
    await world.look()
    assert world.targets.states() == {"one": "ok"}
    del world.cutters["one"]
    await world.look()
    assert world.targets.states() == {}


async def test_the_end_waits_for_no_target() -> None:
    slow = FakeCutter()
    slow.hold("faults")
    world, stop = World(slow=slow), asyncio.Event()
    running = asyncio.create_task(world.targets.run(stop))
    await slow.heard("faults")
    stop.set()
    await asyncio.wait_for(running, 5)


async def test_a_reload_is_looked_at_at_once() -> None:
    one = FakeCutter()
    world, stop = World(one=one), asyncio.Event()
    running = asyncio.create_task(world.targets.run(stop))
    for asked in (1, 2):
        await one.heard("faults", asked)
        world.targets.look_again()
    stop.set()
    await asyncio.wait_for(running, 5)
