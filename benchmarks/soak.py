"""A broker under load for as long as it takes: ``python -m benchmarks.soak``, or ``make soak``.

Many instances issue; one lease in five is given back, and instances are
replaced. The run is cut into slices: after each, the broker's memory, its open
files and the latency of a call are written down. A broker that leaks shows a
slope; one that does not, shows none.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.cases import Ground
from benchmarks.machine import descriptors, machine, named, resident
from benchmarks.stage import Stage, stage
from benchmarks.workload import Line, Workload, digests

CALLERS: Final = 16
CHURN: Final = 5
"""One lease in so many is given back."""
EACH: Final = 40
"""Leases of an instance before another one takes its place."""
UNITS: Final = 100
_BARS: Final = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Slice:
    """One part of a run; times in milliseconds, memory in bytes."""

    issued: int
    rate: float
    p50: float
    p99: float
    resident: int
    descriptors: int


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--issues", type=click.IntRange(10), default=1_000_000, show_default=True)
@click.option("--slices", type=click.IntRange(2, 1_000), default=20, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def main(issues: int, slices: int, as_json: bool) -> None:
    """Memory, open files and latency over many issues. Nothing is asserted."""
    screen = Console(stderr=True)
    with (
        tempfile.TemporaryDirectory(prefix="lockstep-bench-") as folder,
        stage(Path(folder), UNITS) as running,
        Progress(console=screen, transient=True) as bar,
    ):
        task = bar.add_task("issued", total=issues)
        found = asyncio.run(_run(running, issues, slices, lambda done: bar.update(task, completed=done)))
    where = machine()
    if as_json:
        parts = [asdict(each) for each in found]
        click.echo(json.dumps({"machine": where, "callers": CALLERS, "slices": parts}, indent=2))
        return
    _show(Console(), where, found)


async def _run(running: Stage, issues: int, slices: int, told: Any) -> list[Slice]:
    ground, pid = running.ground, running.broker.pid
    lines = [Line(ground.address, Path(ground.ca_file), ground.cluster) for _ in range(4)]
    units = digests(UNITS)
    found: list[Slice] = []
    issued = 0
    for number in range(slices):
        wanted = issues * (number + 1) // slices - issued
        taken: list[float] = []
        begun = time.perf_counter()
        await asyncio.gather(
            *(
                _caller(
                    ground, lines[at % len(lines)], units, wanted // CALLERS + (at < wanted % CALLERS), taken
                )
                for at in range(CALLERS)
            )
        )
        issued += len(taken)
        told(issued)
        ordered = sorted(taken)
        found.append(
            Slice(
                issued,
                len(taken) / (time.perf_counter() - begun),
                ordered[len(ordered) // 2] * 1e3,
                ordered[len(ordered) * 99 // 100] * 1e3,
                resident(pid),
                descriptors(pid),
            )
        )
    for line in lines:
        await line.close()
    return found


async def _caller(ground: Ground, line: Line, units: list[bytes], count: int, taken: list[float]) -> None:
    workload: Workload | None = None
    for number in range(count):
        if workload is None or number % EACH == 0:
            workload = Workload(line, ground.identity, units, ground.role)
            await workload.attest(await workload.challenge())
        begun = time.perf_counter()
        await workload.issue()
        taken.append(time.perf_counter() - begun)
        if number % CHURN == 0:
            await workload.give_back()


def _show(console: Console, where: dict[str, str | int], found: Sequence[Slice]) -> None:
    console.print(f"{named(where)}; {CALLERS} callers, one lease in {CHURN} given back")
    table = Table(box=None)
    for heading in ("issued", "rate/s", "p50 ms", "p99 ms", "memory MB", "open files"):
        table.add_column(heading, justify="right")
    for each in found:
        table.add_row(
            f"{each.issued:,}",
            f"{each.rate:,.0f}",
            f"{each.p50:.1f}",
            f"{each.p99:.1f}",
            f"{each.resident / 1e6:.0f}",
            str(each.descriptors),
        )
    console.print(table)
    # The first slice warms caches up: what grows after it, grows.
    settled = found[len(found) // 4 :]
    for name, values in (
        ("memory", [each.resident for each in settled]),
        ("open files", [each.descriptors for each in settled]),
        ("p50", [each.p50 for each in settled]),
    ):
        half = len(values) // 2
        change = statistics.mean(values[-half:]) / statistics.mean(values[:half]) - 1 if half else 0.0
        console.print(f"{name:10} {_line(values)}  {change:+.1%} from the first half to the second")


def _line(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    step = (high - low) / (len(_BARS) - 1)
    return "".join(_BARS[round((value - low) / step)] if step else _BARS[0] for value in values)


if __name__ == "__main__":
    main()
