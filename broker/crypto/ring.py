"""JwtRing: one purpose's signing keys in files; an active key, and old ones that still verify."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ed25519

from broker.crypto.claims import check_audience, check_times, text_claim
from broker.crypto.jose import JoseError, open_jws, verify_jws
from broker.crypto.jwk import KeySet, VerificationKey, algorithms_of, public_jwk, thumbprint
from broker.crypto.keyfiles import PrivateKey, PublicKey, load_private_key, load_public_key
from broker.errors import Denied
from lockstep.formats import CREDENTIAL_TYPE, Reason, b64url


@dataclass(frozen=True, slots=True)
class _Keys:
    """The ring's keys of one generation: swapped whole, so that no call sees half a rotation."""

    active: PrivateKey = field(repr=False)
    kid: str
    algorithm: str
    known: KeySet


class JwtRing:
    """A `TokenSigner` over file keys: ES256 for P-256, EdDSA for Ed25519; ``kid`` is the RFC 7638 thumbprint.

    Rotation with overlap: list the next public key as `others` first, so that
    verifiers know it, then make it the active one and keep the old public key
    in `others` until the last token that it signed has ended.
    """

    def __init__(
        self,
        active: PrivateKey,
        *,
        issuer: str,
        others: Sequence[PublicKey] = (),
        token_type: str = CREDENTIAL_TYPE,
        leeway: float = 5.0,
    ) -> None:
        """`issuer` is checked by `verify`; `token_type` is the header ``typ`` of every token of the ring;
        `leeway` in seconds is between this cluster's own clocks."""
        self._issuer = issuer
        self._type = token_type
        self._leeway = leeway
        self._keys = _generation(active, others)

    def replace(self, active: PrivateKey, others: Sequence[PublicKey] = ()) -> None:
        """Rotate: from now on sign with `active`, and still verify what `others` signed."""
        self._keys = _generation(active, others)

    def load(self, active: str | os.PathLike[str], others: Sequence[str | os.PathLike[str]] = ()) -> None:
        """`replace` from key files. Raises `KeyFileError` and then leaves the ring as it was."""
        self.replace(*ring_keys(active, others))

    @property
    def key_id(self) -> str:
        """The ``kid`` of the active key."""
        return self._keys.kid

    @property
    def issuer(self) -> str:
        """The ``iss`` of every token of the ring."""
        return self._issuer

    def sign(self, claims: Mapping[str, object]) -> str:
        """A compact JWS with the ring's type and the active key's algorithm."""
        keys = self._keys
        headers = {"typ": self._type, "kid": keys.kid}
        return jwt.encode(dict(claims), keys.active, algorithm=keys.algorithm, headers=headers)

    def verify(self, token: str, *, audience: str | None, now: float) -> Mapping[str, Any]:
        """Claims of a token of this ring that is alive at `now`; raises `Denied` (identity_rejected).

        Demands the ring's ``typ`` and ``iss``, ``exp``, ``sub``, ``jti`` and
        exactly one audience (RFC 9068 section 4); `audience` None takes any.
        """
        try:
            jws = open_jws(token)
            if jws.typ != self._type:
                raise JoseError("another type of token")
            claims = verify_jws(jws, self._keys.known)
            if text_claim(claims, "iss") != self._issuer:
                raise JoseError("another issuer")
            check_times(claims, now, leeway=self._leeway)
            text_claim(claims, "sub")
            text_claim(claims, "jti")
            check_audience(claims, text_claim(claims, "aud") if audience is None else audience)
        except JoseError as error:
            raise Denied(Reason.IDENTITY_REJECTED, f"the token is refused: {error}") from None
        return claims

    def jwks(self) -> Mapping[str, object]:
        """The public keys (RFC 7517 section 5), active first."""
        return {"keys": [_jwk(key) for key in self._keys.known.keys.values()]}


def ring_keys(
    active: str | os.PathLike[str], others: Sequence[str | os.PathLike[str]] = ()
) -> tuple[PrivateKey, list[PublicKey]]:
    """What `JwtRing.replace` takes, read from files. Raises `KeyFileError`."""
    return load_private_key(active), [load_public_key(path) for path in others]


def ring_from_files(
    active: str | os.PathLike[str],
    others: Sequence[str | os.PathLike[str]] = (),
    *,
    issuer: str,
    token_type: str = CREDENTIAL_TYPE,
) -> JwtRing:
    """A ring whose private key and other public keys lie in files. Raises `KeyFileError`."""
    key, public = ring_keys(active, others)
    return JwtRing(key, issuer=issuer, others=public, token_type=token_type)


def _generation(active: PrivateKey, others: Sequence[PublicKey]) -> _Keys:
    public = active.public_key()
    # The active key may be listed among the others: that is the middle of a rotation, not a clash.
    keys = {key.kid: key for key in (_verification_key(key) for key in (public, *others))}
    algorithm = "EdDSA" if isinstance(public, ed25519.Ed25519PublicKey) else "ES256"
    return _Keys(active, next(iter(keys)), algorithm, KeySet(keys))


def _verification_key(key: PublicKey) -> VerificationKey:
    return VerificationKey(b64url(thumbprint(key)), key, algorithms_of(key))


def _jwk(key: VerificationKey) -> dict[str, str]:
    (algorithm,) = key.algorithms
    return {**public_jwk(key.key), "kid": key.kid, "alg": algorithm, "use": "sig"}
