"""Which Vaults a configuration uses, and what it needs of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from broker.adapters.backends.vault import VaultOptions
from broker.adapters.backends.vault_setup import Wanted
from broker.bootstrap.plugs import CUTTERS
from broker.ports import TargetCutter
from broker.settings import ConfigurationRefused, Outline, Problem
from broker.settings.gate import GateBackend
from broker.settings.server import gate_issuer
from broker.settings.vault import VaultBackend


def vaults(outline: Outline, login_role: str) -> tuple[tuple[Wanted, VaultOptions], ...]:
    """Every backend of kind ``vault``, in the order of the file; `login_role` is the name of an AppRole, which no
    file says. Raises `ConfigurationRefused` where a role's parameters make no secret."""
    tables = outline.tables
    gated = {table.vault for table in tables.backends.values() if isinstance(table, GateBackend)}
    found = []
    for name, table in tables.backends.items():
        if not isinstance(table, VaultBackend):
            continue
        roles = {
            role: tables.parameters[role]
            for role, entry in tables.roles.items()
            if entry.backend.use == name and role in tables.parameters
        }
        issuer = gate_issuer(outline.server.issuer) if name in gated else ""
        try:
            wanted = Wanted.of(name, table.options(), roles, login_role=login_role, gate_issuer=issuer)
        except ValueError as error:
            raise ConfigurationRefused([Problem("", f"backends.{name}", str(error))]) from None
        found.append((wanted, table.options()))
    return tuple(found)


def cutters(outline: Outline) -> Mapping[str, Callable[[], TargetCutter]]:
    """What makes each cutter of a configuration; it raises `KeyFileError` or ``ValueError`` where a file is not there
    yet, or a package."""
    tables = outline.tables.cutters
    return {name: partial(CUTTERS[table.kind], name, table) for name, table in tables.items()}
