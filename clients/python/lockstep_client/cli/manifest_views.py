"""How manifests look: tables and lines for people, JSON for programs."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import click

from lockstep_client.manifest import CodeManifest, Difference, ManifestUnit, Remarks
from lockstep_client.manifest.files import Progress as Told
from lockstep_client.manifest.packages import purl_name, purl_version
from lockstep_client.words import plain

if TYPE_CHECKING:
    from rich.console import Console

    from lockstep.v1 import manifest_pb2

# Functions import rich themselves: a build in a pipeline shows no table, and does not wait for one.

_WIDE: Final = 200
_SHOWN: Final = 10


def console() -> Console:
    """Standard output; where it is no terminal, lines are not cut to a screen's width."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else _WIDE)


def say_json(value: object) -> None:
    """One JSON document on standard output."""
    click.echo(json.dumps(value, indent=2, sort_keys=True))


@contextmanager
def progress(enabled: bool) -> Iterator[Told | None]:
    """A progress bar on standard error, if that is a terminal."""
    if not enabled or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("hashing", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def short(purl: str) -> str:
    """A package URL as people say it: the name and, where there is one, the version."""
    name = purl_name(purl).removeprefix("pkg:").split("/", 1)[-1]
    version = purl_version(purl).replace("%2B", "+").replace("%3A", ":")
    return f"{name} {version}".strip()


def summary_line(units: Sequence[ManifestUnit]) -> list[str]:
    """``base 412 · fastapi 0.115.0 48 · …`` and, as a second line, units of no package by path."""
    counts = Counter(entry.package for entry in units)
    bases = sum(count for package, count in counts.items() if package and not package.startswith("pkg:pypi/"))
    packages = sorted(
        ((count, package) for package, count in counts.items() if package.startswith("pkg:pypi/")),
        reverse=True,
    )
    parts = [f"base {bases}"] if bases else []
    parts += [f"{short(package)} {count}" for count, package in packages[:_SHOWN]]
    if len(packages) > _SHOWN:
        parts.append(f"{len(packages) - _SHOWN} more packages")
    lines = [" · ".join(parts)] if parts else []
    nobody = _nearest_first(
        {entry.paths[0] if entry.paths else entry.digest.hex()[:12] for entry in units if not entry.package}
    )
    if nobody:
        more = f" and {len(nobody) - _SHOWN} more" if len(nobody) > _SHOWN else ""
        count = counts[""]
        lines.append(
            f"! {count} unit{'' if count == 1 else 's'} of no package: {' '.join(nobody[:_SHOWN])}{more}"
        )
    return lines


def _nearest_first(paths: Iterable[str]) -> list[str]:
    """What lies in the working folder stands first, by its path from there: it is what its author can vouch for."""
    here = os.path.join(os.getcwd(), "")
    near = sorted(path.removeprefix(here) for path in paths if path.startswith(here))
    # An environment in the working folder is nobody's own code.
    near.sort(key=lambda path: "/site-packages/" in path)
    return near + sorted(path for path in paths if not path.startswith(here))


def show_manifest(manifest: CodeManifest, signers: Sequence[str] = ()) -> None:
    """One manifest: its head, and its packages."""
    from rich.table import Table

    out = console()
    out.print(f"[bold]{manifest.application}@{manifest.version}[/bold]  {manifest.digest.hex()}")
    facts: Mapping[str, str] = {
        "label": manifest.label,
        "units": f"{len(manifest.units):,}",
        "includes": ", ".join(manifest.includes),
        "valid": f"{manifest.not_before:%Y-%m-%d %H:%M} – {manifest.not_after:%Y-%m-%d %H:%M} UTC",
        "anonymous": ", ".join(manifest.anonymous),
        "unknown": ", ".join(manifest.unknown),
        "signed by": ", ".join(signers),
    }
    for name, value in facts.items():
        if value:
            out.print(f"  {name:<10} {value}", markup=False)
    table = Table("package", "version", "units", box=None, pad_edge=False)
    for package, count in sorted(Counter(entry.package for entry in manifest.units).items()):
        table.add_row(purl_name(package) or "(no package)", purl_version(package), f"{count:,}")
    out.print(table)


def show_remarks(remarks: Remarks) -> None:
    """What the author should know, on standard error."""
    for path in remarks.modified[:_SHOWN]:
        click.echo(f"! differs from its RECORD: {path}", err=True)
    if len(remarks.modified) > _SHOWN:
        click.echo(f"! and {len(remarks.modified) - _SHOWN} more that differ", err=True)
    for path, why in remarks.skipped[:_SHOWN]:
        click.echo(f"! left out ({why}): {path}", err=True)
    if len(remarks.skipped) > _SHOWN:
        click.echo(f"! and {len(remarks.skipped) - _SHOWN} more left out", err=True)
    if remarks.uncompiled:
        click.echo(
            f"! {remarks.uncompiled:,} sources have no bytecode: if Python may write some, what it writes is not "
            "approved; build with --compile, or run with PYTHONDONTWRITEBYTECODE=1",
            err=True,
        )


def show_difference(found: Difference) -> None:
    """By package as people think of an upgrade, then paths of no package."""
    from rich.table import Table

    out = console()
    if not found:
        out.print("no unit differs")
        return
    table = Table("", "package", "before", "after", "+", "-", box=None, pad_edge=False)
    marks = {"added": "+", "removed": "-", "upgraded": "~", "changed": "!"}
    for item in found.packages:
        before, after = ", ".join(item.before), ", ".join(item.after)
        cells = (short(item.name), before, after, str(item.added), str(item.removed))
        table.add_row(marks[item.change], *map(plain, cells))
    if found.packages:
        out.print(table)
    for mark, paths in (("+", found.added), ("-", found.removed), ("~", found.changed)):
        for path in paths:
            out.print(f"{mark} {plain(path)}", markup=False)
    kept = f"{found.units_kept:,} units stay"
    out.print(f"{found.units_added:,} units come, {found.units_removed:,} go, {kept}")


def difference_facts(found: Difference) -> dict[str, Any]:
    """The same for programs."""
    return {
        "packages": [
            {
                "name": item.name,
                "change": item.change,
                "before": list(item.before),
                "after": list(item.after),
                "added": item.added,
                "removed": item.removed,
            }
            for item in found.packages
        ],
        "added": list(found.added),
        "removed": list(found.removed),
        "changed": list(found.changed),
        "units": {"added": found.units_added, "removed": found.units_removed, "kept": found.units_kept},
    }


def manifest_facts(manifest: CodeManifest) -> dict[str, Any]:
    """A manifest's head for programs."""
    return {
        "application": manifest.application,
        "version": manifest.version,
        "label": manifest.label,
        "digest": manifest.digest.hex(),
        "code_set": manifest.code_set_digest.hex(),
        "units": len(manifest.units),
        "packages": dict(sorted(Counter(entry.package for entry in manifest.units).items())),
        "includes": list(manifest.includes),
        "not_before": manifest.not_before.isoformat(),
        "not_after": manifest.not_after.isoformat(),
    }


def summary_facts(item: manifest_pb2.ManifestSummary) -> dict[str, Any]:
    """The broker's summary for programs."""
    return {
        "application": item.application,
        "version": item.version,
        "label": item.label,
        "digest": item.digest.hex(),
        "state": state_word(item),
        "units": item.units,
        "includes": list(item.includes),
        "signers": list(item.signers),
        "not_before": item.not_before.ToJsonString(),
        "not_after": item.not_after.ToJsonString(),
        "published_at": item.published_at.ToJsonString(),
    }


def show_summaries(items: Sequence[manifest_pb2.ManifestSummary]) -> None:
    """A table, newest first."""
    from rich.table import Table

    table = Table(
        "manifest", "state", "units", "signed by", "published", "until", "digest", box=None, pad_edge=False
    )
    for item in items:
        table.add_row(
            f"{item.application}@{item.version}" + (f" {item.label}" if item.label else ""),
            begins_at(item) or state_word(item),
            f"{item.units:,}",
            ", ".join(item.signers),
            item.published_at.ToJsonString()[:16].replace("T", " "),
            item.not_after.ToJsonString()[:10],
            item.digest.hex()[:12],
        )
    console().print(table if items else "no manifest; next: lockstep manifest build --help")


def begins_at(item: manifest_pb2.ManifestSummary) -> str:
    """``from 2026-11-01 00:00`` (UTC) where a manifest is in force and its time is still ahead; else empty."""
    from lockstep.v1 import manifest_pb2

    begins = item.not_before.ToDatetime(UTC)
    if item.state != manifest_pb2.MANIFEST_STATE_IN_FORCE or begins <= datetime.now(UTC):
        return ""
    return f"from {begins:%Y-%m-%d %H:%M}"


def state_word(item: manifest_pb2.ManifestSummary) -> str:
    """``in force``, ``not yet in force``, ``retired``, …"""
    from lockstep.v1 import manifest_pb2

    name = manifest_pb2.ManifestState.Name(item.state)
    word = name.removeprefix("MANIFEST_STATE_").replace("_", " ").lower()
    return f"not yet {word}" if begins_at(item) else word
