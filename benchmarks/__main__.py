"""Measures a real broker against an empty call, and prints ratios: ``make bench``."""

from __future__ import annotations

import copy
import json
import statistics
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from benchmarks.cases import CASES
from benchmarks.machine import machine
from benchmarks.stage import Stage, stage

OPEN_SHARE = 0.5
"""Of the closed loop's rate: what the open loop and the load beside a report offer."""
_EPILOG = """\b
How it is measured
  A real `lockstep-broker serve` on a throw-away dev folder: TLS, SQLite with
  synchronous=FULL, one process. The load comes from another process, and so
  does the empty call: a bare grpc.aio server with the same certificate. All of
  them share this machine's cores, so the figures that travel are ratios, and
  `server CPU`, which is what the server itself used for one operation.
\b
  Each round measures the empty call and then the case, at the same
  concurrency; a figure is the median of its rounds. Closed loop: as fast as
  the callers are answered. Open loop: at half of that rate, counted from when
  each call was due, so that a stall is not hidden by the calls it prevented.

\b
Examples
  python -m benchmarks                         everything, about three minutes
  python -m benchmarks --only issue --only attest --seconds 5
  python -m benchmarks --json >today.json      for programs
  python -m benchmarks --only attest --profile attest.prof
                                               where the broker's time goes (pstats)

\b
Beside these
  python -m benchmarks.state                   durable transactions a second, without gRPC
  python -m benchmarks.manifest                a build over 10,000 files beside a loop of SHA-256

Nothing here is asserted: no test fails because a machine is slow.
"""


@click.command(epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@click.option(
    "--seconds", type=click.FloatRange(0.05, 600.0), default=2.0, show_default=True, help="Length of one run."
)
@click.option("--rounds", type=click.IntRange(1, 99), default=5, show_default=True, help="Runs of each case.")
@click.option(
    "--only",
    type=click.Choice([name for name in CASES if name != "empty"]),
    multiple=True,
    help="Only this case; may be given again.",
)
@click.option(
    "--units", type=click.IntRange(1, 50_000), default=500, show_default=True, help="Code units of an Attest."
)
@click.option(
    "--profile",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Run the broker under cProfile and write this file; the figures are worth nothing then.",
)
def main(
    as_json: bool, seconds: float, rounds: int, only: Sequence[str], units: int, profile: Path | None
) -> None:
    """Attest, issue, renew and report → refused, against an empty call over the same TLS."""
    console = Console(stderr=True)
    names = [name for name in CASES if name != "empty" and (not only or name in only)]
    found: dict[str, Any] = {
        "machine": machine(),
        "settings": {"seconds": seconds, "rounds": rounds, "units": units, "profiled": profile is not None},
    }
    with (
        tempfile.TemporaryDirectory(prefix="lockstep-bench-") as folder,
        stage(Path(folder), units, profile.absolute() if profile else None) as running,
        console.status("starting", spinner="dots") as status,
    ):
        runs: dict[str, list[dict[str, Any]]] = {}
        for number in range(rounds):
            for name in names:
                status.update(f"round {number + 1} of {rounds}: {name}")
                for label, run in _round(running, name, seconds):
                    runs.setdefault(label, []).append(run)
    found["cases"] = {label: _median(of) for label, of in runs.items()}
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        _show(Console(width=None if sys.stdout.isatty() else 118), found)


def _round(running: Stage, name: str, seconds: float) -> Iterable[tuple[str, dict[str, Any]]]:
    """One round of one case: label and run; each run has its empty call beside it."""
    rate = 0.0
    empties: list[dict[str, Any]] = []
    for concurrency in CASES[name].concurrency:
        empty = running.measure("empty", concurrency, seconds)
        empties.append(empty)
        yield f"empty c={concurrency}", _against(copy.deepcopy(empty), empty)
        run = running.measure(name, concurrency, seconds)
        rate = run["rate"]
        yield f"{name} c={concurrency}", _against(run, empty)
    # What arrives at a rate of its own waits for nobody: it is held against the call of one caller.
    empty = empties[0]
    if name == "issue":
        run = running.measure(name, 16, seconds, rate=max(1.0, rate * OPEN_SHARE))
        yield "issue open loop", _against(run, empty)
    if name == "report":
        closed = running.measure("issue", 16, seconds)
        run = running.measure(name, 1, seconds, beside_rate=max(1.0, closed["rate"] * OPEN_SHARE))
        yield "report under load", _against(run, empty)


def _against(run: dict[str, Any], empty: Mapping[str, Any]) -> dict[str, Any]:
    """The run with its ratios to the empty call of the same round."""
    unit = empty["measures"]["empty"]
    for measure in run["measures"].values():
        measure["ratio"] = measure["p50"] / unit["p50"]
    run["empty_p50"] = unit["p50"]
    run["rate_ratio"] = run["rate"] / empty["rate"]
    if "server_cpu_us" in run:
        run["server_cpu_ratio"] = run["server_cpu_us"] / max(1.0, empty["server_cpu_us"])
    return run


def _median(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Each figure's median; failures added up."""
    keys = ("rate", "rate_ratio", "empty_p50", "server_cpu_us", "server_cpu_ratio")
    failures: dict[str, int] = {}
    for run in runs:
        for words, count in {**run["failures"], **run.get("beside", {}).get("failures", {})}.items():
            failures[words] = failures.get(words, 0) + count
    measures: dict[str, dict[str, float]] = {}
    for run in runs:
        for name in run["measures"]:
            of = [other["measures"][name] for other in runs if name in other["measures"]]
            measures[name] = {
                key: statistics.median(item[key] for item in of) for key in ("p50", "p99", "ratio")
            }
            measures[name]["p99_worst"] = max(item["p99"] for item in of)
    return {
        "operations": sum(run["operations"] for run in runs),
        "failures": failures,
        **{
            key: statistics.median(run[key] for run in runs)
            for key in keys
            if all(key in run for run in runs)
        },
        "measures": measures,
    }


def _show(console: Console, found: Mapping[str, Any]) -> None:
    where = found["machine"]
    console.print(
        f"{where['cpu']}, {where['cores']} cores shared by broker and load, {where['kernel']}, "
        f"Python {where['python']}, grpcio {where['grpcio']}, {where['openssl']}, load {where['load_before']}",
        highlight=False,
    )
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("case", "measure"):
        table.add_column(heading)
    for heading in ("p50 ms", "p99 ms", "× empty", "rate/s", "× empty", "server CPU µs", "× empty"):
        table.add_column(heading, justify="right")
    for label, case in found["cases"].items():
        for at, (name, measure) in enumerate(case["measures"].items()):
            last = ["", "", "", ""] if at else _totals(case)
            table.add_row(
                "" if at else label,
                name,
                f"{measure['p50']:.2f}",
                f"{measure['p99']:.2f}",
                f"{measure['ratio']:.1f}",
                *last,
            )
    console.print(table, highlight=False)
    for label, case in found["cases"].items():
        for words, count in case["failures"].items():
            console.print(f"{label}: {count} failed: {words}", style="red", highlight=False)


def _totals(case: Mapping[str, Any]) -> list[str]:
    cpu = (
        [f"{case['server_cpu_us']:.0f}", f"{case['server_cpu_ratio']:.1f}"]
        if "server_cpu_us" in case
        else ["", ""]
    )
    return [f"{case['rate']:.0f}", f"{case['rate_ratio']:.2f}", *cpu]


if __name__ == "__main__":
    main()
