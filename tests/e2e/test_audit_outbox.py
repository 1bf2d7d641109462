"""A broker that is killed under load misses no decision in its audit log, and writes none twice."""

from __future__ import annotations

import json
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from broker.adapters.audit import verify_lines
from tests.integration.test_restored_copy import ROLES
from tests.support.actors import until
from tests.support.brokers import Broker, dev_broker
from tests.support.wire import Wire, Workload, envelope, publish

pytestmark = pytest.mark.e2e

KILLS = 3


def committed(folder: Path) -> list[str]:
    with closing(sqlite3.connect(folder / "state" / "lockstep.db")) as state:
        return [row[0] for row in state.execute("SELECT id FROM decisions ORDER BY n")]


def parsed(folder: Path) -> list[dict[str, Any]]:
    """Whole lines; a crash may have cut one short."""
    found = []
    for line in (folder / "state" / "audit.jsonl").read_bytes().splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def written(folder: Path) -> list[str]:
    return [line["decision"]["id"] for line in parsed(folder) if "decision" in line]


def load(broker: Broker, number: int, got: threading.Semaphore) -> None:
    """Attest once, then take leases for as long as there is a broker."""
    try:
        with Wire(broker.address, broker.ca) as wire:
            workload = Workload(wire, broker.token(f"app-{number}"))
            workload.attest("app", roles=["app"])
            while True:
                workload.issue("app")
                got.release()
    except Exception:  # noqa: BLE001 - the broker is killed under it
        return


def test_every_committed_decision_is_in_the_audit_log_once(tmp_path: Path) -> None:
    roles = tmp_path / "roles.toml"
    roles.write_text(ROLES)
    folder = tmp_path / "dev"
    missing = 0
    with dev_broker(folder, roles) as broker:
        with Wire(broker.address, broker.ca):
            publish(broker, envelope(broker, "app"))
        for turn in range(KILLS):
            got = threading.Semaphore(0)
            callers = [
                threading.Thread(target=load, args=(broker, 10 * turn + number, got), daemon=True)
                for number in range(4)
            ]
            for caller in callers:
                caller.start()
            for _ in range(60):
                assert got.acquire(timeout=20)
            broker.kill()
            for caller in callers:
                caller.join(20)
            rows, lines = committed(folder), written(folder)
            assert lines == rows[: len(lines)]
            missing += len(rows) - len(lines)
            broker.start()
            # What was left is written before anybody is served.
            assert written(folder)[: len(rows)] == rows
    # Else no kill came between a commit and its line, and nothing was shown.
    assert missing > 0
    until(lambda: written(folder) == committed(folder), "the rest is written at the end")
    assert len(set(committed(folder))) == len(committed(folder))
    with (folder / "state" / "audit.jsonl").open("rb") as found:
        report = verify_lines(found)
    assert report.lost == 0
    assert "checkpoint" in parsed(folder)[-1]
