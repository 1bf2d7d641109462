"""Proof of possession of an instance key, one a call, fresh by the server's rolling nonce (after RFC 9449)."""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, TypeGuard

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import load_der_public_key

from broker.crypto.jose import JoseError, open_jws, verify_with
from broker.crypto.jwk import VerificationKey, algorithms_of, thumbprint
from broker.crypto.keyfiles import PublicKey, public_der
from broker.errors import Unauthenticated
from broker.model.caller import ProofUse
from broker.model.evidence import InstanceKey
from lockstep.formats import PROOF_TYPE, Reason, b64url

MAX_PROOF: Final = 2048
"""Characters of a proof; ours has about 450."""

_NONCE_CONTEXT: Final = b"lockstep-rolling-nonce-v1\x00"
_JTI_LENGTH: Final = range(16, 129)
_JTI_ALPHABET: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~")
_MIN_SECRET: Final = 32
# JSON can spell lone surrogates, which strict UTF-8 refuses with an exception.
_BYTES: Final = ("utf-8", "surrogatepass")


class RollingNonce:
    """A nonce that all replicas with one secret agree on and that nobody stores.

    It is the MAC of the number of a window of `period` seconds; the current and
    the previous window are valid, so that one is good for `period` to twice that.
    """

    def __init__(self, secret: bytes, period: float = 30.0) -> None:
        """`secret` has at least 32 bytes. Raises ``ValueError``."""
        if len(secret) < _MIN_SECRET or period <= 0:
            raise ValueError(
                f"the nonce secret must have at least {_MIN_SECRET} bytes, the period be positive"
            )
        self._secret = secret
        self._period = period
        # Asked three times a call, and new twice a minute: the MACs of the last windows are kept.
        self._made: dict[int, str] = {}

    def current(self, now: float) -> str:
        """The nonce to send at `now`."""
        return self._nonce(int(now // self._period))

    def check(self, nonce: str, now: float) -> float | None:
        """When a valid nonce ends (seconds since the epoch), or None for any other text."""
        offered = nonce.encode(*_BYTES)
        window = int(now // self._period)
        found = None
        for known in (window, window - 1):
            if hmac.compare_digest(self._nonce(known).encode("ascii"), offered):
                found = (known + 2) * self._period
        return found

    def _nonce(self, window: int) -> str:
        made = self._made.get(window)
        if made is None:
            message = _NONCE_CONTEXT + struct.pack(">Q", window)
            made = b64url(hmac.digest(self._secret, message, hashlib.sha256)[:18])
            self._made = {known: nonce for known, nonce in self._made.items() if abs(known - window) <= 1}
            self._made[window] = made
        return made


def verify_proof(
    jws: str,
    *,
    key: InstanceKey,
    method: str,
    body: bytes,
    audience: str,
    nonces: RollingNonce,
    now: float,
) -> ProofUse:
    """What to claim once in the replay table, where the proof is by `key` for exactly this call.

    `method` is the full gRPC method, `body` the message bytes as received,
    `audience` the cluster. The workload's clock plays no part: the nonce tells
    freshness. Raises `Unauthenticated` (proof_rejected).
    """
    try:
        # 1. A compact JWS of our type that brings no key of its own (RFC 9449 section 4.3 without the header jwk).
        opened = open_jws(jws, limit=MAX_PROOF)
        if opened.typ != PROOF_TYPE:
            raise JoseError("another type of token")
        if opened.algorithm != key.algorithm:
            raise JoseError("another algorithm than the key's")
        # 2. Signed by the instance key.
        claims = verify_with(opened, verification_key(key.spki))
        # 3. For this call: method, message, cluster.
        if claims.get("htm") != method:
            raise JoseError("for another method")
        if claims.get("aud") != audience:
            raise JoseError("for another cluster")
        digest = b64url(hashlib.sha256(body).digest())
        if not hmac.compare_digest(_text(claims, "dig").encode(*_BYTES), digest.encode("ascii")):
            raise JoseError("for another message")
        # 4. Fresh, and nameable once.
        iat = claims.get("iat")
        if isinstance(iat, bool) or not isinstance(iat, int):
            raise JoseError("iat is missing")
        jti = claims.get("jti")
        if not isinstance(jti, str) or len(jti) not in _JTI_LENGTH or not _JTI_ALPHABET.issuperset(jti):
            raise JoseError("jti is missing or malformed")
        expires = nonces.check(_text(claims, "nonce"), now)
        if expires is None:
            raise JoseError("the nonce is not a current one")
    except JoseError as error:
        raise Unauthenticated(Reason.PROOF_REJECTED, f"the proof of possession is refused: {error}") from None
    return ProofUse(key.thumbprint, jti, expires)


@lru_cache(maxsize=8192)
def parse_instance_key(spki: bytes) -> InstanceKey:
    """The key of a DER SubjectPublicKeyInfo in its one spelling: P-256 or Ed25519. Raises ``ValueError``."""
    known = verification_key(spki)
    (algorithm,) = known.algorithms
    return InstanceKey(spki, thumbprint(known.key), algorithm)


@lru_cache(maxsize=8192)
def verification_key(spki: bytes) -> VerificationKey:
    """A parsed instance key, remembered by its bytes. Raises ``ValueError`` for another type or spelling."""
    if len(spki) > 256:
        raise ValueError("the key is too large")
    try:
        key = load_der_public_key(spki)
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("not a public key") from None
    if not _is_instance_key(key) or public_der(key) != spki:
        raise ValueError("the key must be P-256 or Ed25519, in DER")
    return VerificationKey("", key, algorithms_of(key))


def _is_instance_key(key: object) -> TypeGuard[PublicKey]:
    if isinstance(key, ec.EllipticCurvePublicKey):
        return isinstance(key.curve, ec.SECP256R1)
    return isinstance(key, ed25519.Ed25519PublicKey)


def _text(claims: Mapping[str, Any], name: str) -> str:
    value = claims.get(name)
    if not isinstance(value, str):
        raise JoseError(f"{name} is missing or malformed")
    return value
