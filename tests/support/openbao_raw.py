"""An OpenBao whose storage a test may write: what takes the server ten minutes is there at once."""

from __future__ import annotations

import json
from typing import Any

from tests.support.openbao import OpenBao


class RawBao(OpenBao):
    """Gives a lease up as the server does by itself after six tries, the last of them nine minutes after the first."""

    def _config(self) -> dict[str, Any]:
        return {**super()._config(), "raw_storage_endpoint": True}

    def give_up(self, namespace: str, lease_id: str) -> None:
        """From now on it calls a lease irrevocable. Sealed and unsealed once."""
        uuid = self.root.read(f"sys/namespaces/{namespace}")["uuid"]
        path = f"sys/raw/namespaces/{uuid}/sys/expire/id/{lease_id}"
        entry = json.loads(self.root.read(path)["value"])
        entry["revokeErr"] = (
            "out of retries: failed to revoke entry: resp: (*logical.Response)(nil) err: refused"
        )
        self.root.call("PUT", path, {"value": json.dumps(entry)})
        self.seal()
        self.unseal()
