"""GateBackend: attestation tokens for a Vault that a team already has: its own JWT login takes them.

The other direction: no secret passes here. A workload logs in at Vault with a
token that says which code it runs, and Vault's own policies give it what they
give. One entity stands for the instance; disabling it refuses every token that
a login made, and every login to come.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from broker.adapters.backends.gate.accounts import GateAccounts
from broker.adapters.backends.gate.options import GateOptions
from broker.adapters.backends.vault.session import VaultSession
from broker.errors import LockstepError
from broker.model.credential import Confirmation, Confirmed, Credential, Grant, Issued, Lease
from broker.model.role import Revocability
from broker.ports import Clock, Entropy, TokenSigner
from lockstep.formats import b64url

_PARAMETERS: Final = frozenset({"role"})


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
        try:
            await self._accounts.known(grant.lease.attestation_id, role, lambda: self._token(grant))
        except LockstepError as failure:
            # The entity may be there; a token for the caller is not.
            failure.without_effect = True
            raise
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


def check_parameters(parameters: Mapping[str, Any]) -> None:
    """Refuse parameters of a role that no login could be made of. Raises ``ValueError`` that says which."""
    unknown = sorted(parameters.keys() - _PARAMETERS)
    if unknown:
        raise ValueError(f"{unknown[0]}: not a parameter of the gate backend")
    role = parameters.get("role")
    if not isinstance(role, str) or not 0 < len(role) <= 128 or not role.isprintable():
        raise ValueError("role: name the role of Vault's JWT auth method")
