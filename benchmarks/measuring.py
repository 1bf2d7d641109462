"""What being measured costs a workload: ``python -m benchmarks.measuring``.

A process with many loaded modules and much mapped code attests at a real
broker, imports done and files in the page cache: how long a look at itself takes, how
long `connect` (the same look, challenge, attest, guard), and how long a look
that remembers the one before. Beside it
the least that anybody could do: read the same files and take their SHA-256.
`appraise` is the broker's own part, pure: so many units against as large a
manifest.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import mmap
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import click

from benchmarks.machine import machine, named
from broker.model.appraisal import Status, appraise
from broker.model.evidence import CodeSet, Unit
from broker.model.manifest import ReferenceValues
from lockstep.formats import UnitKind
from tests.support.brokers import dev_broker
from tests.support.manifests import manifest

GOAL_MS: Final = 150.0
"""To measure and attest 2,000 modules and 100 MiB of mapped code, warm."""
APPRAISE_MS: Final = 3.0
"""To appraise 5,000 units."""
MAPPED: Final = 4
"""Files that share the mapped code."""
_PACKAGE: Final = "lockstep_bench_modules"
_ROLES: Final = """
[manifests.bench]
signers = ["dev"]
[roles.bench]
mode = "enforce"
identity = { from = "dev", subject = "dev-app" }
manifests = ["bench"]
backend = { use = "jwt", audience = "dev" }
ttl = "5m"
"""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--modules", type=click.IntRange(1, 20_000), default=2_000, show_default=True)
@click.option("--mapped", type=click.IntRange(1, 4_096), default=100, show_default=True, help="MiB.")
@click.option("--units", type=click.IntRange(1, 100_000), default=5_000, show_default=True)
@click.option("--rounds", type=click.IntRange(1, 99), default=5, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def main(modules: int, mapped: int, units: int, rounds: int, as_json: bool) -> None:
    """Milliseconds: medians. Nothing is asserted."""
    with tempfile.TemporaryDirectory(prefix="lockstep-bench-") as made:
        folder = Path(made)
        _write(folder, modules, mapped)
        (folder / "roles.toml").write_text(_ROLES)
        with dev_broker(folder / "dev", folder / "roles.toml") as broker:
            # The first one is refused, and what it has loaded is approved.
            refused = _child(folder, modules, broker.env("dev-app"))
            broker.cli("manifest", "approve", "--from", str(refused["decision"]), "--yes")
            runs = [_child(folder, modules, broker.env("dev-app")) for _ in range(rounds + 1)][1:]
    found: dict[str, Any] = {
        "machine": machine(),
        "modules": modules,
        "mapped_mib": mapped,
        "units": statistics.median(run["units"] for run in runs),
        "milliseconds": {
            name: statistics.median(run[name] for run in runs)
            for name in ("sha256", "measure", "attest", "again")
        },
        "appraise": {"units": units, "milliseconds": _appraise(units)},
    }
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    taken, where = found["milliseconds"], found["machine"]
    click.echo(named(where))
    click.echo(
        f"{modules:,} modules, {mapped} MiB mapped, {found['units']:,.0f} units, median of {rounds}, warm"
    )
    click.echo(f"a loop of sha256          {taken['sha256']:7.1f} ms")
    click.echo(f"measure                   {taken['measure']:7.1f} ms")
    click.echo(
        f"connect: measure, attest  {taken['attest']:7.1f} ms, {taken['attest'] / taken['sha256']:.2f} × the loop"
        f" (goal {GOAL_MS:.0f} ms)"
    )
    click.echo(f"the next look             {taken['again']:7.1f} ms")
    click.echo(
        f"appraise {units:,} units    {found['appraise']['milliseconds']:7.2f} ms (goal {APPRAISE_MS:.0f} ms)"
    )


def _write(folder: Path, modules: int, mapped: int) -> None:
    package = folder / _PACKAGE
    package.mkdir()
    (package / "__init__.py").write_text("")
    for number in range(modules):
        lines = [f"def act_{line}(value):\n    return value + {line * number}" for line in range(number % 40)]
        (package / f"module{number}.py").write_text("\n".join([f"NAME = {number}", *lines, ""]))
    block = b"".join(hashlib.sha256(b"%d" % number).digest() for number in range(32_768))
    for number in range(MAPPED):
        with (folder / f"mapped{number}.so").open("wb") as file:
            file.write(b"\x7fELF%d" % number)
            for _ in range(-(-mapped // MAPPED)):
                file.write(block)


def _child(folder: Path, modules: int, env: dict[str, str]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.measuring", "--child", str(folder), str(modules)],
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode:
        raise click.ClickException(done.stderr[-2_000:])
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def workload(folder: Path, modules: int) -> dict[str, Any]:
    """In a process of its own: load, then measure and attest. Milliseconds, and how many units there are."""
    sys.path.insert(0, str(folder))
    for number in range(modules):
        importlib.import_module(f"{_PACKAGE}.module{number}")
    maps = []
    for path in sorted(folder.glob("mapped*.so")):
        with path.open("rb") as file:
            maps.append(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ | mmap.PROT_EXEC))
    import lockstep_client
    import lockstep_client.client  # "imports done": gRPC comes with it
    from lockstep_client.measure import HashCache, measure_self

    known = HashCache()
    files = [*folder.glob("mapped*.so"), *(folder / _PACKAGE).glob("*.py")]
    begun = time.perf_counter()
    for path in files:
        hashlib.sha256(path.read_bytes()).digest()
    sha256 = time.perf_counter() - begun
    begun = time.perf_counter()
    first = measure_self(known)
    measured = time.perf_counter() - begun
    begun = time.perf_counter()
    try:
        connection = lockstep_client.connect(roles=["bench"])
    except lockstep_client.Denied as refused:
        return {"decision": refused.decision}
    with connection:
        attested = time.perf_counter() - begun
        begun = time.perf_counter()
        measure_self(known)
        again = time.perf_counter() - begun
    return {
        "sha256": sha256 * 1e3,
        "measure": measured * 1e3,
        "attest": attested * 1e3,
        "again": again * 1e3,
        "units": len(first.units),
    }


def _appraise(count: int) -> float:
    units = [
        Unit(UnitKind.PYTHON_BYTECODE, hashlib.sha256(b"%d" % number).digest()) for number in range(count)
    ]
    code = CodeSet.of(units)
    reference = ReferenceValues(manifest(units))
    taken = []
    for _ in range(21):
        begun = time.perf_counter()
        found = appraise((), code, reference)
        taken.append(time.perf_counter() - begun)
        assert found.status is Status.AFFIRMING
    return statistics.median(taken) * 1e3


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(workload(Path(sys.argv[2]), int(sys.argv[3]))))
    else:
        main()
