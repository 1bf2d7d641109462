"""Entities at Vault: one per instance, found by a name that everybody can derive, and disabled to stop it."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from broker.adapters.backends.vault.errors import refused, unavailable
from broker.adapters.backends.vault.session import VaultSession
from broker.adapters.backends.vault.wire import Lane
from broker.errors import Denied
from lockstep.formats import Reason

ALIAS: Final = "ls-"
"""Every entity alias of an instance begins so; the token role allows no other."""
ABREAST: Final = 16
"""Look-ups under way at once, in a sweep."""
_REMEMBERED: Final = 50_000


@dataclass(frozen=True, slots=True)
class Aliases:
    """How one auth method calls instances. `mount` is as ``sys/auth`` spells it, and `what` as people do;
    `attestation_id` is empty for the alias of somebody else."""

    mount: str
    what: str
    alias: Callable[[str], str]
    attestation_id: Callable[[str], str]


class VaultEntities:
    """Instances by the alias that an auth method gives their entity. Owned by one event loop.

    Raises `Unavailable`. Whoever asked to stop an instance is remembered, done
    or not, so that nothing is opened for it while the stop is under way.
    """

    def __init__(self, session: VaultSession, aliases: Aliases) -> None:
        self._session = session
        self._aliases = aliases
        # As many as a busy process meets in a while: ids, and which are to be stopped (True: Vault has said so).
        self._ids: OrderedDict[str, str] = OrderedDict()
        self._stops: OrderedDict[str, bool] = OrderedDict()
        self._mount = ""

    def knows(self, attestation_id: str) -> bool:
        """True where its entity has been seen, and not been missed since."""
        return attestation_id in self._ids

    def forget(self, attestation_id: str) -> None:
        """Its entity is looked up when it is needed again; whether it is to be stopped stays known."""
        self._ids.pop(attestation_id, None)

    def learn(self, attestation_id: str, entity_id: str) -> None:
        """Its entity, as a login or a new token has just named it."""
        _remember(self._ids, attestation_id, entity_id)

    def to_be_stopped(self, attestation_id: str) -> bool:
        """True where somebody here has asked to stop it."""
        return attestation_id in self._stops

    def refuse_stopped(self, attestation_id: str) -> None:
        """Raises `Denied` for one that is to be stopped."""
        if attestation_id in self._stops:
            raise Denied(Reason.REVOKED, "the instance was stopped at the backend")

    async def stop(self, attestation_id: str) -> None:
        """Disable it: from the active node's answer on, no token of it does anything. No error where there is none."""
        _remember(self._stops, attestation_id, self._stops.get(attestation_id, False))
        for _ in range(2):
            entity = self._ids.get(attestation_id) or await self._find(attestation_id)
            if not entity:
                return
            answer = await self._session.ask(
                "POST", f"identity/entity/id/{entity}", {"disabled": True}, lane=Lane.STOP
            )
            if answer.ok:
                _remember(self._stops, attestation_id, True)
                return
            if answer.status == 403 or answer.status >= 500:
                raise refused("stopping an instance", answer)
            # Another entity has the alias by now: Vault was restored, or somebody tidied up.
            self._ids.pop(attestation_id, None)
        raise unavailable("stopping an instance: its entity keeps changing")

    async def stopped(self, attestation_id: str) -> bool | None:
        """True where its entity is disabled; None where there is none."""
        found = await self._look(attestation_id)
        return None if found is None else found.get("disabled") is True

    async def going(self) -> Sequence[str]:
        """Ids of all instances whose entity is not disabled."""
        mount = await self._mount_accessor()
        answer = await self._session.ask("LIST", "identity/entity-alias/id")
        if answer.status == 404:
            return []
        if not answer.ok:
            raise refused("listing instances", answer)
        info = answer.data.get("key_info")
        named = sorted(
            self._aliases.attestation_id(str(alias.get("name", "")))
            for alias in (info if isinstance(info, dict) else {}).values()
            if alias.get("mount_accessor") == mount
        )
        # What is disabled stays so: each is asked for once.
        asked = [name for name in named if name and not self._stops.get(name)]
        gate = asyncio.Semaphore(ABREAST)

        async def alive(attestation_id: str) -> str:
            async with gate:
                stopped = await self.stopped(attestation_id)
            if stopped:
                _remember(self._stops, attestation_id, True)
            return attestation_id if stopped is False else ""

        return [name for name in await asyncio.gather(*map(alive, asked)) if name]

    # --- parts --------------------------------------------------------------------------------------

    async def _find(self, attestation_id: str) -> str:
        found = await self._look(attestation_id)
        entity = "" if found is None else str(found.get("id", ""))
        if entity:
            self.learn(attestation_id, entity)
        return entity

    async def _look(self, attestation_id: str) -> Mapping[str, Any] | None:
        body = {
            "alias_name": self._aliases.alias(attestation_id),
            "alias_mount_accessor": await self._mount_accessor(),
        }
        answer = await self._session.ask("POST", "identity/lookup/entity", body, lane=Lane.STOP)
        if not answer.ok:
            raise refused("looking for an instance", answer)
        return answer.data or None

    async def _mount_accessor(self) -> str:
        """Of the auth method, in the namespace: aliases are under it."""
        if not self._mount:
            answer = await self._session.ask("GET", "sys/auth", lane=Lane.STOP)
            method = answer.data.get(self._aliases.mount)
            accessor = method.get("accessor") if isinstance(method, dict) else None
            if not answer.ok or not isinstance(accessor, str) or not accessor:
                raise refused(f"looking for {self._aliases.what}", answer)
            self._mount = accessor
        return self._mount


def entity_alias(attestation_id: str) -> str:
    """The name by which Vault knows an instance, whoever asks."""
    return ALIAS + attestation_id.lower()


def _attestation_id(alias: str) -> str:
    # Vault keeps aliases in lower case; an id is ``PREFIX-`` and lower-case letters.
    if not alias.startswith(ALIAS):
        return ""
    prefix, dash, rest = alias.removeprefix(ALIAS).partition("-")
    return prefix.upper() + dash + rest


TOKEN_STORE: Final = Aliases("token/", "the token store", entity_alias, _attestation_id)
"""Of the service tokens that the broker makes."""


def _remember(into: OrderedDict[str, Any], key: str, value: Any) -> None:
    into[key] = value
    into.move_to_end(key)
    while len(into) > _REMEMBERED:
        into.popitem(last=False)
