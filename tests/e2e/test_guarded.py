"""Approved programs under the guard, as everybody runs them: the SDK itself is never what gets them revoked."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.actors import Actor, acting, until
from tests.support.brokers import Broker
from tests.support.wire import Wire, Workload

PROGRAMS = Path(__file__).parent / "programs"
FACES = ("worker.py", "aio_worker.py")


@contextlib.contextmanager
def workers(broker: Broker, **changes: str) -> Iterator[list[Actor]]:
    """One of each face of the SDK, side by side; each has said whether it was let in."""
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(
                acting(
                    name,
                    [sys.executable, str(PROGRAMS / name)],
                    {**broker.env(f"guarded-{name.partition('.')[0]}"), "WORKER_ROLE": "guarded", **changes},
                )
            )
            for name in FACES
        ]


@pytest.fixture(scope="module")
def approving(broker: Broker) -> Broker:
    """Both programs were refused, and then approved by what the refusal saw: nothing else was ever learnt of them."""
    with workers(broker) as refused:
        decisions = [worker.hear("denied")["decision"] for worker in refused]
        assert [worker.wait() for worker in refused] == [78, 78]
    for decision in decisions:
        broker.cli("manifest", "approve", "--from", decision, "--yes")
    return broker


def let_in(worker: Actor) -> dict[str, Any]:
    """What it says once it has its credential."""
    heard = worker.hear("ready", "denied")
    assert heard["event"] == "ready", heard
    return heard


def renewed(worker: Actor, token: str) -> None:
    """Ask again and again until it holds another token than this one."""

    def another() -> bool:
        found = worker.ask("use")
        assert "token" in found, f"{found}\n{worker.noise}"
        return bool(found["token"] != token)

    until(another, "the token is renewed", pause=0.1)


def detections(broker: Broker, wire: Wire, attestation: str) -> list[dict[str, Any]]:
    """Decisions of the audit log about reports on an instance: all that were made before this was asked."""
    audit = broker.folder / "state" / "audit.jsonl"
    # Lines are written in order, a moment later: once a newer one is there, nothing is missing.
    last = Workload(wire, broker.token("app-marks-a-moment")).attest("app", roles=["app"]).decision_id
    until(lambda: last in audit.read_text(), "the audit log has come so far")
    found = [json.loads(line).get("decision", {}) for line in audit.read_text().splitlines()]
    return [
        item
        for item in found
        if "detection" in item and attestation in (item.get("attestation"), *item.get("instances", ()))
    ]


def test_what_a_refusal_led_to_runs_renews_and_ends_unreported(approving: Broker, wire: Wire) -> None:
    with workers(approving) as running:
        ready = [let_in(worker) for worker in running]
        for worker in running:
            # What the SDK does where a user's callback fails is its own doing too.
            worker.ask("stumble")
        for worker, found in zip(running, ready, strict=True):
            renewed(worker, found["token"])
        for worker in running:
            until(lambda worker=worker: "naïve" in worker.noise, "the callback's failure is logged")
            assert worker.ask("use")["ready"]
            worker.tell("quit")
            assert worker.wait() == 0
    for found in ready:
        assert detections(approving, wire, found["attestation"]) == []


def test_a_guard_that_enforces_lets_the_sdk_work_and_stops_what_comes_later(
    approving: Broker, wire: Wire
) -> None:
    with workers(approving, LOCKSTEP_GUARD="enforce") as running:
        ready = [let_in(worker) for worker in running]
        for worker, found in zip(running, ready, strict=True):
            renewed(worker, found["token"])
        for worker, found in zip(running, ready, strict=True):
            assert worker.ask("exec") == {"event": "answer", "stopped": "unit_not_approved"}
            # The role enforces: that the broker was told shows in what it did.
            assert worker.hear("revoked")["decision"]
            assert detections(approving, wire, found["attestation"])
