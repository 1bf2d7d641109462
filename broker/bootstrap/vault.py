"""Which Vaults a configuration uses, and what it needs of each."""

from __future__ import annotations

from broker.adapters.backends.vault import VaultOptions
from broker.adapters.backends.vault_setup import Wanted
from broker.settings import Settings
from broker.settings.gate import GateBackend
from broker.settings.server import gate_issuer
from broker.settings.vault import VaultBackend


def vaults(settings: Settings, login_role: str) -> tuple[tuple[Wanted, VaultOptions], ...]:
    """Every backend of kind ``vault``, in the order of the file; `login_role` is the name of an AppRole, which no
    file says."""
    tables = settings.tables.backends
    gated = {table.vault for table in tables.values() if isinstance(table, GateBackend)}
    return tuple(
        (
            Wanted.of(
                name,
                table.options(),
                {role.name: role.parameters for role in settings.book.roles.values() if role.backend == name},
                login_role=login_role,
                gate_issuer=gate_issuer(settings.server.issuer) if name in gated else "",
            ),
            table.options(),
        )
        for name, table in tables.items()
        if isinstance(table, VaultBackend)
    )
