"""The gate's public keys: for those who take our attestation tokens at a login of their own (Vault's JWT auth)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from starlette.responses import JSONResponse, Response

from broker.api.http.app import Answer, Asked
from broker.errors import NotFound
from broker.ports import TokenSigner

_PUBLIC_CACHE: Final = {"cache-control": "public, max-age=60"}


class GateRoom:
    """Keys and discovery of an issuer of its own; not found where the broker has no gate key."""

    def __init__(self, signer: TokenSigner | None, issuer: str) -> None:
        """`issuer` is the ``iss`` of gate tokens and the public address of this room."""
        self._signer = signer
        self._issuer = issuer

    def answers(self) -> Mapping[tuple[str, str], Answer]:
        """(method, path) to answer."""
        return {
            ("GET", "/gate/jwks.json"): self.jwks,
            ("GET", "/gate/.well-known/openid-configuration"): self.configuration,
        }

    async def jwks(self, _: Asked) -> Response:
        """RFC 7517: the keys of gate tokens, and no others."""
        return JSONResponse(self._keys(), headers=_PUBLIC_CACHE)

    async def configuration(self, _: Asked) -> Response:
        """OpenID Connect Discovery 1.0 section 3, as far as a JWT login asks."""
        keys = self._keys()["keys"]
        document = {
            "issuer": self._issuer,
            "jwks_uri": f"{self._issuer}/jwks.json",
            "response_types_supported": ["none"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": sorted({key["alg"] for key in keys}),
        }
        return JSONResponse(document, headers=_PUBLIC_CACHE)

    def _keys(self) -> dict[str, Any]:
        if self._signer is None:
            raise NotFound("no such path")
        return dict(self._signer.jwks())
