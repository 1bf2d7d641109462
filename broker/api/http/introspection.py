"""Token introspection (RFC 7662), token revocation (RFC 7009), and the keys to verify tokens offline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

from starlette.responses import JSONResponse, Response

from broker.api.http.app import Answer, Asked
from broker.api.http.body import read_form
from broker.api.limits import Limits
from broker.errors import Denied, InvalidRequest, Unavailable
from broker.model.caller import Caller, IdentityCaller, OperatorCaller, ResourceServerCaller
from broker.model.identity import WorkloadIdentity
from broker.model.reach import EVERYTHING, Reach
from broker.model.requests import Introspection
from broker.ports import RevocationFeed, TokenSigner
from lockstep.formats import Reason

_INACTIVE: Final = {"active": False}
_PUBLIC_CACHE: Final = {"cache-control": "public, max-age=300"}
_PRIVATE_CLAIMS: Final = frozenset({"active", "exp", "token_type", "lockstep_mode"})


class Issuer(Protocol):
    """What this room needs of `broker.issue.Issuer`."""

    async def introspect(
        self, token_id: str, audiences: frozenset[str] | None, reach: Reach
    ) -> Introspection: ...


class Revoker(Protocol):
    """What this room needs of `broker.revoke.Revoker`."""

    async def revoke_token(self, token_id: str, actor: str, identity: WorkloadIdentity) -> None: ...


class TokenRoom:
    """Says "active" only for what it can vouch for right now; everything else is `{"active": false}`."""

    def __init__(
        self,
        issuer: Issuer,
        revoker: Revoker,
        signer: TokenSigner,
        feed: RevocationFeed,
        issuer_url: str,
        limits: Limits,
    ) -> None:
        """`issuer_url` is the ``iss`` of the tokens and the public address of this door."""
        self._issuer = issuer
        self._revoker = revoker
        self._signer = signer
        self._feed = feed
        self._url = issuer_url.rstrip("/")
        self._issuer_url = issuer_url
        self._limits = limits

    def answers(self) -> Mapping[tuple[str, str], Answer]:
        """(method, path) to answer."""
        return {
            ("POST", "/v1/introspect"): self.introspect,
            ("POST", "/v1/revoke"): self.revoke,
            ("GET", "/.well-known/jwks.json"): self.jwks,
            ("GET", "/.well-known/openid-configuration"): self.configuration,
        }

    async def introspect(self, asked: Asked) -> Response:
        """RFC 7662. A resource server learns of tokens of its own audiences only."""
        token = await self._token(asked)
        audiences = _audiences(asked.call.caller)
        try:
            claims = self._signer.verify(token, audience=None, now=asked.call.now)
        except Denied:
            return JSONResponse(_INACTIVE)
        if audiences is not None and claims.get("aud") not in audiences:
            return JSONResponse(_INACTIVE)
        if self._feed.age() > self._limits.state_age:
            # A replica that may have missed a revocation vouches for nothing.
            raise Unavailable(
                Reason.STATE_UNAVAILABLE, "the revocation state is not current", retry_after=1.0
            )
        found = await self._issuer.introspect(
            str(claims.get("jti", "")), audiences, _reach(asked.call.caller)
        )
        if not found.active or found.lease is None:
            return JSONResponse(_INACTIVE)
        answer: dict[str, Any] = {
            name: value for name, value in claims.items() if name not in _PRIVATE_CLAIMS
        }
        answer["active"] = True
        answer["exp"] = min(int(_number(claims.get("exp"))), int(found.lease.expires_at))
        answer["token_type"] = "DPoP" if found.lease.possession_required else "Bearer"
        answer["lockstep_mode"] = found.lease.mode.value
        return JSONResponse(answer)

    async def revoke(self, asked: Asked) -> Response:
        """RFC 7009: 200 whether or not there was anything to take back (section 2.2)."""
        caller = asked.call.caller
        if not isinstance(caller, IdentityCaller):
            raise InvalidRequest("an identity is needed")
        token = await self._token(asked)
        try:
            claims = self._signer.verify(token, audience=None, now=asked.call.now)
        except Denied:
            return JSONResponse({})
        name = caller.identity.name
        await self._revoker.revoke_token(str(claims.get("jti", "")), f"holder:{name}", caller.identity)
        return JSONResponse({})

    async def jwks(self, _: Asked) -> Response:
        """RFC 7517: the keys of credentials, and no others."""
        return JSONResponse(dict(self._signer.jwks()), headers=_PUBLIC_CACHE)

    async def configuration(self, _: Asked) -> Response:
        """OpenID Connect Discovery 1.0 section 3, as far as verifiers of our tokens use it."""
        keys: Any = self._signer.jwks().get("keys", [])
        document = {
            "issuer": self._issuer_url,
            "jwks_uri": f"{self._url}/.well-known/jwks.json",
            "introspection_endpoint": f"{self._url}/v1/introspect",
            "revocation_endpoint": f"{self._url}/v1/revoke",
            "response_types_supported": ["none"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": sorted({key["alg"] for key in keys if "alg" in key}),
        }
        return JSONResponse(document, headers=_PUBLIC_CACHE)

    async def _token(self, asked: Asked) -> str:
        form = await read_form(asked.request, self._limits.small, self._limits.body)
        token = form.get("token", "")
        if not token:
            raise InvalidRequest("token: missing")
        return token


def _reach(caller: Caller | None) -> Reach:
    return caller.reach("introspect") if isinstance(caller, OperatorCaller) else EVERYTHING


def _audiences(caller: Caller) -> frozenset[str] | None:
    return caller.server.audiences if isinstance(caller, ResourceServerCaller) else None


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
