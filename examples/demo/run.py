"""The main job in one terminal: attest, issue, load unapproved code, revoked, receipt.

``python examples/demo/run.py`` (what ``make demo`` runs); ``--json`` prints the timeline for a program.
"""

from __future__ import annotations

import argparse
import base64
import datetime as dt
import hashlib
import json
import socket
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cast import HERE, Actor, StageError, acting, beside, plugin_market, run
from report import post_report
from rich.console import Console
from rich.table import Table

ROOT = HERE.parent.parent
TOLD_WITHIN = 8.0
"""Seconds: the bound of the protocol, D + W."""
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


@dataclass(frozen=True, slots=True)
class Set:
    """What the acts share."""

    story: Story
    env: Mapping[str, str]
    orders: Actor
    orders_url: str
    market: str
    record: dict[str, Any]


def main() -> int:
    """Play it; exit status 0 when everything happened as it must."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", action="store_true", help="print the timeline as one JSON document")
    as_json = parser.parse_args().json
    story = Story(Console(quiet=as_json, width=None if sys.stdout.isatty() else 110))
    record: dict[str, Any] = {}
    try:
        with tempfile.TemporaryDirectory(prefix="lockstep-demo-") as folder:
            play(story, Path(folder), record)
    except StageError as error:
        print(f"the demo stopped: {error}", file=sys.stderr)
        return 1
    if as_json:
        print(json.dumps(record, indent=2))
    return 0


def play(story: Story, folder: Path, record: dict[str, Any]) -> None:
    """The whole story, in a folder that is thrown away."""
    started = time.monotonic()
    story.chapter("A broker, for this laptop")
    dev = [beside("lockstep-broker"), "dev", "--json", "--folder", str(folder / "dev")]
    with acting("broker", [*dev, "--with", str(HERE / "roles.toml")], {}) as broker:
        ready = broker.hear()
        env: dict[str, str] = ready["env"]
        story.say(f"gRPC on {ready['address']}, HTTP door {ready['http_url']}, ready in {_since(started)}")
        approve(story, folder, env)
        with (
            plugin_market() as market,
            acting("orders", [sys.executable, str(HERE / "orders.py")], env) as orders,
        ):
            url = orders.hear("ready")["url"]
            stage = Set(story, env, orders, url, market, record)
            first = act_one(stage)
            lift(stage, first)
            act_two(stage)
    story.chapter("Done")
    story.say(f"{_since(started)} in all; every process has ended, and the folder is gone")


def approve(story: Story, folder: Path, env: Mapping[str, str]) -> None:
    """Build, sign and publish the manifest of the shop: what may run."""
    story.chapter("What the shop may run: built, signed, published")
    built, signed = folder / "shop.json", folder / "shop.dsse.json"
    apps = [item for path in OWN_CODE for item in ("--app", str(ROOT / path))]
    lockstep = beside("lockstep")
    begun = time.monotonic()
    run(
        [lockstep, "manifest", "build", "--application", "shop", "--environment", str(Path(sys.prefix)),
         "--app", str(HERE / "shop"), *apps, "--compile", "--output", str(built)],
        env,
    )  # fmt: skip
    units = len(json.loads(built.read_bytes())["predicate"]["units"])
    story.say(f"$ lockstep manifest build --application shop …   {units:,} units in {_since(begun)}")
    run([lockstep, "manifest", "sign", str(built), "--output", str(signed)], env)
    run([lockstep, "manifest", "publish", str(signed)], env)
    story.say("$ lockstep manifest sign; lockstep manifest publish   shop@1 in force, signed by dev")


def act_one(stage: Set) -> str:
    """The shop sells; then it imports a plugin that it fetched. Returns the revocation's id."""
    story = stage.story
    story.chapter("The shop attests, gets a credential, and sells")
    with _shop(stage) as shop:
        ready = _ready(story, shop)
        _order(stage, shop)
        story.chapter("It fetches a plugin over HTTP and imports it")
        zero = time.time()
        story.note(zero, "shop", f"fetches {stage.market}")
        shop.tell("plugin", stage.market)
        revoked = shop.hear("revoked")
        story.note(revoked["at"], "shop", f"told: {revoked['reason']}; secrets dropped", "yellow")
        shop.hear("imported", "no-credential")
        answer = _webhook(stage, shop.pid, ready)
        story.note(time.time(), "webhook", f"the same, from outside: {answer}")
        _after(stage, shop)
        receipt = _receipt(stage, revoked["decision"], zero)
        story.timeline(zero)
        story.say(_signed(receipt))
        stage.record["act_one"] = {"receipt": receipt, "moments": _moments(story, zero)}
        story.moments.clear()
        shop.tell("quit")
        shop.wait()
    return str(receipt["revocation"])


def lift(stage: Set, revocation: str) -> None:
    """A revoked identity waits for an operator."""
    story = stage.story
    story.chapter("Start it again? Not before an operator has looked")
    with _shop(stage) as shop:
        denied = shop.hear("denied")
        story.say(f"denied: {denied['reason']}, exit {shop.wait()}, lockstep explain {denied['decision']}")
    run(
        [beside("lockstep"), "revocations", "lift", revocation, "--reason", "plugin source taken down"],
        stage.env,
    )
    story.say(f"$ lockstep revocations lift {revocation}")


def act_two(stage: Set) -> None:
    """The same plugin, with the in-process hook off: a detector's webhook alone."""
    story = stage.story
    story.chapter("Once more with the SDK's hook off: a detector's webhook is enough")
    with _shop(stage, LOCKSTEP_GUARD="off") as shop:
        ready = _ready(story, shop)
        _order(stage, shop)
        shop.tell("plugin", stage.market)
        shop.hear("imported")
        zero = time.time()
        answer = _webhook(stage, shop.pid, ready)
        story.note(zero, "webhook", "sent")
        story.note(time.time(), "webhook", f"answered: {answer}")
        revoked = shop.hear("revoked")
        story.note(revoked["at"], "shop", f"told: {revoked['reason']}; secrets dropped", "yellow")
        _after(stage, shop)
        receipt = _receipt(stage, revoked["decision"], zero)
        story.timeline(zero)
        story.say(_signed(receipt))
        stage.record["act_two"] = {"receipt": receipt, "moments": _moments(story, zero)}
        story.moments.clear()
        shop.tell("quit")
        shop.wait()


def _shop(stage: Set, **extra: str) -> Any:
    env = {**stage.env, "ORDERS_URL": stage.orders_url, **extra}
    return acting("shop", [sys.executable, str(HERE / "shop" / "shop.py")], env)


def _ready(story: Story, shop: Actor) -> dict[str, Any]:
    ready = shop.hear("ready", "denied")
    if ready["event"] == "denied":
        raise StageError(f"the shop was denied: {ready}")
    story.say(f"attested as {ready['attestation']}, lease {ready['lease']}")
    return ready


def _order(stage: Set, shop: Actor) -> None:
    shop.tell("order")
    answer = shop.hear("ordered", "refused", "no-credential")
    if answer["event"] != "ordered":
        raise StageError(f"the order was not taken: {answer}")
    checked = stage.orders.hear("checked")
    stage.story.say(f"order taken ({checked['status']}): {checked['line']}")


def _after(stage: Set, shop: Actor) -> None:
    """The shop has no credential any more, and the copy that the plugin kept is worth nothing."""
    shop.tell("order")
    gone = shop.hear("no-credential", "ordered")
    if gone["event"] == "ordered":
        raise StageError("the shop kept its credential")
    stage.story.note(gone["at"], "shop", f"has no credential: {gone['reason']}")
    # The resource server follows the log on its own: told milliseconds later, or deaf and closed after 6 s.
    deadline = time.monotonic() + TOLD_WITHIN
    while True:
        shop.tell("replay")
        answer = shop.hear("refused", "ordered")
        checked = stage.orders.hear("checked")
        if answer["event"] == "refused":
            break
        stage.story.note(checked["at"], "orders", "takes the plugin's copy: not told yet", "yellow")
        if time.monotonic() > deadline:
            raise StageError("a credential survived its revocation")
    stage.story.note(
        checked["at"], "orders", f"refuses the plugin's copy: {checked['status']} {checked['why']}", "red"
    )


def _webhook(stage: Set, pid: int, ready: Mapping[str, Any]) -> str:
    digest = hashlib.sha256((HERE / "market" / "plugin.py").read_bytes()).hexdigest()
    answer = post_report(stage.env, pid=pid, digest=digest, path="plugin.py", node=socket.gethostname())
    found = answer["reports"][0]
    return f"{found['state']}, {found['reason']}"


def _receipt(stage: Set, decision: str, zero: float) -> dict[str, Any]:
    """Wait for the signed receipt, and put its steps on the timeline."""
    lockstep = beside("lockstep")
    explained = json.loads(run([lockstep, "explain", decision, "--json"], stage.env))
    revocation = explained["decision"]["revocation_id"]
    answer = json.loads(run([lockstep, "receipts", revocation, "--wait", "20", "--json"], stage.env))
    receipt: dict[str, Any] = json.loads(base64.b64decode(answer["payload"]))
    receipt["signed_by"] = answer["signatures"][0]["keyid"]
    for step in receipt["steps"]:
        at = dt.datetime.fromisoformat(step["at"]).timestamp()
        style = "bold red" if step["name"] == "denied" else "green" if step["name"] == "confirmed" else ""
        stage.story.note(at, "broker", f"{step['name']}: {step['detail']}", style)
    return receipt


def _signed(receipt: Mapping[str, Any]) -> str:
    open_ends = len(receipt["unconfirmed"])
    return (
        f"receipt {receipt['revocation']} signed by {receipt['signed_by'][:16]}…: {receipt['leases']} leases ended, "
        f"{open_ends} unconfirmed"
    )


def _moments(story: Story, zero: float) -> list[dict[str, Any]]:
    return [
        {"ms": round((at - zero) * 1000, 3), "who": who, "what": what}
        for at, who, what, _ in sorted(story.moments)
    ]


def _since(begun: float) -> str:
    return f"{time.monotonic() - begun:.1f} s"


if __name__ == "__main__":
    sys.exit(main())
