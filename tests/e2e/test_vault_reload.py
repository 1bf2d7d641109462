"""A reload that does not concern a backend keeps its accounts; one that does goes on with new ones."""

from __future__ import annotations

import ssl
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.brokers import Broker, dev_broker
from tests.support.wire import Refused, Wire, Workload, envelope, publish

if TYPE_CHECKING:
    from pathlib import Path

ROLES = """
[manifests.app]
signers = ["dev"]
[roles.partner]
mode = "enforce"
identity = { from = "dev", subject = "partner" }
manifests = ["app"]
backend = { use = "vault", path = "kv/data/partner" }
ttl = "5m"
static = "accepted"
revocability = "never"
"""
BACKEND = """
[backends.vault]
kind = "vault"
address = "{address}"
namespace = "{namespace}"
ca_file = "{ca}"
circuit_failures = 1
timeout = "1s"
auth = {{ method = "approle", role_id_file = "{role_id_file}", secret_id_file = "{secret_id_file}" }}
"""


def readyz(broker: Broker) -> dict[str, Any]:
    import json

    context = ssl.create_default_context(cafile=str(broker.ca))
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    with opener.open(f"{broker.http_url}/readyz", timeout=10) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


@pytest.mark.integration
def test_accounts_over_reloads_and_a_vault_that_goes_away(tmp_path: Path) -> None:
    from tests.support.openbao import openbao
    from tests.support.vault_ground import lay_out
    from tests.support.vault_plug import key_value

    with openbao(tmp_path / "bao", storage="raft") as server:
        ground = lay_out(server, tmp_path / "ground")
        key_value(ground)
        backend = BACKEND.format(
            address=server.address, namespace=ground.namespace, ca=server.ca, **ground.approle()
        )
        roles = tmp_path / "roles.toml"
        roles.touch(mode=0o600)
        roles.write_text(backend + ROLES)
        with dev_broker(tmp_path / "dev", roles) as broker, Wire(broker.address, broker.ca) as wire:
            publish(broker, envelope(broker, "app", "lib"))
            workload = Workload(wire, broker.token("partner"))
            workload.attest("app")
            assert workload.issue("partner").credential.fields.values["key"] == "static-secret"
            # The broker's own token, and the account's.
            assert ground.tokens() == 2

            text = roles.read_text()
            roles.write_text(text.replace('ttl = "5m"', 'ttl = "4m"'))
            assert broker.reload()
            workload.issue("partner")
            assert ground.tokens() == 2

            roles.write_text(text.replace('timeout = "1s"', 'timeout = "2s"'))
            assert broker.reload()
            workload.issue("partner")
            # A new login and a new account; the old account ends with the instance, or by itself.
            assert ground.tokens() in (3, 4)

            assert readyz(broker)["components"] == {"backends.vault": "ok"}
            server.kill()
            with pytest.raises(Refused) as refused:
                workload.issue("partner")
            assert refused.value.reason == "backend_unavailable"
            shown = readyz(broker)
            assert (shown["ready"], shown["components"]) == (True, {"backends.vault": "unavailable"})
            server.start()
