"""JwtBackend: credentials that the broker signs itself (RFC 9068), good where they are checked against its log."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from broker.errors import Denied
from broker.model.credential import Confirmation, Confirmed, Credential, Grant, Issued, Lease
from broker.model.role import Revocability
from broker.ports import TokenSigner
from lockstep.formats import Reason, b64url

# Ours, and registered names that resource servers take decisions on (RFC 7519, 8417, 8693, 9068, 9396; OpenID Connect).
RESERVED_CLAIMS: Final = (
    frozenset({"iss", "sub", "aud", "exp", "nbf", "iat", "jti", "client_id", "cnf", "scope", "lockstep"})
    | frozenset({"acr", "act", "amr", "auth_time", "azp", "may_act", "nonce", "sid", "token_type", "typ"})
    | frozenset({"authorization_details", "entitlements", "events", "groups", "roles", "sub_id"})
)
CONFIRM_METHOD: Final = "revocation log"

_PARAMETERS: Final = frozenset({"audience", "scope", "claims"})
_MAX_TEXT: Final = 1024
_MAX_CLAIMS: Final = 32


class JwtBackend:
    """A `CredentialBackend` without an outside: nothing but the log has to be told of a revocation.

    Role parameters: `audience` (required, exactly one), `scope`, and `claims`,
    static text claims under names that are not reserved.
    """

    def __init__(self, signer: TokenSigner, issuer: str) -> None:
        """`issuer` becomes ``iss``: the URL under which the public keys are found."""
        self._signer = signer
        self._issuer = issuer

    @property
    def outside(self) -> bool:
        """False: signing leaves no trace, so a lease may be ACTIVE before."""
        return False

    @property
    def accounts(self) -> None:
        """None: the log denies each token by itself."""
        return

    def revocability_of(self, parameters: Mapping[str, Any]) -> Revocability:
        """Instant: by introspection, or against the revocation feed."""
        return Revocability.INSTANT

    async def issue(self, grant: Grant) -> Issued:
        """A token whose ``jti`` is the lease's handle and whose end is not after the lease's."""
        lease = grant.lease
        # The lease was written first: it says when. A whole second, rounded down, never outlives it.
        expires = math.floor(lease.expires_at)
        possession = lease.possession_required
        claims = {
            **{
                name: text
                for name, text in grant.parameters.get("claims", {}).items()
                if name not in RESERVED_CLAIMS
            },
            "iss": self._issuer,
            # The one spelling of an identity: two issuers with equal subjects are two subjects here.
            "sub": lease.identity,
            "client_id": lease.identity,
            "aud": _audience(grant.parameters),
            "exp": expires,
            "iat": math.floor(lease.issued_at),
            "jti": lease.handle,
            "lockstep": _facts(grant),
        }
        if "scope" in grant.parameters:
            claims["scope"] = grant.parameters["scope"]
        if possession:
            # RFC 7800 and RFC 9449 section 6.1: whoever takes the token must ask for the key.
            claims["cnf"] = {"jkt": b64url(grant.key_thumbprint)}
        return Issued(
            credential=Credential(token=self._signer.sign(claims)),
            handle=lease.handle,
            expires_at=float(expires),
            parameters={"token_type": "DPoP" if possession else "Bearer"},
        )

    async def renew(self, grant: Grant) -> Issued | None:
        """A new token of the same lease and ``jti``; the old one lives until its own end."""
        return await self.issue(grant)

    async def revoke(self, lease: Lease) -> None:
        """Nothing to do: the log denies the lease."""

    async def confirm(self, lease: Lease, now: float) -> Confirmed:
        """Gone, since the log denies it wherever the token is checked against the broker."""
        return Confirmed(Confirmation.GONE, CONFIRM_METHOD)


def check_parameters(parameters: Mapping[str, Any]) -> None:
    """Refuse parameters of a role that no token could be made of. Raises ``ValueError`` that says which."""
    unknown = sorted(parameters.keys() - _PARAMETERS)
    if unknown:
        raise ValueError(f"{unknown[0]}: not a parameter of the jwt backend")
    for name in ("audience", "scope"):
        value = parameters.get(name)
        if value is None and name == "scope":
            continue
        if not isinstance(value, str) or not 0 < len(value) <= _MAX_TEXT or not value.isprintable():
            raise ValueError(f"{name}: must be one text of at most {_MAX_TEXT} printable characters")
    claims = parameters.get("claims", {})
    if not isinstance(claims, Mapping) or len(claims) > _MAX_CLAIMS:
        raise ValueError(f"claims: must be a table of at most {_MAX_CLAIMS} texts")
    for name, value in claims.items():
        if name in RESERVED_CLAIMS:
            raise ValueError(f"claims.{name}: the broker alone says this")
        if not isinstance(value, str) or len(value) > _MAX_TEXT:
            raise ValueError(f"claims.{name}: must be a text of at most {_MAX_TEXT} characters")


def _audience(parameters: Mapping[str, Any]) -> str:
    audience = parameters.get("audience")
    if not isinstance(audience, str) or not audience:
        # Settings refuse such a role; a token for everybody must not come of a gap there.
        raise Denied(Reason.NOT_ENTITLED, "the role names no audience")
    return audience


def _facts(grant: Grant) -> dict[str, object]:
    """What an offline verifier matches revocations against, and what a resource server may ask of code."""
    lease = grant.lease
    facts: dict[str, object] = {
        "role": lease.role,
        "mode": lease.mode.value,
        "attestation": lease.attestation_id,
        "lease": lease.id,
        "assurance": lease.assurance.word,
        "manifests": [digest.hex() for digest in grant.manifests],
        "as_of": lease.as_of,
    }
    place = {"node": grant.node, "pod": grant.pod_uid, "container": grant.container_id}
    return facts | {name: value for name, value in place.items() if value}
