"""GateBackend: attestation tokens for a Vault that a team already has: its own JWT login takes them.

The other direction: no secret passes here. A workload logs in at Vault with a
token that says which code it runs, and Vault's own policies give it what they
give. One entity stands for the instance; disabling it refuses every token that
a login made, and every login to come.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from broker.adapters.backends.vault.errors import refused, unavailable
from broker.adapters.backends.vault.flights import Flights
from broker.adapters.backends.vault.session import VaultSession
from broker.adapters.backends.vault.wire import Call, Lane
from broker.errors import Denied
from broker.model.account import Account
from broker.model.credential import Confirmation, Confirmed, Credential, Grant, Issued, Lease
from broker.model.role import Revocability
from broker.ports import Clock, Entropy, TokenSigner
from lockstep.formats import Reason, b64url

LONGEST: Final = 60.0
"""Seconds that a gate token may live: it is a bearer token, and only its entity is taken back."""
_PARAMETERS: Final = frozenset({"role"})
_REMEMBERED: Final = 50_000
_UNUSED: Final = "gate"


@dataclass(frozen=True, slots=True)
class GateOptions:
    """`mount` is the path of Vault's JWT auth method, `audience` what its roles are bound to, `ttl` seconds.

    `max_request_duration` is what Vault's listener says, as in `VaultOptions`.
    """

    mount: str
    audience: str
    ttl: float = LONGEST
    max_request_duration: float = 30.0


class GateBackend:
    """`broker.ports.CredentialBackend`. Role parameters: `role`, the role of Vault's JWT auth method.

    At the first issue of an instance the broker logs in once itself, with a
    token of the same claims: then the entity exists and can be disabled. The
    token of that login is given back at once.
    """

    def __init__(
        self,
        signer: TokenSigner,
        issuer: str,
        options: GateOptions,
        session: VaultSession,
        clock: Clock,
        entropy: Entropy,
        replica: str,
    ) -> None:
        """`issuer` becomes ``iss``; the public keys are found below it."""
        self._signer = signer
        self._issuer = issuer
        self._options = options
        self._session = session
        self._clock = clock
        self._entropy = entropy
        self._accounts = GateAccounts(options, session, clock, replica)

    @property
    def outside(self) -> bool:
        """True: Vault comes to know the instance."""
        return True

    @property
    def accounts(self) -> GateAccounts:
        """The entity of each instance."""
        return self._accounts

    def revocability_of(self, parameters: Mapping[str, Any]) -> Revocability:
        """At Vault: the entity is refused there."""
        return Revocability.AT_TARGET

    async def issue(self, grant: Grant) -> Issued:
        """A token for Vault's login. Raises `Denied` where Vault's role does not take these claims."""
        role = str(grant.parameters["role"])
        await self._accounts.known(grant.lease.attestation_id, role, lambda: self._token(grant))
        token = self._token(grant)
        return Issued(
            Credential(token=token),
            # A lease of ours: Vault has none for it.
            handle=f"gate:{grant.lease.id}",
            expires_at=float(self._ends(grant)),
            parameters={
                "token_type": "Bearer",
                "audience": self._options.audience,
                "login": f"auth/{self._options.mount}/login",
                "role": role,
            },
        )

    async def renew(self, grant: Grant) -> Issued | None:
        """A fresh token."""
        return await self.issue(grant)

    async def revoke(self, lease: Lease) -> None:
        """One token alone is not taken back; with its instance it is."""

    async def confirm(self, lease: Lease, now: float) -> Confirmed:
        """Ask for the entity; alone a token lives to its end, which is near."""
        if await self._accounts.stopped(lease.attestation_id):
            return Confirmed(Confirmation.GONE, "entity disabled")
        if now >= lease.expires_at:
            return Confirmed(Confirmation.GONE, "it has expired")
        return Confirmed(
            Confirmation.UNTIL_EXPIRY, "a login may still take it until it expires", lease.expires_at
        )

    def _ends(self, grant: Grant) -> int:
        return math.floor(min(grant.lease.expires_at, grant.lease.issued_at + self._options.ttl))

    def _token(self, grant: Grant) -> str:
        lease = grant.lease
        return self._signer.sign(
            {
                "iss": self._issuer,
                "sub": lease.attestation_id,
                "aud": self._options.audience,
                "iat": math.floor(lease.issued_at),
                "nbf": math.floor(lease.issued_at),
                "exp": self._ends(grant),
                "jti": b64url(self._entropy.token(16)),
                # Flat, so that `bound_claims` can name them.
                "lockstep_role": lease.role,
                "lockstep_mode": lease.mode.value,
                "lockstep_identity": lease.identity,
                "lockstep_assurance": lease.assurance.word,
                "lockstep_manifests": [digest.hex() for digest in grant.manifests],
            }
        )


class GateAccounts:
    """`broker.ports.AccountKeeper`: entities under a JWT auth method, by the attestation's id as alias."""

    def __init__(self, options: GateOptions, session: VaultSession, clock: Clock, replica: str) -> None:
        self._options = options
        self._session = session
        self._clock = clock
        self._replica = replica
        self._flights = Flights(clock, options.max_request_duration)
        self._known: OrderedDict[str, str] = OrderedDict()
        self._mount = ""

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
        """See to it that the instance's entity exists, by one login that is given back."""
        if attestation_id in self._known:
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
        self._known[attestation_id] = entity
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)

    async def freeze(self, attestation_id: str) -> None:
        """Disable the entity: every token of it and every login is refused at the active node."""
        entity = self._known.get(attestation_id) or str((await self._entity(attestation_id)).get("id", ""))
        if not entity:
            return
        answer = await self._session.ask(
            "POST", f"identity/entity/id/{entity}", {"disabled": True}, lane=Lane.STOP
        )
        if not answer.ok:
            self._known.pop(attestation_id, None)
            raise refused("stopping an instance", answer)

    def quiet(self, attestation_id: str) -> bool:
        """True where no login of ours is under way."""
        return self._flights.quiet(attestation_id)

    async def close(self, account: Account) -> None:
        """Nothing is held. The entity stays, disabled: deleting it would let a login make it anew."""
        self._known.pop(account.attestation_id, None)

    async def confirm(self, account: Account, now: float) -> Confirmed:
        """Ask for the entity."""
        if not await self.stopped(account.attestation_id):
            return Confirmed(Confirmation.ALIVE, "its entity is not disabled")
        return Confirmed(Confirmation.GONE, "entity disabled, or never made")

    async def stopped(self, attestation_id: str) -> bool:
        """True where the entity is disabled, or there is none."""
        found = await self._entity(attestation_id)
        return not found or found.get("disabled") is True

    async def strays(self, before: float) -> Sequence[str]:
        """None: there are no leases of ours."""
        return ()

    async def attestations(self) -> Sequence[str]:
        """Instances with an entity under the mount that is not disabled."""
        mount = await self._mount_accessor()
        answer = await self._session.ask("LIST", "identity/entity-alias/id")
        if answer.status == 404:
            return ()
        if not answer.ok:
            raise refused("listing instances", answer)
        info = answer.data.get("key_info")
        names = sorted(
            _attestation_id(str(alias.get("name", "")))
            for alias in (info if isinstance(info, dict) else {}).values()
            if alias.get("mount_accessor") == mount
        )
        # Whoever else logs in at the mount is none of ours.
        return [name for name in names if name and not await self.stopped(name)]

    async def revoke_stray(self, handle: str) -> None:
        """There is none."""

    async def given_up(self) -> Sequence[str]:
        """None: a gate makes no leases."""
        return ()

    async def _entity(self, attestation_id: str) -> Mapping[str, Any]:
        body = {"alias_name": attestation_id, "alias_mount_accessor": await self._mount_accessor()}
        answer = await self._session.ask("POST", "identity/lookup/entity", body, lane=Lane.STOP)
        if not answer.ok:
            raise refused("looking for an instance", answer)
        return answer.data

    async def _mount_accessor(self) -> str:
        if not self._mount:
            answer = await self._session.ask("GET", "sys/auth", lane=Lane.STOP)
            mount = answer.data.get(f"{self._options.mount}/")
            accessor = mount.get("accessor") if isinstance(mount, dict) else None
            if not answer.ok or not isinstance(accessor, str) or not accessor:
                raise refused("looking for the JWT auth method", answer)
            self._mount = accessor
        return self._mount


def _attestation_id(alias: str) -> str:
    """Vault keeps aliases in lower case; an id is ``A-`` and 26 lower-case letters and digits."""
    rest = alias.lower().removeprefix("a-")
    return f"A-{rest}" if len(rest) == 26 and alias.lower() == f"a-{rest}" else ""


def check_parameters(parameters: Mapping[str, Any]) -> None:
    """Refuse parameters of a role that no login could be made of. Raises ``ValueError`` that says which."""
    unknown = sorted(parameters.keys() - _PARAMETERS)
    if unknown:
        raise ValueError(f"{unknown[0]}: not a parameter of the gate backend")
    role = parameters.get("role")
    if not isinstance(role, str) or not 0 < len(role) <= 128 or not role.isprintable():
        raise ValueError("role: name the role of Vault's JWT auth method")
