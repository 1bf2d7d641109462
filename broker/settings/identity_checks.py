"""Cross checks of identity sources with the files that they name: trust bundles, key sets, authorities."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from broker.adapters.identity.oidc import oidc_identity
from broker.adapters.identity.spiffe import SpiffeIdentity
from broker.settings.backend_checks import Fault
from broker.settings.book import Tables
from broker.settings.tables import IdentitySource, SpiffeSource


def identity_faults(tables: Tables) -> Iterator[Fault]:
    """What the plugs themselves would refuse. Opens no connection."""
    for name, table in tables.identity.items():
        key, path = _file(table)
        try:
            if isinstance(table, SpiffeSource):
                SpiffeIdentity(name, table.trust_domain, table.bundle)
            else:
                oidc_identity(
                    table.rules(name),
                    jwks_file=table.jwks_file,
                    jwks_url=table.jwks_url or "",
                    ca_file=table.ca_file,
                ).close()
        except ValueError as error:
            said = str(error)
            yield "identity", name, key, said if path is None or str(path) in said else f"{path}: {said}"


def _file(table: IdentitySource) -> tuple[str, Path | None]:
    if isinstance(table, SpiffeSource):
        return "bundle", table.bundle
    if table.jwks_file is not None:
        return "jwks_file", table.jwks_file
    return ("ca_file", table.ca_file) if table.ca_file is not None else ("", None)
