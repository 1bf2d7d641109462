"""How long `lockstep manifest build` takes, as a whole process, over many files: ``python -m benchmarks.manifest``.

Beside it, as a whole process too, the least that anybody could do: read the
same files and take their SHA-256, one after the other. Both find everything in
the page cache; the first run of each is thrown away.
"""

from __future__ import annotations

import compileall
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click

from benchmarks.machine import machine, named

GOAL: Final = 2.0
"""Seconds for 10,000 files, warm."""
_FOLDER: Final = 100
"""Sources in one package."""
_PLAIN: Final = """
import hashlib, os, sys
for folder, _, names in os.walk(sys.argv[1]):
    for name in names:
        with open(os.path.join(folder, name), "rb") as file:
            hashlib.sha256(file.read()).digest()
"""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--files", type=click.IntRange(2), default=10_000, show_default=True, help="Half of them bytecode."
)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Of each, in turn.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def main(files: int, rounds: int, as_json: bool) -> None:
    """Seconds of each, and their ratio: medians. Nothing is asserted."""
    with tempfile.TemporaryDirectory(prefix="lockstep-bench-") as made:
        site = Path(made, "site-packages")
        count = _write(site, files // 2)
        commands = {
            "sha256": [sys.executable, "-I", "-c", _PLAIN, str(site)],
            "build": [
                *(sys.executable, "-m", "lockstep_client", "manifest", "build", "--application", "bench"),
                *("--site-packages", str(site), "--output", str(Path(made, "bench.json"))),
            ],
        }
        taken: dict[str, list[float]] = {name: [] for name in commands}
        for number in range(rounds + 1):
            for name, command in commands.items():
                seconds = _run(command)
                if number:
                    taken[name].append(seconds)
        units = len(json.loads(Path(made, "bench.json").read_bytes())["predicate"]["units"])
    medians = {name: statistics.median(of) for name, of in taken.items()}
    found: dict[str, Any] = {
        "machine": machine(),
        "files": count,
        "units": units,
        "seconds": medians,
        "ratio": medians["build"] / medians["sha256"],
        "goal": GOAL * count / 10_000,
    }
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    where = found["machine"]
    click.echo(named(where))
    click.echo(f"{count:,} files, {units:,} units, median of {rounds}, whole processes, warm")
    click.echo(f"a loop of sha256      {medians['sha256']:.2f} s")
    click.echo(
        f"manifest build        {medians['build']:.2f} s, {found['ratio']:.1f} × the loop"
        f" (goal {found['goal']:.2f} s)"
    )


def _write(site: Path, sources: int) -> int:
    """So many sources of usual sizes and their bytecode; how many files there are."""
    for number in range(sources):
        folder = site / f"package{number // _FOLDER}"
        folder.mkdir(parents=True, exist_ok=True)
        lines = [f"NAME = {number}"]
        lines += [
            f"def act_{line}(value):\n    return value + {line * number}" for line in range(10 + number % 150)
        ]
        (folder / f"module{number}.py").write_text("\n".join(lines) + "\n")
    compileall.compile_dir(site, quiet=2, workers=0)
    return sum(path.is_file() for path in site.rglob("*"))


def _run(command: Sequence[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
