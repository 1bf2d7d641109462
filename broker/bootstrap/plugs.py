"""The only list of plugs: what a configuration calls a kind, and what is built for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from broker.adapters.backends.jwt import JwtBackend
from broker.adapters.detectors.standard import StandardDetector
from broker.adapters.identity.oidc import OidcIdentity, oidc_identity
from broker.adapters.identity.spiffe import SpiffeIdentity
from broker.crypto.keyfiles import read_secret
from broker.crypto.webhooks import parse_verifying_key
from broker.ports import CredentialBackend, Detector, TokenSigner
from broker.settings.server import Server
from broker.settings.tables import DetectorTable, OidcSource, SpiffeSource

Warn = Callable[[str], None]
IdentityPlug = OidcIdentity | SpiffeIdentity


@dataclass(frozen=True, slots=True)
class Parts:
    """What plugs are made of, beside their own table."""

    server: Server
    tokens: TokenSigner
    warn: Warn


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


def _standard(name: str, table: DetectorTable, parts: Parts) -> StandardDetector:
    keys = [parse_verifying_key(read_secret(path).decode("ascii", "replace")) for path in table.keys]
    return StandardDetector(name, keys, tolerance=parts.server.limits.report_age)


IDENTITIES: Final[Mapping[str, Callable[[str, Any, Parts], IdentityPlug]]] = {
    "oidc": _oidc,
    "spiffe": _spiffe,
}
BACKENDS: Final[Mapping[str, Callable[[str, Any, Parts], CredentialBackend]]] = {
    "jwt": _jwt,
}
DETECTORS: Final[Mapping[str, Callable[[str, Any, Parts], Detector]]] = {
    "standard": _standard,
}
