"""A lease that Vault has given up on: STUCK, in the log, in the metrics, and not forgotten until it is gone."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest
import urllib3

from tests.e2e.test_vault import ROLES, attested, given
from tests.support.brokers import Broker, dev_broker
from tests.support.wire import Wire, envelope, publish

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.postgres import Postgres

PATIENCE = 30.0


def metric(broker: Broker, line: str) -> None:
    """Wait until a scrape has a line."""
    pool = urllib3.PoolManager(ca_certs=str(broker.ca), retries=False)
    deadline = time.monotonic() + PATIENCE
    while line not in (text := pool.request("GET", f"{broker.http_url}/metrics", timeout=10.0).data.decode()):
        assert time.monotonic() < deadline, "\n".join(item for item in text.splitlines() if "lease" in item)


@pytest.mark.integration
def test_a_lease_that_vault_has_given_up_on_stays_stuck_and_is_an_alarm(
    postgres_server: Postgres, tmp_path: Path
) -> None:
    from tests.support.openbao_raw import RawBao
    from tests.support.vault_stage import lay_out

    server = RawBao(tmp_path / "bao")
    try:
        server.start()
        stage = lay_out(server, postgres_server, tmp_path / "stage")
        # The database refuses to drop any login.
        stage.vault.root.write("database/roles/payments", revocation_statements=["SELECT 1/0"])
        roles = tmp_path / "roles.toml"
        roles.touch(mode=0o600)
        roles.write_text(stage.backend() + stage.cutter() + ROLES)
        with dev_broker(tmp_path / "dev", roles) as broker:
            publish(broker, envelope(broker, "app", "lib"))
            with Wire(broker.address, broker.ca) as wire:
                issued = attested(broker, wire, "db-stuck").issue("without-cutter")
            (lease_id,) = stage.vault.leases("database/creds/payments")
            broker.kill()
            server.give_up(stage.vault.namespace, lease_id)
            mark = len(broker.lines)
            broker.start()
            # A sweep at the start finds it, though nobody has asked for it to be taken back.
            told = broker.heard("a credential cannot be taken back yet", since=mark, within=PATIENCE)
            assert told["stuck"] == issued.lease.lease_id
            metric(broker, 'lockstep_irrevocable_leases{backend="vault"} 1.0')
            metric(broker, "lockstep_stuck_leases 1.0")
            (stuck,) = json.loads(broker.cli("leases", "--stuck", "--json", expect=1))
            assert stuck["lease_id"] == issued.lease.lease_id
            assert given(issued)[1] not in json.dumps(stuck)
    finally:
        server.stop()
