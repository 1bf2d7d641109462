"""What the demos share: a story on a terminal, manifests approved, receipts read."""

from __future__ import annotations

import argparse
import base64
import datetime as dt
import hashlib
import json
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cast import HERE, StageError, beside, run
from report import post_report
from rich.console import Console
from rich.table import Table

ROOT = HERE.parent.parent
OWN_CODE = ("clients/python/lockstep_client", "protos/lockstep")


@dataclass(slots=True)
class Story:
    """What happened when; times in seconds since the epoch, UTC."""

    console: Console
    moments: list[tuple[float, str, str, str]] = field(default_factory=list)

    def chapter(self, text: str) -> None:
        """A heading."""
        self.console.print(f"\n[bold]{text}[/]")

    def say(self, text: str) -> None:
        """A line under it."""
        self.console.print(f"  {text}", highlight=False)

    def note(self, at: float, who: str, what: str, style: str = "") -> None:
        """A moment of the timeline."""
        self.moments.append((at, who, what, style))

    def timeline(self, zero: float) -> None:
        """Print the moments since `zero`, in order, and begin anew."""
        table = Table(box=None, padding=(0, 2, 0, 2), show_header=False)
        table.add_column(justify="right")
        table.add_column()
        table.add_column()
        for at, who, what, style in sorted(self.moments):
            table.add_row(f"{(at - zero) * 1000:+9.1f} ms", who, f"[{style}]{what}[/]" if style else what)
        self.console.print(table)


def perform(doc: str, play: Callable[[Story, Path, dict[str, Any]], None]) -> int:
    """Play a story in a folder that is thrown away; exit status 0 when everything happened as it must.

    `play` fills the record, which ``--json`` prints for programs.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0] if doc else "")
    parser.add_argument("--json", action="store_true", help="print the timeline as one JSON document")
    as_json = parser.parse_args().json
    story = Story(Console(quiet=as_json, width=None if sys.stdout.isatty() else 118))
    record: dict[str, Any] = {}
    begun = time.monotonic()
    # Whoever ends it ends all of it: the stage is cleared on the way out.
    signal.signal(signal.SIGTERM, _leave)
    try:
        with tempfile.TemporaryDirectory(prefix="lockstep-demo-") as folder:
            play(story, Path(folder), record)
    except StageError as error:
        print(f"the demo stopped: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("the demo was interrupted; nothing of it is left", file=sys.stderr)
        return 128 + signal.SIGINT
    record["seconds"] = round(time.monotonic() - begun, 1)
    if as_json:
        print(json.dumps(record, indent=2))
    return 0


def _leave(number: int, _: object) -> None:
    raise SystemExit(128 + number)


def approve(story: Story, folder: Path, env: Mapping[str, str], application: str, code: Path) -> None:
    """Build, sign and publish the manifest of an application: what may run."""
    story.chapter(f"What {application} may run: built, signed, published")
    built, signed = folder / f"{application}.json", folder / f"{application}.dsse.json"
    apps = [item for path in OWN_CODE for item in ("--app", str(ROOT / path))]
    lockstep = beside("lockstep")
    begun = time.monotonic()
    run(
        [lockstep, "manifest", "build", "--application", application, "--environment", str(Path(sys.prefix)),
         "--app", str(code), *apps, "--compile", "--output", str(built)],
        env,
    )  # fmt: skip
    units = len(json.loads(built.read_bytes())["predicate"]["units"])
    story.say(f"$ lockstep manifest build --application {application} …   {units:,} units in {since(begun)}")
    run([lockstep, "manifest", "sign", str(built), "--output", str(signed)], env)
    run([lockstep, "manifest", "publish", str(signed)], env)
    story.say(
        f"$ lockstep manifest sign; lockstep manifest publish   {application}@1 in force, signed by dev"
    )


def webhook(env: Mapping[str, str], pid: int) -> str:
    """A detector outside reports the plugin; what became of it."""
    digest = hashlib.sha256((HERE / "market" / "plugin.py").read_bytes()).hexdigest()
    answer = post_report(env, pid=pid, digest=digest, path="plugin.py", node=socket.gethostname())
    found = answer["reports"][0]
    return f"{found['state']}, {found['reason']}"


def receipt_of(story: Story, env: Mapping[str, str], decision: str) -> dict[str, Any]:
    """Wait for the signed receipt, and put its steps on the timeline."""
    lockstep = beside("lockstep")
    explained = json.loads(run([lockstep, "explain", decision, "--json"], env))
    revocation = explained["decision"]["revocation_id"]
    answer = json.loads(run([lockstep, "receipts", revocation, "--wait", "20", "--json"], env))
    receipt: dict[str, Any] = json.loads(base64.b64decode(answer["payload"]))
    receipt["signed_by"] = answer["signatures"][0]["keyid"]
    for step in receipt["steps"]:
        at = dt.datetime.fromisoformat(step["at"]).timestamp()
        style = "bold red" if step["name"] == "denied" else "green" if step["name"] == "confirmed" else ""
        story.note(at, "broker", f"{step['name']}: {step['detail']}", style)
    return receipt


def signed(receipt: Mapping[str, Any]) -> str:
    """A receipt in a line."""
    open_ends = len(receipt["unconfirmed"])
    return (
        f"receipt {receipt['revocation']} signed by {receipt['signed_by'][:16]}…: {receipt['leases']} leases ended, "
        f"{open_ends} unconfirmed"
    )


def moments(story: Story, zero: float) -> list[dict[str, Any]]:
    """The timeline, for programs."""
    return [
        {"ms": round((at - zero) * 1000, 3), "who": who, "what": what}
        for at, who, what, _ in sorted(story.moments)
    ]


def since(begun: float) -> str:
    """Seconds, for people."""
    return f"{time.monotonic() - begun:.1f} s"
