"""No secret reaches the audit log or an export of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lockstep_client.audit import check
from tests.integration.test_restored_copy import ROLES
from tests.support.actors import clean_environment, until
from tests.support.brokers import dev_broker
from tests.support.wire import Wire, Workload, envelope, publish

pytestmark = pytest.mark.integration


def test_no_token_and_no_key_is_in_the_audit_log_or_an_export(tmp_path: Path) -> None:
    roles = tmp_path / "roles.toml"
    roles.write_text(ROLES)
    folder = tmp_path / "dev"
    secrets = []
    with dev_broker(folder, roles) as broker, Wire(broker.address, broker.ca) as wire:
        publish(broker, envelope(broker, "app"))
        for number in range(3):
            identity = broker.token(f"app-{number}")
            workload = Workload(wire, identity)
            workload.attest("app", roles=["app"])
            secrets += [identity, workload.issue("app").credential.token]
        log = folder / "state" / "audit.jsonl"
        until(lambda: log.read_bytes().count(b'"kind":"issue"') == 3, "the grants are in the audit log")
        done = subprocess.run(
            [sys.executable, "-m", "broker", "audit", "export", "-c", str(folder / "lockstep.toml")],
            env=clean_environment({}),
            capture_output=True,
            timeout=30,
            check=True,
        )
    export = tmp_path / "export.jsonl"
    export.write_bytes(done.stdout)
    assert check(export).fault is None
    assert done.stdout.count(b'"kind":"issue"') == 3
    # The private halves of whatever lies in the broker's folder, too.
    keys = [file.read_text() for file in folder.rglob("*") if file.suffix in (".pem", ".key", ".secret")]
    assert keys
    bodies = [line for key in keys for line in key.splitlines() if len(line) > 20 and "-----" not in line]
    for text in (log.read_text(), done.stdout.decode(), done.stderr.decode()):
        for secret in [*secrets, *bodies]:
            # A token in parts is a token, too: its signature is what nobody may have.
            assert secret not in text
            assert secret.rsplit(".", 1)[-1] not in text
