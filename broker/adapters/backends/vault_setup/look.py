"""Looks at a server: with the broker's own login, and with an operator's token where there is one. Changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from broker.adapters.backends.vault.login import Login, login_call
from broker.adapters.backends.vault_setup.acl import NOBODY, View
from broker.adapters.backends.vault_setup.eyes import Eyes
from broker.adapters.backends.vault_setup.facts import Facts, Own, Unseen
from broker.adapters.backends.vault_setup.look_paths import (
    defined,
    gates_of,
    login_mount,
    mounts_of,
    usernames_of,
)
from broker.adapters.backends.vault_setup.look_rights import own_rights, rights_of
from broker.adapters.backends.vault_setup.look_server import config_of, max_request, product_of, standby_reads
from broker.adapters.backends.vault_setup.wanted import Wanted
from broker.crypto.keyfiles import KeyFileError


async def look(wanted: Wanted, login: Login, eyes: Eyes, gated: Iterable[str] = ()) -> Facts:
    """Everything that `judge` asks for. Raises `Unavailable` where the server cannot be reached.

    With an operator's token two short-lived tokens are made for each policy, to ask
    the server what it allows, and revoked at once.
    """
    own, refused = await _own(wanted, login, eyes)
    product, version = await product_of(eyes)
    config = await config_of(eyes)
    gates, gate_policies = await gates_of(wanted, eyes)
    names = dict.fromkeys((wanted.broker_policy, wanted.credentials_policy, *gated, *gate_policies))
    mounts = await mounts_of(eyes)
    return Facts(
        product=product,
        version=version,
        standby_reads=await standby_reads(config, product, version, eyes),
        max_request=max_request(config),
        own=own,
        own_refused=refused,
        token_role=await eyes.read(f"auth/token/roles/{wanted.token_role}"),
        login_mount=await login_mount(wanted, eyes),
        login_role=await eyes.read(wanted.login.path),
        mounts=mounts,
        policies={name: await _policy(name, wanted, eyes) for name in names},
        definitions={use.path: await defined(use.path, mounts, eyes) for use in wanted.uses},
        usernames=await usernames_of(wanted, mounts, eyes),
        gates=gates,
    )


# --- the broker's own login -------------------------------------------------------------------------


async def _own(wanted: Wanted, login: Login, eyes: Eyes) -> tuple[Own | Unseen, str]:
    """What it is, or why not; and why the server refused it, where it did."""
    try:
        call = login_call(login)
    except KeyFileError as problem:
        return Unseen(str(problem)), ""
    answer = await eyes.ask("POST", call.path, call.body, token="", certificate=call.certificate)
    token = answer.auth.get("client_token")
    if not answer.ok or not isinstance(token, str):
        why = f"{call.path} answers {answer.status}"
        return Unseen(why), why
    try:
        return await _described(wanted, eyes.with_token(token)), ""
    finally:
        await eyes.ask("POST", "auth/token/revoke-self", {}, token=token)


async def _described(wanted: Wanted, eyes: Eyes) -> Own:
    itself = (await eyes.ask("GET", "auth/token/lookup-self")).data
    tried = await eyes.ask("POST", f"identity/entity/id/{NOBODY}", {"policies": []})
    return Own(
        policies=frozenset(itself.get("policies") or ()),
        identity_policies=frozenset(itself.get("identity_policies") or ()),
        kind=str(itself.get("type", "")),
        entity_id=str(itself.get("entity_id", "")),
        view=await own_rights(wanted, eyes),
        # Whoever may, hears that there is no such entity.
        entity_free=tried.status != 403,
    )


async def _policy(name: str, wanted: Wanted, eyes: Eyes) -> View | Unseen | None:
    found = await eyes.read(f"sys/policies/acl/{name}")
    if not isinstance(found, Mapping):
        return found
    return await rights_of(name, str(found.get("policy", "")), wanted, eyes)
