"""Cross checks: what no table can know alone. Pure but for reading the key files that are named."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from broker.adapters.backends.jwt import check_parameters
from broker.crypto.keyfiles import KeyFileError, key_id, load_public_key, read_secret
from broker.crypto.webhooks import WebhookKeyError, parse_verifying_key
from broker.model.identity import matches_pattern
from broker.settings.backend_checks import Fault, backend_faults
from broker.settings.book import Tables
from broker.settings.gate import GateBackend
from broker.settings.identity_checks import identity_faults
from broker.settings.problems import Problem, nearest
from broker.settings.server import Server
from broker.settings.source import Source
from broker.settings.tables import JwtBackend, MatchTable, OidcSource, RoleTable, SpiffeSource

RESERVED_AUDIENCES: Final = frozenset({"lockstep-gate", "lockstep-receipt", "lockstep-introspection"})
"""Audiences of tokens that the broker makes for itself and its gates."""


def check(source: Source, server: Server | None, tables: Tables) -> None:
    """Note every fault between tables in `source.problems`."""
    faults = [
        *_sources(tables),
        *identity_faults(tables),
        *_names(source, tables),
        *_applications(source, tables),
        *_audiences(server, tables),
        *_signers(tables),
        *_detectors(tables),
        *_scopes(source, tables),
        *backend_faults(
            tables,
            _written(source, "backends"),
            _written(source, "cutters"),
            gate_key=server is None or server.keys.gate is not None,
        ),
    ]
    if server is not None:
        faults += _times(server, tables)
    for table, name, key, message in faults:
        path = (table, name, *key.split(".")) if key else (table, name)
        where = source.origin(path, source.entries[table, name].file)
        source.problems.append(Problem(where, ".".join(path), message))


def _written(source: Source, table: str) -> set[str]:
    # Entries with faults of their own count as there: one fault, one line.
    return {name for kind, name in source.entries if kind == table}


def _matches(tables: Tables) -> Iterator[tuple[str, str, MatchTable]]:
    for table, entries in (
        ("roles", tables.roles),
        ("operators", tables.operators),
        ("resource_servers", tables.resource_servers),
        ("detectors", tables.detectors),
    ):
        for name, entry in entries.items():
            match = entry.identity
            if isinstance(match, MatchTable):
                yield table, name, match


def _sources(tables: Tables) -> Iterator[Fault]:
    """What a proof says of itself must choose one source."""
    first: dict[tuple[str, ...], str] = {}
    for name, table in tables.identity.items():
        if isinstance(table, SpiffeSource):
            key: tuple[str, ...] = ("spiffe", table.trust_domain)
        else:
            key = ("oidc", table.issuer, table.audience, table.trust_domain)
        other = first.setdefault(key, name)
        if other != name:
            what = "trust domain" if isinstance(table, SpiffeSource) else "issuer and audience"
            yield "identity", name, "", f"has the {what} of [identity.{other}]; a proof must mean one of them"


def _names(source: Source, tables: Tables) -> Iterator[Fault]:
    identities, backends = _written(source, "identity"), _written(source, "backends")
    applications = _written(source, "manifests")
    for table, name, match in _matches(tables):
        if match.source not in identities:
            message = f"there is no [identity.{match.source}]{nearest(match.source, identities)}"
            yield table, name, "identity.from", message
            continue
        provider = tables.identity.get(match.source)
        if isinstance(provider, OidcSource) and match.spiffe_id and not provider.trust_domain:
            message = (
                f"[identity.{match.source}] verifies JWTs, whose subjects are no SPIFFE IDs; use subject"
            )
            yield table, name, "identity.spiffe_id", message
        if isinstance(provider, OidcSource):
            for claim in match.claims.keys() - provider.known_claims():
                message = f"[identity.{match.source}] does not read this claim; name it in its claims"
                yield table, name, f"identity.claims.{claim}", message
        if isinstance(provider, SpiffeSource):
            for key, pattern in (("spiffe_id", match.spiffe_id), ("subject", match.subject)):
                if pattern and not pattern.startswith(f"spiffe://{provider.trust_domain}/"):
                    message = (
                        f"can match nobody of its trust domain; begin with spiffe://{provider.trust_domain}/"
                    )
                    yield table, name, f"identity.{key}", message
    for name, role in tables.roles.items():
        if role.backend.use not in backends:
            message = f"there is no [backends.{role.backend.use}]{nearest(role.backend.use, backends)}"
            yield "roles", name, "backend.use", message
        for application in role.manifests:
            if application not in applications:
                message = f"there is no [manifests.{application}]{nearest(application, applications)}"
                yield "roles", name, "manifests", message


def _times(server: Server, tables: Tables) -> Iterator[Fault]:
    limits = server.limits
    for name, role in tables.roles.items():
        for level, seconds in role.ttl.items():
            if seconds < limits.ttl_shortest:
                message = f"shorter than limits.ttl_shortest ({limits.ttl_shortest:g} s); lengthen it"
                yield "roles", name, f"ttl.{level.word}", message
            if seconds > min(limits.ttl_longest, role.max_life):
                bound = "limits.ttl_longest" if limits.ttl_longest <= role.max_life else "max_life"
                message = f"longer than {bound} ({min(limits.ttl_longest, role.max_life):g} s); shorten it"
                yield "roles", name, f"ttl.{level.word}", message
        yield from _assurance(name, role)


def _assurance(name: str, role: RoleTable) -> Iterator[Fault]:
    if min(role.ttl) > role.assurance:
        word = role.assurance.word
        message = f'nothing says how long a credential lives at "{word}"; add ttl.{word}, or raise assurance'
        yield "roles", name, "assurance", message
    for level in role.ttl:
        if level < role.assurance:
            message = f'is below assurance ("{role.assurance.word}") and never granted; remove it'
            yield "roles", name, f"ttl.{level.word}", message


def _applications(source: Source, tables: Tables) -> Iterator[Fault]:
    signers, applications = _written(source, "signers"), _written(source, "manifests")
    for name, table in tables.manifests.items():
        for signer in table.signers:
            if signer not in signers:
                message = f'"{signer}" is not in [signers]{nearest(signer, signers)}'
                yield "manifests", name, "signers", message
        if len(set(table.signers)) != len(table.signers):
            yield "manifests", name, "signers", "names one signer twice; keep one"
        if table.threshold > len(set(table.signers)):
            message = f"{table.threshold} of {len(set(table.signers))} signers can never be met; lower it"
            yield "manifests", name, "threshold", message
        for included in table.includes:
            if included not in applications:
                message = f"there is no [manifests.{included}]{nearest(included, applications)}"
                yield "manifests", name, "includes", message
        if table.source is not None and not table.source.is_dir():
            yield "manifests", name, "source", f"{table.source}: no such folder; create it, or mount it first"
        circle = _circle(tables, name)
        if circle:
            yield "manifests", name, "includes", f"includes itself: {' → '.join(circle)}; break the circle"


def _circle(tables: Tables, start: str) -> list[str]:
    """A way from an application back to itself, or nothing."""
    stack = [[start]]
    seen = set()
    while stack:
        way = stack.pop()
        table = tables.manifests.get(way[-1])
        for included in table.includes if table else ():
            if included == start:
                return [*way, start]
            if included not in seen:
                seen.add(included)
                stack.append([*way, included])
    return []


def _audiences(server: Server | None, tables: Tables) -> Iterator[Fault]:
    reserved = set(RESERVED_AUDIENCES)
    if server is not None:
        reserved |= {server.cluster, server.issuer}
    reserved |= {table.audience for table in tables.backends.values() if isinstance(table, GateBackend)}
    reserved |= {source.audience for source in tables.identity.values() if isinstance(source, OidcSource)}
    first: dict[str, str] = {}
    for name, role in tables.roles.items():
        backend = tables.backends.get(role.backend.use)
        if not isinstance(backend, JwtBackend):
            continue
        audience = tables.parameters[name].get("audience")
        if audience is None:
            message = 'is missing; say who checks the token, for example audience = "orders"'
            yield "roles", name, "backend.audience", message
            continue
        try:
            check_parameters(tables.parameters[name])
        except ValueError as error:
            yield "roles", name, "backend", str(error)
        if audience in reserved:
            message = (
                f'"{audience}" is an audience of the broker itself, a gate or identity tokens; take another'
            )
            yield "roles", name, "backend.audience", message
        if backend.audience not in (None, audience):
            message = (
                f'"{audience}" contradicts [backends.{role.backend.use}], which says "{backend.audience}"; '
                "keep one of the two"
            )
            yield "roles", name, "backend.audience", message
        # Who checks the tokens of an audience must be able to say what it demands.
        other = first.setdefault(audience, name)
        if tables.roles[other].possession != role.possession:
            message = (
                f'audience "{audience}" has possession = "{tables.roles[other].possession}" in role {other}'
            )
            yield "roles", name, "possession", f"{message}; make both alike, or give each an audience"
    for name, server_table in tables.resource_servers.items():
        for audience in server_table.audiences:
            if audience in reserved:
                message = f'"{audience}" is an audience of the broker itself, or of identity tokens'
                yield "resource_servers", name, "audiences", f"{message}; take another"


def _signers(tables: Tables) -> Iterator[Fault]:
    owners: dict[str, str] = {}
    for name, path in tables.signers.items():
        try:
            key = key_id(load_public_key(path))
        except KeyFileError as error:
            yield "signers", name, "", str(error)
            continue
        other = owners.setdefault(key, name)
        if other != name:
            message = f"has the key of {other}: one signer would count twice; give each a key of its own"
            yield "signers", name, "", message


def _scopes(source: Source, tables: Tables) -> Iterator[Fault]:
    """A scope that reaches no role is a slip of the pen: its operator would be told no, whatever he asks."""
    if _written(source, "roles") - tables.roles.keys():
        return  # what is wrong with those is said; whose they are is not known
    owners = {role.owner for role in tables.roles.values() if role.owner}
    for name, table in tables.operators.items():
        if table.scope is None:
            continue
        for key, patterns, known in (
            ("owners", table.scope.owners, owners),
            ("roles", table.scope.roles, set(tables.roles)),
        ):
            for pattern in patterns:
                if not any(matches_pattern(pattern, word) for word in known):
                    what = "role is owned by" if key == "owners" else "role is called"
                    yield "operators", name, f"scope.{key}", f'no {what} "{pattern}"{nearest(pattern, known)}'


def _detectors(tables: Tables) -> Iterator[Fault]:
    for name, table in tables.detectors.items():
        for path in table.keys:
            try:
                parse_verifying_key(read_secret(path).decode("ascii", "replace"))
            except KeyFileError as error:
                yield "detectors", name, "keys", str(error)
            except WebhookKeyError as error:
                yield "detectors", name, "keys", f"{path}: {error}"
