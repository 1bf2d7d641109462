"""What many live leases cost: ``python -m benchmarks.scale``.

For each size a broker starts over a state file that holds as many live leases:
how long until it is ready, how much memory it has, and how its rate of issuing
stands to the empty call. The brokers run side by side and are measured in
turns, so that what the machine does meanwhile happens to all of them.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.crowd import fill
from benchmarks.machine import machine, named, resident
from benchmarks.stage import Stage, stage

CALLERS: Final = 16
UNITS: Final = 500
_EPILOG: Final = """\b
Examples
  python -m benchmarks.scale                       1,000 and 10,000: half a minute
  python -m benchmarks.scale 1000 1000000          a million takes minutes, and two gigabytes of disk
"""


@click.command(epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("leases", type=click.IntRange(0, 10_000_000), nargs=-1)
@click.option("--rounds", type=click.IntRange(1, 99), default=5, show_default=True, help="Of each, in turn.")
@click.option(
    "--seconds", type=click.FloatRange(0.05, 600.0), default=2.0, show_default=True, help="Length of one run."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def main(leases: Sequence[int], rounds: int, seconds: float, as_json: bool) -> None:
    """Start, memory and rate with as many live LEASES. Nothing is asserted."""
    sizes = list(dict.fromkeys(leases)) or [1_000, 10_000]
    screen = Console(stderr=True)
    with ExitStack() as running:
        stages = []
        for size in sizes:
            folder = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="lockstep-bench-")))
            with screen.status(f"{size:,} leases are written and read"):
                stages.append(running.enter_context(stage(folder, UNITS, crowd=_crowd(size))))
        idle = [resident(each.broker.pid) for each in stages]
        ratios: list[list[float]] = [[] for _ in sizes]
        for _ in track(range(rounds), "rounds", console=screen, transient=True):
            for each, found in zip(stages, ratios, strict=True):
                found.append(_ratio(each, seconds))
        cases = [
            {
                "leases": size,
                "ready_seconds": each.ready,
                "resident_bytes": memory,
                "issue_to_empty": statistics.median(found),
            }
            for size, each, memory, found in zip(sizes, stages, idle, ratios, strict=True)
        ]
    _show(cases, rounds, as_json=as_json)


def _crowd(size: int) -> Any:
    return lambda path: asyncio.run(fill(path, size))


def _ratio(running: Stage, seconds: float) -> float:
    empty = running.measure("empty", CALLERS, seconds)
    issued = running.measure("issue", CALLERS, seconds)
    if issued["failures"]:
        raise click.ClickException(f"calls failed: {issued['failures']}")
    rate: float = issued["rate"] / empty["rate"]
    return rate


def _show(cases: Sequence[dict[str, Any]], rounds: int, *, as_json: bool) -> None:
    where = machine()
    if as_json:
        click.echo(json.dumps({"machine": where, "rounds": rounds, "cases": cases}, indent=2))
        return
    table = Table(box=None, title_justify="left")
    for heading in ("live leases", "ready s", "memory MB", "issue / empty rate", "× the first"):
        table.add_column(heading, justify="right")
    for case in cases:
        table.add_row(
            f"{case['leases']:,}",
            f"{case['ready_seconds']:.2f}",
            f"{case['resident_bytes'] / 1e6:.0f}",
            f"{case['issue_to_empty']:.3f}",
            f"{case['issue_to_empty'] / cases[0]['issue_to_empty']:.2f}",
        )
    console = Console()
    console.print(f"{named(where)}; median of {rounds} rounds")
    console.print(table)


if __name__ == "__main__":
    main()
