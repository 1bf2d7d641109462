"""From one configuration to one generation of plugs; what has not changed is taken over from the last."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from broker.adapters.backends.vault import swept_path
from broker.adapters.identity.oidc import OidcIdentity
from broker.adapters.identity.router import IdentityRouter
from broker.adapters.identity.spiffe import SpiffeIdentity
from broker.adapters.limits import TokenBuckets
from broker.adapters.manifests.directory import DirectoryManifests
from broker.adapters.manifests.layered import LayeredManifests
from broker.adapters.receipts import ReceiptSealer
from broker.bootstrap.live import Generation, NoSigners
from broker.bootstrap.plugs import BACKENDS, CUTTERS, DETECTORS, GATES, IDENTITIES, IdentityPlug, Parts
from broker.crypto.dsse import DsseVerifier
from broker.crypto.keyfiles import load_private_key, load_public_key
from broker.model.role import DetectorPolicy
from broker.ports import (
    CredentialBackend,
    Detector,
    EnvelopeVerifier,
    ManifestSource,
    RateLimiter,
    StateStore,
)
from broker.settings import ConfigurationRefused, Problem, Settings
from broker.settings.book import Tables
from broker.settings.gate import GateBackend as GateTable
from broker.settings.problems import shown
from broker.settings.vault import VaultBackend as VaultTable


def generation(
    settings: Settings,
    parts: Parts,
    state: StateStore,
    state_manifests: ManifestSource,
    last: Generation | None = None,
) -> Generation:
    """The plugs of a configuration. Reads key files; opens no connection.

    Raises `ConfigurationRefused` where plugs and roles do not fit, `KeyFileError`
    or ``ValueError`` where a file changed since it was checked.
    """
    tables, book = settings.tables, settings.book
    sources: dict[str, tuple[Any, IdentityPlug]] = {}
    for name, table in tables.identity.items():
        known = last.sources.get(name) if last is not None else None
        # A source keeps its keys and what it has verified over a reload that does not concern it.
        kept = known is not None and known[0] == table
        if kept and known:
            sources[name] = known
            continue
        try:
            sources[name] = (table, IDENTITIES[table.kind](name, table, parts))
        except ValueError as error:  # a file changed since it was checked
            raise ConfigurationRefused(
                [Problem(shown(settings.file), f"identity.{name}", str(error))]
            ) from None
    # A backend keeps the accounts that it has opened, a cutter its connections.
    backends = _backends(settings, parts, last)
    cutters = {
        name: CUTTERS[cutter.kind](name, cutter)
        if last is None or last.settings.tables.cutters.get(name) != cutter
        else last.cutters[name]
        for name, cutter in tables.cutters.items()
    }
    _check_revocability(settings, backends)
    detectors: dict[str, tuple[Detector, DetectorPolicy]] = {}
    rates: dict[str, RateLimiter] = {}
    for name, detector in tables.detectors.items():
        policy = book.detectors[name]
        if detector.keys:
            detectors[name] = (DETECTORS[detector.kind](name, detector, parts), policy)
        before = last.book.detectors.get(name) if last is not None else None
        if last is not None and before is not None and before.rate == policy.rate:
            rates[name] = last.detector_rates[name]
        else:
            rates[name] = TokenBuckets({"detector": policy.rate})
    signers = {name: load_public_key(path) for name, path in tables.signers.items()}
    envelopes: EnvelopeVerifier = DsseVerifier(signers) if signers else NoSigners()
    manifests: dict[str, ManifestSource] = {}
    for name, application in tables.manifests.items():
        manifests[name] = state_manifests
        if application.source is not None:
            manifests[name] = DirectoryManifests(
                book.applications[name],
                application.source,
                envelopes=envelopes,
                state=state,
                kept=state_manifests,
                warn=parts.warn,
            )
    manifests = {name: _on_folders(name, manifests, tables) for name in manifests}
    return Generation(
        settings=settings,
        sources=sources,
        identities=IdentityRouter(
            [plug for _, plug in sources.values() if isinstance(plug, OidcIdentity)],
            [plug for _, plug in sources.values() if isinstance(plug, SpiffeIdentity)],
        ),
        envelopes=envelopes,
        backends=backends,
        cutters=cutters,
        manifests=manifests,
        detectors=detectors,
        detector_rates=rates,
        receipts=ReceiptSealer(load_private_key(settings.server.keys.receipts)),
    )


def _backends(settings: Settings, parts: Parts, last: Generation | None) -> dict[str, CredentialBackend]:
    tables = settings.tables.backends
    before = last.settings.tables.backends if last is not None else {}

    def kept(name: str) -> CredentialBackend | None:
        return last.backends[name] if last is not None and before.get(name) == tables[name] else None

    backends: dict[str, CredentialBackend] = {}
    for name, table in tables.items():
        if not isinstance(table, GateTable):
            backends[name] = kept(name) or BACKENDS[table.kind](name, table, parts)
    for name, table in tables.items():
        if isinstance(table, GateTable):
            vault, below = backends[table.vault], tables[table.vault]
            if not isinstance(below, VaultTable):
                raise ValueError(f"backends.{name}: {table.vault} is no Vault")
            # It speaks through its Vault's login, and is made anew with it.
            same = kept(table.vault) is not None
            backends[name] = (kept(name) if same else None) or GATES[table.kind](
                name, table, parts, vault, below.max_request_duration
            )
    return backends


def _on_folders(name: str, sources: Mapping[str, ManifestSource], tables: Tables) -> ManifestSource:
    """An application's source, with the folders of every layer below it."""
    below: set[str] = set()
    waiting = list(tables.manifests[name].includes)
    while waiting:
        layer = waiting.pop()
        if layer not in below:
            below.add(layer)
            waiting.extend(tables.manifests[layer].includes)
    folders = {layer: sources[layer] for layer in below if tables.manifests[layer].source is not None}
    return LayeredManifests(sources[name], folders) if folders else sources[name]


def watch_leases(fresh: Generation) -> None:
    """Each Vault is told below which paths leases are ours: those of its roles. Once the generation is in force:
    a sweep takes back what no row knows, and one that was refused names what may be others'."""
    for name, plug in fresh.vaults.items():
        table = fresh.settings.tables.backends[name]
        assert isinstance(table, VaultTable)  # noqa: S101 - that is what makes it one
        roles = [role for role in fresh.book.roles.values() if role.backend == name]
        paths = {swept_path(role.parameters, table.mounts) for role in roles}
        plug.watch(paths - {""})


def _check_revocability(settings: Settings, backends: Mapping[str, Any]) -> None:
    problems = []
    for name, role in settings.book.roles.items():
        offered = backends[role.backend].revocability_of(role.parameters)
        if offered.rank > role.revocability.rank:
            problems.append(
                Problem(
                    shown(settings.file),
                    f"roles.{name}.revocability",
                    f'backend {role.backend} offers "{offered.value}"; accept it, or use another backend',
                )
            )
    if problems:
        raise ConfigurationRefused(problems)


async def close_plugs(last: Generation, fresh: Generation | None) -> None:
    """Close backends and cutters of a generation that the next has not taken over."""
    kept = {id(plug) for plug in (*fresh.backends.values(), *fresh.cutters.values())} if fresh else set()
    for backend in last.vaults.values():
        if id(backend) not in kept:
            await backend.close()
    for cutter in last.cutters.values():
        if id(cutter) not in kept:
            await cutter.close()
