"""Engines, the databases behind them, and logins that take attestation tokens; with an operator's token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from broker.adapters.backends.vault_setup.eyes import Eyes
from broker.adapters.backends.vault_setup.facts import Gate, Unseen
from broker.adapters.backends.vault_setup.wanted import Wanted, definition


async def mounts_of(eyes: Eyes) -> Mapping[str, str] | Unseen:
    found = await eyes.read("sys/mounts")
    if not isinstance(found, Mapping):
        return found or Unseen("no answer")
    return {name: str(mount.get("type", "")) for name, mount in found.items() if isinstance(mount, Mapping)}


async def login_mount(wanted: Wanted, eyes: Eyes) -> Mapping[str, Any] | Unseen | None:
    found = await eyes.read("sys/auth")
    if not isinstance(found, Mapping):
        return found
    mount = found.get(f"{wanted.login.mount}/")
    return mount if isinstance(mount, Mapping) else None


async def defined(path: str, mounts: Mapping[str, str] | Unseen, eyes: Eyes) -> bool | Unseen:
    if isinstance(mounts, Unseen):
        return mounts
    mount = max((name for name in mounts if path.startswith(name)), key=len, default="")
    if not mount:
        return False
    where = definition(path, mounts[mount])
    if not where:
        # A plug that is not known, or KV, whose secrets nobody reads to look.
        return True
    found = await eyes.read(where)
    return found if isinstance(found, Unseen) else found is not None


async def usernames_of(
    wanted: Wanted, mounts: Mapping[str, str] | Unseen, eyes: Eyes
) -> dict[str, str | Unseen]:
    found: dict[str, str | Unseen] = {}
    for use in wanted.uses:
        if not use.cutter or isinstance(mounts, Unseen) or mounts.get(f"{use.mount}/") != "database":
            continue
        role = await eyes.read(definition(use.path, "database"))
        if not isinstance(role, Mapping):
            continue  # `definitions` says it
        path = f"{use.mount}/config/{role.get('db_name')}"
        connection = await eyes.read(path)
        if isinstance(connection, Mapping):
            details = connection.get("connection_details") or {}
            found[path] = str(details.get("username_template") or "")
        else:
            found[path] = connection or Unseen("there is no such connection")
    return found


async def gates_of(wanted: Wanted, eyes: Eyes) -> tuple[tuple[Gate, ...], tuple[str, ...]]:
    """Roles of JWT logins that take our attestation tokens, and the policies that they give."""
    found = await eyes.read("sys/auth") if wanted.gate_issuer else None
    gates: list[Gate] = []
    policies: list[str] = []
    for name, mount in found.items() if isinstance(found, Mapping) else ():
        if not isinstance(mount, Mapping) or mount.get("type") not in ("jwt", "oidc", "ns_jwt"):
            continue
        config = await eyes.read(f"auth/{name}config")
        if not isinstance(config, Mapping) or not any(
            str(config.get(key) or "").startswith(wanted.gate_issuer)
            for key in ("bound_issuer", "oidc_discovery_url", "jwks_url")
        ):
            continue
        listed = await eyes.ask("LIST", f"auth/{name}role")
        for role in listed.data.get("keys") or ():
            path = f"auth/{name}role/{role}"
            gate = await eyes.read(path)
            if isinstance(gate, Mapping):
                gates.append(Gate(path, gate))
                policies += gate.get("token_policies") or []
    return tuple(gates), tuple(dict.fromkeys(policies))
