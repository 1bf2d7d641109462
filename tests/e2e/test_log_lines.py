"""What a real broker writes: JSON and nothing else, events of the page, and no secret that went through it."""

from __future__ import annotations

import json
import signal
from datetime import datetime
from pathlib import Path

import pytest

from tests.house.test_log import told
from tests.support.brokers import prepared, serving
from tests.support.wire import Refused, Wire, Workload, envelope, publish

HERE = Path(__file__).parent


def key_lines(folder: Path) -> set[str]:
    """The lines of every private key in a folder, those that tell something."""
    return {
        line
        for file in folder.rglob("*.key")
        for line in file.read_text().splitlines()
        if len(line) > 20 and not line.startswith("-")
    }


def test_every_line_is_json_of_a_known_event_without_a_secret(tmp_path: Path) -> None:
    folder = tmp_path / "dev"
    text = prepared(folder).replace("include = []", 'include = ["roles.toml"]')
    (folder / "roles.toml").write_text((HERE / "roles.toml").read_text())
    secrets = key_lines(folder)
    assert secrets
    with serving(folder, text) as broker:
        publish(broker, envelope(broker, "app", "lib"))
        good = broker.token("app-canary")
        bad = broker.token("app-canary", iss="https://elsewhere.example")
        secrets |= {good, bad, bad.rpartition(".")[2], (folder / "operator.token").read_text().strip()}
        with Wire(broker.address, broker.ca) as wire:
            workload = Workload(wire, good)
            workload.attest("app", roles=["app"])
            secrets.add(workload.issue("app").credential.token)
            with pytest.raises(Refused):
                Workload(wire, bad).attest("app", roles=["app"])
        broker.heard("refused")
        assert broker.reload()
        (folder / "roles.toml").write_text("[roles.broken]\nsecret = 'canary-of-a-bad-file'\n")
        secrets.add("canary-of-a-bad-file")
        assert not broker.reload()
        broker.signal(signal.SIGTERM)
        assert broker.wait() == 0
        log = broker.log
    known = told().keys()
    heard = set()
    for line in log.splitlines():
        found = json.loads(line)
        assert (found["event"], found["level"]) in known
        assert datetime.fromisoformat(found["timestamp"]).utcoffset() is not None
        heard.add(found["event"])
    assert {"ready", "refused", "reloaded", "configuration refused", "draining"} <= heard
    assert [secret for secret in secrets if secret in log] == []
