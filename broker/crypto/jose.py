"""Strict compact JWS: refuses what a lenient reader would take, before and apart from the signature.

After RFC 7515 and RFC 8725: the algorithm is the key's, never the token's; one
spelling per token; no header that brings a key or changes the rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from broker.crypto.jwk import ALGORITHMS, MAX_KID, KeySet, VerificationKey
from broker.model.manifest import strict_json
from lockstep.formats import b64url_decode

MAX_TOKEN: Final = 16 * 1024
"""Characters; larger identity tokens are refused unread."""

# Keys and certificates of the token's own, critical extensions, detached or compressed payloads, encryption.
_REFUSED_HEADERS: Final = frozenset({"b64", "crit", "enc", "jku", "jwk", "x5c", "x5u", "zip"})
_MAX_CONTAINERS: Final = 256


class JoseError(ValueError):
    """The token is refused; the message has nothing of the token in it."""


class UnknownKeyError(JoseError):
    """No key of that name: worth one look for newer keys."""


@dataclass(frozen=True, slots=True)
class UnverifiedJws:
    """A well-formed token whose signature nobody has checked. `token` is kept out of repr."""

    algorithm: str
    kid: str | None
    typ: str | None
    payload: bytes = field(repr=False)
    signing_input: bytes = field(repr=False)
    signature: bytes = field(repr=False)

    def unverified_claims(self) -> Mapping[str, Any]:
        """What the token says of itself: only good for choosing among configured providers."""
        return parse_claims(self.payload)


def open_jws(token: str, *, limit: int = MAX_TOKEN) -> UnverifiedJws:
    """Take a compact JWS apart; nothing of it is believed. Raises `JoseError`."""
    # 1. Bounds, before anything is decoded.
    if len(token) > limit:
        raise JoseError("the token is too large")
    # 2. Exactly three segments in their one spelling (RFC 7515 section 7.1).
    parts = token.split(".")
    if len(parts) != 3 or not all(parts):
        raise JoseError("not a compact JWS")
    try:
        header_bytes, payload, signature = (b64url_decode(part) for part in parts)
    except ValueError:
        raise JoseError("not canonical base64url") from None
    # 3. A header that says what we know and nothing that we refuse.
    header = _json_object(header_bytes, "header")
    if not _REFUSED_HEADERS.isdisjoint(header):
        raise JoseError("a header parameter that is refused")
    algorithm, kid, typ = header.get("alg"), header.get("kid"), header.get("typ")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise JoseError("an algorithm that is refused")
    if kid is not None and not (isinstance(kid, str) and 0 < len(kid) <= MAX_KID):
        raise JoseError("the key id is malformed")
    if typ is not None and not isinstance(typ, str):
        raise JoseError("the type is malformed")
    signing_input = token[: -len(parts[2]) - 1].encode("ascii")
    return UnverifiedJws(algorithm, kid, typ, payload, signing_input, signature)


def verify_with(jws: UnverifiedJws, key: VerificationKey) -> Mapping[str, Any]:
    """The claims, signed by one key under one of its algorithms. Raises `JoseError`."""
    if not key.verifies(jws.algorithm, jws.signing_input, jws.signature):
        raise JoseError("the signature does not hold")
    return parse_claims(jws.payload)


def verify_jws(jws: UnverifiedJws, keys: KeySet) -> Mapping[str, Any]:
    """The claims, signed by the key that the token names. Raises `JoseError`; `UnknownKeyError` for the name.

    A token without ``kid`` is refused: which key verifies is not to be tried out.
    """
    if jws.kid is None:
        raise JoseError("the token names no key")
    if jws.kid in keys.refused:
        raise JoseError("two keys have that name")
    key = keys.keys.get(jws.kid)
    if key is None:
        raise UnknownKeyError("no key of that name")
    return verify_with(jws, key)


def parse_claims(payload: bytes) -> Mapping[str, Any]:
    """A claims set: one JSON object, no name twice (RFC 7519 section 4). Raises `JoseError`."""
    return _json_object(payload, "payload")


def _json_object(data: bytes, where: str) -> dict[str, Any]:
    # Counted before parsing: how deep Python's parser goes differs from version to version.
    if data.count(b"[") + data.count(b"{") > _MAX_CONTAINERS:
        raise JoseError(f"the {where} has too many objects and lists")
    try:
        value = strict_json(data)
    except ValueError:  # also an integer of more digits than Python converts
        raise JoseError(f"the {where} is not strict JSON") from None
    if not isinstance(value, dict):
        raise JoseError(f"the {where} is not an object")
    return value
