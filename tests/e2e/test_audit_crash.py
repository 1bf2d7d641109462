"""Killed under load, a broker has every decision that it committed in its audit log after the next start, once."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from broker.adapters.audit import verify_lines
from tests.support.brokers import Broker, dev_broker
from tests.support.wire import Refused, Wire, Workload, envelope, publish

HERE = Path(__file__).parent
CALLERS = 4


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Broker]:
    roles = Path(shutil.copy(HERE / "roles.toml", tmp_path / "roles.toml"))
    with dev_broker(tmp_path / "dev", roles) as running:
        publish(running, envelope(running, "app", "lib"))
        yield running


def decided(broker: Broker) -> set[str]:
    """What the state has."""
    with closing(sqlite3.connect(broker.folder / "state" / "lockstep.db")) as state:
        return {row[0] for row in state.execute("SELECT id FROM decisions")}


def written(broker: Broker) -> Counter[str]:
    """What the audit log has, its chain followed."""
    lines = (broker.folder / "state" / "audit.jsonl").read_bytes().splitlines(keepends=True)
    verify_lines(lines)
    found: Counter[str] = Counter()
    for line in lines:
        try:
            found[json.loads(line)["decision"]["id"]] += 1
        except (ValueError, KeyError):
            continue  # cut short by the kill
    return found


def load(broker: Broker, number: int) -> None:
    """Issue until nobody is there."""
    with Wire(broker.address, broker.ca) as wire:
        workload = Workload(wire, broker.token(f"app-load-{number}"))
        with contextlib.suppress(Refused):
            workload.attest("app", roles=["app"])
            for _ in range(100):
                workload.issue("app")


def test_every_decision_is_in_the_audit_log_after_a_crash(own: Broker) -> None:
    for _ in range(2):
        before = len(decided(own))
        with ThreadPoolExecutor(CALLERS) as pool:
            callers = [pool.submit(load, own, number) for number in range(CALLERS)]
            while len(decided(own)) < before + 60:
                assert not all(caller.done() for caller in callers)
            own.kill()
            for caller in callers:
                caller.result(30)
        own.start()
        found = written(own)
        assert set(found) == decided(own)
        assert set(found.values()) == {1}
    own.stop()
    assert set(written(own)) == decided(own)


def test_a_decision_that_the_log_lacks_is_written_at_the_next_start(own: Broker) -> None:
    load(own, 1)
    own.stop()
    path = own.folder / "state" / "audit.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    # As a kill between commit and line leaves it.
    path.write_bytes(b"".join(lines[:-7]))
    mark = own.mark()
    own.start()
    assert own.heard("the audit log was completed", since=mark)["decisions"] == 7
    assert set(written(own)) == decided(own)


def test_a_file_that_was_moved_away_begins_with_what_the_state_has(own: Broker) -> None:
    load(own, 1)
    own.stop()
    (own.folder / "state" / "audit.jsonl").unlink()
    own.start()
    found = written(own)
    assert set(found) == decided(own)
    assert set(found.values()) == {1}
