"""Entities of instances at a Vault whose own JWT login takes our tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from broker.adapters.backends.gate.options import GateOptions
from broker.adapters.backends.vault.entities import Aliases, VaultEntities
from broker.adapters.backends.vault.errors import refused, unavailable
from broker.adapters.backends.vault.flights import Flights
from broker.adapters.backends.vault.session import VaultSession
from broker.adapters.backends.vault.wire import Call, Lane
from broker.errors import Denied
from broker.model.account import Account
from broker.model.credential import Confirmation, Confirmed
from broker.ports import Clock
from lockstep.formats import Reason

_UNUSED: Final = "gate"


class GateAccounts:
    """`broker.ports.AccountKeeper`: entities under a JWT auth method, by the attestation's id as alias."""

    def __init__(self, options: GateOptions, session: VaultSession, clock: Clock, replica: str) -> None:
        self._options = options
        self._session = session
        self._clock = clock
        self._replica = replica
        self._flights = Flights(clock, options.max_request_duration)
        self._entities = VaultEntities(
            session, Aliases(f"{options.mount}/", "the JWT auth method", str, _attestation_id)
        )

    @property
    def replica(self) -> str:
        """Names this process."""
        return self._replica

    @property
    def longest_call(self) -> float:
        """Vault's own ``max_request_duration``."""
        return self._options.max_request_duration

    def holds(self, account: Account) -> bool:
        """True for those of this process: there is no secret to lose."""
        return account.replica == self._replica

    async def open(self, account: Account, ttl: float) -> str:
        """Nothing yet: the first login makes the entity (`known`)."""
        return _UNUSED

    async def known(self, attestation_id: str, role: str, token: Callable[[], str]) -> None:
        """See to it that the instance's entity exists, by one login that is given back. Raises `Denied` where the
        instance is to be stopped, or was while the login was on its way."""
        self._entities.refuse_stopped(attestation_id)
        if self._entities.knows(attestation_id):
            return
        with self._flights.sending(attestation_id) as flight:
            login = Call(
                "POST",
                f"auth/{self._options.mount}/login",
                {"role": role, "jwt": token()},
                lane=Lane.GIVE,
            )
            answer = await self._session.send(login, again=True, flight=flight)
        made, entity = answer.auth.get("accessor"), answer.auth.get("entity_id")
        if not answer.ok or not isinstance(made, str):
            if answer.status in (400, 403):
                raise Denied(
                    Reason.NOT_ENTITLED, "the role at the backend does not take this code or identity"
                )
            raise refused("the first login", answer)
        # Not by itself: a token that a team's role makes may lack even that right.
        back = await self._session.ask("POST", "auth/token/revoke-accessor", {"accessor": made})
        if not back.ok:
            raise refused("giving the first login back", back)
        if not isinstance(entity, str) or not entity:
            raise unavailable("the login at the backend makes no entity: nobody could stop the instance")
        self._entities.learn(attestation_id, entity)
        if self._entities.to_be_stopped(attestation_id):
            # Whoever stopped it meanwhile may have found no entity to disable.
            await self._entities.stop(attestation_id)
            self._entities.refuse_stopped(attestation_id)

    async def freeze(self, attestation_id: str) -> None:
        """Disable the entity: every token of it and every login is refused at the active node."""
        await self._entities.stop(attestation_id)

    def quiet(self, attestation_id: str) -> bool:
        """True where no login of ours is under way."""
        return self._flights.quiet(attestation_id)

    async def close(self, account: Account) -> None:
        """Nothing is held. The entity stays, disabled: deleting it would let a login make it anew."""
        self._entities.forget(account.attestation_id)
        if self._entities.to_be_stopped(account.attestation_id):
            # Again: a login may have been on its way when it was stopped first.
            await self._entities.stop(account.attestation_id)

    async def confirm(self, account: Account, now: float) -> Confirmed:
        """Ask for the entity."""
        if not await self.stopped(account.attestation_id):
            return Confirmed(Confirmation.ALIVE, "its entity is not disabled")
        return Confirmed(Confirmation.GONE, "entity disabled, or never made")

    async def stopped(self, attestation_id: str) -> bool:
        """True where the entity is disabled, or there is none."""
        return await self._entities.stopped(attestation_id) is not False

    @property
    def sweeps(self) -> bool:
        """False: there are no leases of ours."""
        return False

    async def strays(self, before: float) -> Sequence[str]:
        """None."""
        return ()

    async def attestations(self) -> Sequence[str]:
        """Instances with an entity under the mount that is not disabled; whoever else logs in there is none of ours."""
        return await self._entities.going()

    async def revoke_stray(self, handle: str) -> None:
        """There is none."""

    async def given_up(self) -> Sequence[str]:
        """None: a gate makes no leases."""
        return ()


def _attestation_id(alias: str) -> str:
    """Vault keeps aliases in lower case; an id is ``A-`` and 26 lower-case letters and digits."""
    rest = alias.lower().removeprefix("a-")
    return f"A-{rest}" if len(rest) == 26 and alias.lower() == f"a-{rest}" else ""
