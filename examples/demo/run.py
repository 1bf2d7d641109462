"""The main job in one terminal: attest, issue, load unapproved code, revoked, receipt.

``python examples/demo/run.py`` (what ``make demo`` runs); ``--json`` prints the timeline for a program.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cast import HERE, Actor, StageError, acting, beside, plugin_market, run
from telling import Story, approve, moments, perform, receipt_of, signed, since, webhook

TOLD_WITHIN = 8.0
"""Seconds: the bound of the protocol, D + W."""


@dataclass(frozen=True, slots=True)
class Set:
    """What the acts share."""

    story: Story
    env: Mapping[str, str]
    orders: Actor
    orders_url: str
    market: str
    record: dict[str, Any]


def play(story: Story, folder: Path, record: dict[str, Any]) -> None:
    """The whole story, in a folder that is thrown away."""
    started = time.monotonic()
    story.chapter("A broker, for this laptop")
    dev = [beside("lockstep-broker"), "dev", "--json", "--folder", str(folder / "dev")]
    with acting("broker", [*dev, "--with", str(HERE / "roles.toml")], {}) as broker:
        ready = broker.hear()
        env: dict[str, str] = ready["env"]
        story.say(f"gRPC on {ready['address']}, HTTP door {ready['http_url']}, ready in {since(started)}")
        approve(story, folder, env, "shop", HERE / "shop")
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
    story.say(f"{since(started)} in all; every process has ended, and the folder is gone")


def act_one(stage: Set) -> str:
    """The shop sells; then it imports a plugin that it fetched. Returns the revocation's id."""
    story = stage.story
    story.chapter("The shop attests, gets a credential, and sells")
    with _shop(stage) as shop:
        _ready(story, shop)
        _order(stage, shop)
        story.chapter("It fetches a plugin over HTTP and imports it")
        zero = time.time()
        story.note(zero, "shop", f"fetches {stage.market}")
        shop.tell("plugin", stage.market)
        revoked = shop.hear("revoked")
        story.note(revoked["at"], "shop", f"told: {revoked['reason']}; secrets dropped", "yellow")
        shop.hear("imported", "no-credential")
        answer = webhook(stage.env, shop.pid)
        story.note(time.time(), "webhook", f"the same, from outside: {answer}")
        _after(stage, shop)
        receipt = receipt_of(story, stage.env, revoked["decision"])
        story.timeline(zero)
        story.say(signed(receipt))
        stage.record["act_one"] = {"receipt": receipt, "moments": moments(story, zero)}
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
        _ready(story, shop)
        _order(stage, shop)
        shop.tell("plugin", stage.market)
        shop.hear("imported")
        zero = time.time()
        answer = webhook(stage.env, shop.pid)
        story.note(zero, "webhook", "sent")
        story.note(time.time(), "webhook", f"answered: {answer}")
        revoked = shop.hear("revoked")
        story.note(revoked["at"], "shop", f"told: {revoked['reason']}; secrets dropped", "yellow")
        _after(stage, shop)
        receipt = receipt_of(story, stage.env, revoked["decision"])
        story.timeline(zero)
        story.say(signed(receipt))
        stage.record["act_two"] = {"receipt": receipt, "moments": moments(story, zero)}
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


if __name__ == "__main__":
    sys.exit(perform(__doc__ or "", play))
