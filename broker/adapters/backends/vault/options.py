"""What an operator says of one Vault: where it is, how the broker logs in, what it may wait for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from broker.adapters.backends.vault.login import Login


@dataclass(frozen=True, slots=True)
class VaultOptions:
    """Durations are seconds. `addresses` are origins (``https://host:port``) of the nodes of one cluster.

    `token_role` makes the service tokens and `policies` are put on them (empty:
    those of the token role). `mounts` says which engine is at a mount path.
    `timeout` bounds one act with all its tries, `token_ttl` how long a service
    token lives without being extended. With `sweep`, leases under the roles'
    paths that no row knows are taken back. `max_request_duration` is what the
    server's listener says: after it no request that was ever sent still runs.
    `circuit_failures` failures in a row open the circuit for `circuit_pause`.
    """

    addresses: tuple[str, ...]
    login: Login
    namespace: str = ""
    ca_file: Path | None = None
    token_role: str = "lockstep"
    policies: tuple[str, ...] = ()
    mounts: Mapping[str, str] = field(default_factory=dict)
    timeout: float = 10.0
    max_request_duration: float = 30.0
    token_ttl: float = 300.0
    sweep: bool = True
    connections: int = 16
    circuit_failures: int = 5
    circuit_pause: float = 2.0
