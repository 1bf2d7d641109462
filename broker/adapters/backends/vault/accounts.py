"""Accounts at Vault: one service token per (attestation, process), all of an attestation under one entity."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from broker.adapters.backends.vault.entities import TOKEN_STORE, VaultEntities, entity_alias
from broker.adapters.backends.vault.errors import refused, unavailable
from broker.adapters.backends.vault.flights import Flight, Flights
from broker.adapters.backends.vault.leases import VaultLeases
from broker.adapters.backends.vault.options import VaultOptions
from broker.adapters.backends.vault.session import VaultSession
from broker.adapters.backends.vault.wire import Answer, Lane
from broker.errors import Denied
from broker.model.account import Account
from broker.model.credential import Confirmation, Confirmed
from broker.ports import Clock
from lockstep.formats import Reason

SHORT: Final = 0.1
"""A credential may end by this share of its life earlier before its account is extended for it."""


@dataclass(slots=True)
class Held:
    """A service token in the memory of this process. `until` is seconds, UTC."""

    attestation_id: str
    token: str = field(repr=False)
    accessor: str
    until: float


class VaultAccounts:
    """`broker.ports.AccountKeeper`. Owned by one event loop.

    An entity's alias is deterministic (`entities.entity_alias`), so that an instance can
    be stopped whose token was never learned. Disabling the entity refuses every
    token of it, wherever it was made.
    """

    def __init__(
        self,
        options: VaultOptions,
        session: VaultSession,
        leases: VaultLeases,
        flights: Flights,
        clock: Clock,
        replica: str,
    ) -> None:
        self._options = options
        self._session = session
        self._leases = leases
        self._flights = flights
        self._clock = clock
        self._replica = replica
        self._held: dict[str, Held] = {}
        self._extending: dict[str, asyncio.Lock] = {}
        self._entities = VaultEntities(session, TOKEN_STORE)

    # --- the port -----------------------------------------------------------------------------------

    @property
    def replica(self) -> str:
        """Names this process; new at every start."""
        return self._replica

    @property
    def longest_call(self) -> float:
        """Vault's own ``max_request_duration``, or our patience where that is longer."""
        return max(self._options.max_request_duration, self._options.timeout)

    def holds(self, account: Account) -> bool:
        """True where its token is in memory and still lives."""
        return account.replica == self._replica and self._living(account.id) is not None

    async def open(self, account: Account, ttl: float) -> str:
        """A service token of at most `token_ttl`; the token stays here, the accessor is the answer."""
        attestation_id = account.attestation_id
        self._entities.refuse_stopped(attestation_id)
        seconds = math.ceil(min(ttl, self._options.token_ttl))
        body: dict[str, Any] = {
            "entity_alias": entity_alias(attestation_id),
            "display_name": attestation_id,
            "ttl": seconds,
            "type": "service",
            "renewable": True,
            "no_default_policy": True,
        }
        if self._options.policies:
            body["policies"] = list(self._options.policies)
        asked = self._clock.now()
        with self._flights.sending(attestation_id) as flight:
            # Not again where its answer was lost: each try makes one more.
            answer = await self._session.ask(
                "POST",
                f"auth/token/create/{self._options.token_role}",
                body,
                lane=Lane.GIVE,
                again=False,
                flight=flight,
            )
        if answer.says("is disabled"):
            raise Denied(Reason.REVOKED, "the instance was stopped at the backend")
        token, accessor = answer.auth.get("client_token"), answer.auth.get("accessor")
        if not answer.ok or not isinstance(token, str) or not isinstance(accessor, str) or not accessor:
            raise refused("opening an account", answer)
        entity = answer.auth.get("entity_id")
        fault = await self._fault(answer)
        if fault or not isinstance(entity, str):
            await self._session.ask("POST", "auth/token/revoke-accessor", {"accessor": accessor})
            raise unavailable(f"the backend's token role {fault}")
        lives = answer.auth.get("lease_duration")
        self._held[account.id] = Held(
            attestation_id, token, accessor, asked + (lives if isinstance(lives, int) and lives else seconds)
        )
        self._entities.learn(attestation_id, entity)
        if self._entities.to_be_stopped(attestation_id):
            # It was stopped while this was on its way, when there may have been no entity yet.
            await self.freeze(attestation_id)
        return accessor

    async def freeze(self, attestation_id: str) -> None:
        """Disable the entity, and forget its tokens here."""
        for key in [key for key, held in self._held.items() if held.attestation_id == attestation_id]:
            self._forget(key)
        await self._entities.stop(attestation_id)

    def quiet(self, attestation_id: str) -> bool:
        """True where no `open`, `issue` or `renew` for it is under way."""
        return self._flights.quiet(attestation_id)

    async def close(self, account: Account) -> None:
        """Revoke the token, and with it every lease of it.

        Where the accessor was never learned nobody has the token: it was never
        used, and ends by itself (`confirm` says when).
        """
        held = self._held.get(account.id)
        self._forget(account.id)
        if self._entities.to_be_stopped(account.attestation_id):
            # Again: it may have been on its way when it was stopped first, with no entity to disable.
            await self._entities.stop(account.attestation_id)
        accessor = account.accessor or (held.accessor if held is not None else "")
        if not accessor:
            return
        answer = await self._session.ask("POST", "auth/token/revoke-accessor", {"accessor": accessor})
        # An unknown accessor answers 200 with a warning, or 400: gone is gone.
        if not answer.ok and not _unknown_accessor(answer):
            raise refused("closing an account", answer)

    async def confirm(self, account: Account, now: float) -> Confirmed:
        """Ask for the accessor; without one, for the entity."""
        if not account.accessor:
            return await self._confirm_unlearned(account, now)
        answer = await self._session.ask("POST", "auth/token/lookup-accessor", {"accessor": account.accessor})
        if answer.ok:
            return Confirmed(Confirmation.ALIVE, "the token is there")
        if not _unknown_accessor(answer):
            raise refused("confirming an account", answer)
        if not self._entities.to_be_stopped(account.attestation_id):
            return Confirmed(Confirmation.GONE, "accessor unknown to the backend")
        if await self._entities.stopped(account.attestation_id) is False:
            return Confirmed(Confirmation.ALIVE, "its entity is not disabled")
        return Confirmed(Confirmation.GONE, "accessor unknown to the backend, entity disabled")

    @property
    def sweeps(self) -> bool:
        """As the operator says."""
        return self._options.sweep

    async def strays(self, before: float) -> Sequence[str]:
        """Lease ids under the paths of the roles."""
        return await self._leases.made_before(before)

    async def revoke_stray(self, handle: str) -> None:
        """By lease id."""
        await self._leases.revoke(handle)

    async def given_up(self) -> Sequence[str]:
        """Lease ids that Vault calls irrevocable."""
        return await self._leases.irrevocable()

    async def attestations(self) -> Sequence[str]:
        """Whoever has an alias of ours and an entity that is not disabled."""
        return await self._entities.going()

    # --- for issuing --------------------------------------------------------------------------------

    async def token(self, account: Account, needed: float, ttl: float) -> Held:
        """The account's token, extended where it would end well before `needed` (seconds, UTC) of a credential
        that lives `ttl` seconds. Raises `Unavailable` where this process does not have it."""
        self._entities.refuse_stopped(account.attestation_id)
        async with self._extending.setdefault(account.id, asyncio.Lock()):
            held = self._living(account.id)
            if held is None:
                raise unavailable("the account at the backend was lost; ask again")
            wanted = min(needed, self._clock.now() + self._options.token_ttl)
            if held.until < wanted - SHORT * ttl:
                until = await self._extend(account, wanted)
                if until is None:
                    raise unavailable("the account at the backend has ended; ask again")
                held.until = until
            return held

    async def extended(self, account: Account, needed: float, ttl: float) -> float | None:
        """Until when the account lives (seconds, UTC), extended as by `token`, whichever process has its token;
        None where it has ended."""
        if self.holds(account):
            return (await self.token(account, needed, ttl)).until
        self._entities.refuse_stopped(account.attestation_id)
        return await self._extend(account, min(needed, self._clock.now() + self._options.token_ttl))

    def sending(self, attestation_id: str) -> contextlib.AbstractContextManager[Flight]:
        """Around a call for an instance that `quiet` is to know of."""
        return self._flights.sending(attestation_id)

    async def refused(self, account: Account) -> None:
        """Vault refused its token. Raises `Unavailable` where it is gone, `Denied` where the instance was stopped
        (both are forgotten here); returns where neither is so and a right is missing."""
        answer = await self._session.ask("POST", "auth/token/lookup-accessor", {"accessor": account.accessor})
        if _unknown_accessor(answer):
            self._forget(account.id)
            raise unavailable("the account at the backend was lost; ask again")
        if await self._entities.stopped(account.attestation_id):
            self._forget(account.id)
            raise Denied(Reason.REVOKED, "the instance was stopped at the backend")

    async def _extend(self, account: Account, until: float) -> float | None:
        """Until when it lives; None where it has ended."""
        asked = self._clock.now()
        body = {"accessor": account.accessor, "increment": max(math.ceil(until - asked), 1)}
        with self._flights.sending(account.attestation_id) as flight:
            answer = await self._session.ask(
                "POST",
                "auth/token/renew-accessor",
                body,
                lane=Lane.GIVE,
                flight=flight,
            )
        if answer.ok:
            lives = answer.auth.get("lease_duration")
            return asked + (lives if isinstance(lives, int) else 0)
        if _unknown_accessor(answer):
            self._forget(account.id)
            return None
        raise refused("extending an account", answer)

    # --- parts --------------------------------------------------------------------------------------

    def _living(self, account_id: str) -> Held | None:
        held = self._held.get(account_id)
        if held is not None and held.until <= self._clock.now():
            self._forget(account_id)
            return None
        return held

    def _forget(self, account_id: str) -> None:
        self._held.pop(account_id, None)
        self._extending.pop(account_id, None)

    async def _fault(self, answer: Answer) -> str:
        """What is wrong with a service token that was just made."""
        if answer.auth.get("token_type") != "service" or not answer.auth.get("entity_id"):
            # Nobody could stop it by its instance, or take it back at all.
            return "makes no service tokens with an entity"
        # Without allowed policies Vault gives a token those of whoever makes it.
        policies = answer.auth.get("policies")
        given = set(policies) if isinstance(policies, list) else set()
        if given & ((await self._session.policies() - {"default"}) | {"root"}):
            return "gives the broker's own policies away"
        return ""

    async def _confirm_unlearned(self, account: Account, now: float) -> Confirmed:
        stopped = await self._entities.stopped(account.attestation_id)
        if stopped is None:
            return Confirmed(Confirmation.GONE, "the backend never knew the instance")
        if stopped:
            return Confirmed(
                Confirmation.GONE, "entity disabled; a token whose accessor was never learned ends by itself"
            )
        until = account.opened_at + self.longest_call + self._options.token_ttl
        if now >= until:
            return Confirmed(
                Confirmation.GONE, "a token whose accessor was never learned has ended by itself"
            )
        return Confirmed(
            Confirmation.UNTIL_EXPIRY, "nobody has a token whose accessor was never learned", until
        )


def _unknown_accessor(answer: Answer) -> bool:
    known = answer.says("invalid accessor") or answer.says("no token found")
    return answer.status in (400, 403, 404) and known
