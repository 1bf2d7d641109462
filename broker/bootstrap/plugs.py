"""The only list of plugs: what a configuration calls a kind, and what is built for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from broker.adapters.backends.jwt import JwtBackend
from broker.adapters.detectors.standard import StandardDetector
from broker.adapters.identity.oidc import OidcIdentity, oidc_identity
from broker.adapters.identity.spiffe import SpiffeIdentity
from broker.crypto.keyfiles import read_secret
from broker.crypto.webhooks import parse_verifying_key
from broker.ports import Clock, CredentialBackend, Detector, Entropy, TargetCutter, TokenSigner
from broker.settings.cutters import PostgresCutter as PostgresTable
from broker.settings.gate import GateBackend as GateTable
from broker.settings.server import Server, gate_issuer
from broker.settings.tables import DetectorTable, OidcSource, SpiffeSource
from broker.settings.vault import VaultBackend as VaultTable

if TYPE_CHECKING:
    from broker.adapters.backends.vault.backend import VaultBackend

Warn = Callable[[str], None]
IdentityPlug = OidcIdentity | SpiffeIdentity


@dataclass(frozen=True, slots=True)
class Parts:
    """What plugs are made of, beside their own table. `run` names this process, new at every start."""

    server: Server
    tokens: TokenSigner
    gate: TokenSigner | None
    warn: Warn
    clock: Clock
    entropy: Entropy
    run: str


def _oidc(name: str, table: OidcSource, parts: Parts) -> OidcIdentity:
    return oidc_identity(
        table.rules(name),
        jwks_file=table.jwks_file,
        jwks_url=table.jwks_url or "",
        ca_file=table.ca_file,
        jwks_hosts=frozenset(table.jwks_hosts),
        warn=parts.warn,
    )


def _spiffe(name: str, table: SpiffeSource, parts: Parts) -> SpiffeIdentity:
    return SpiffeIdentity(name, table.trust_domain, table.bundle, warn=parts.warn)


def _jwt(name: str, table: object, parts: Parts) -> JwtBackend:
    return JwtBackend(parts.tokens, parts.server.issuer)


def _vault(name: str, table: VaultTable, parts: Parts) -> CredentialBackend:
    from broker.adapters.backends.vault.backend import VaultBackend

    # A plug of its own name: what one of an earlier configuration has under way, the next cannot know.
    replica = f"{parts.run}/{parts.entropy.token(4).hex()}"
    return VaultBackend(name, table.options(), parts.clock, replica, parts.warn)


def _gate(
    name: str, table: GateTable, parts: Parts, vault: VaultBackend, longest: float
) -> CredentialBackend:
    from broker.adapters.backends.gate.backend import GateBackend

    if parts.gate is None:
        raise ValueError(f"backends.{name}: there is no keys.gate")
    return GateBackend(
        parts.gate,
        gate_issuer(parts.server.issuer),
        table.options(longest),
        vault.session,
        parts.clock,
        parts.entropy,
        f"{parts.run}/{parts.entropy.token(4).hex()}",
    )


def _postgres(name: str, table: PostgresTable) -> TargetCutter:
    try:
        from broker.adapters.cutters.postgres import PostgresCutter
    except ImportError:
        raise ValueError(f'cutters.{name}: asyncpg is missing; install "lockstep-broker[postgres]"') from None
    return PostgresCutter(table.options())


def _standard(name: str, table: DetectorTable, parts: Parts) -> StandardDetector:
    keys = [parse_verifying_key(read_secret(path).decode("ascii", "replace")) for path in table.keys]
    return StandardDetector(name, keys, tolerance=parts.server.limits.report_age)


IDENTITIES: Final[Mapping[str, Callable[[str, Any, Parts], IdentityPlug]]] = {
    "oidc": _oidc,
    "spiffe": _spiffe,
}
BACKENDS: Final[Mapping[str, Callable[[str, Any, Parts], CredentialBackend]]] = {
    "jwt": _jwt,
    "vault": _vault,
}
GATES: Final[Mapping[str, Callable[[str, Any, Parts, Any, float], CredentialBackend]]] = {
    "gate": _gate,
}
"""Backends that stand on another one: a Vault, and its longest request in seconds."""
CUTTERS: Final[Mapping[str, Callable[[str, Any], TargetCutter]]] = {
    "postgres": _postgres,
}
DETECTORS: Final[Mapping[str, Callable[[str, Any, Parts], Detector]]] = {
    "standard": _standard,
}
