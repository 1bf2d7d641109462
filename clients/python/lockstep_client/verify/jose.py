"""A signed JWT taken apart strictly, before and apart from its signature (RFC 8725).

PyJWT checks the signature; what it lets pass (names twice, headers that bring a
key, a missing ``exp``, times without an injected clock) is refused here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import jwt

from lockstep.formats import Reason, b64url_decode
from lockstep_client.errors import Denied

MAX_TOKEN = 16 * 1024
"""Characters."""
ALGORITHMS = ("ES256", "EdDSA")
_REFUSED_HEADERS = frozenset({"b64", "crit", "enc", "jku", "x5c", "x5u", "zip"})
_LAST_TIME = 253_402_300_800.0


def refuse(why: str, reason: Reason = Reason.IDENTITY_REJECTED) -> Denied:
    """A refusal; `why` has nothing of the token in it."""
    return Denied(why, reason=reason)


def header_of(token: str, typ: str, reason: Reason, *, jwk_allowed: bool = False) -> Mapping[str, Any]:
    """The header of a well-formed token of one type, under a pinned algorithm. Nothing is verified yet."""
    if len(token) > MAX_TOKEN or not token.isascii():
        raise refuse("the token is too large or not ASCII", reason)
    parts = token.split(".")
    if len(parts) != 3 or not all(parts):
        raise refuse("not a compact JWS", reason)
    try:
        decoded = [b64url_decode(part) for part in parts]
    except ValueError:
        raise refuse("not canonical base64url", reason) from None
    header = strict_object(decoded[0], reason)
    refused = _REFUSED_HEADERS if jwk_allowed else _REFUSED_HEADERS | {"jwk"}
    if not refused.isdisjoint(header):
        raise refuse("a header parameter that is refused", reason)
    if header.get("alg") not in ALGORITHMS:
        raise refuse("an algorithm that is refused", reason)
    if header.get("typ") != typ:
        raise refuse("another type of token", reason)
    return header


def claims_of(token: str, key: Any, algorithm: str, reason: Reason) -> Mapping[str, Any]:
    """The claims, with the signature verified under exactly one algorithm."""
    try:
        verified = jwt.PyJWS().decode_complete(token, key=key, algorithms=[algorithm])
    except Exception:  # noqa: BLE001 - a door: what a parser of foreign bytes raises is not written down
        raise refuse("the signature does not hold", reason) from None
    return strict_object(verified["payload"], reason)


def strict_object(data: bytes, reason: Reason) -> dict[str, Any]:
    """One JSON object, no name twice, no NaN."""
    try:
        value = json.loads(
            data.decode("utf-8"), object_pairs_hook=_no_name_twice, parse_constant=_no_constant
        )
    except (ValueError, RecursionError):
        raise refuse("not strict JSON", reason) from None
    if not isinstance(value, dict):
        raise refuse("not an object", reason)
    return value


def text(claims: Mapping[str, Any], name: str, reason: Reason) -> str:
    """A required, non-empty text claim."""
    value = claims.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= 4096:
        raise refuse(f"{name} is missing or malformed", reason)
    try:
        value.encode()
    except UnicodeEncodeError:  # half a character, by JSON's own escapes
        raise refuse(f"{name} is missing or malformed", reason) from None
    return value


def number(claims: Mapping[str, Any], name: str, reason: Reason) -> float | None:
    """A NumericDate (RFC 7519 section 2); None where it is absent."""
    if name not in claims:
        return None
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise refuse(f"{name} is not a number", reason)
    if not 0 <= value < _LAST_TIME or not math.isfinite(value):
        raise refuse(f"{name} is out of range", reason)
    return float(value)


def _no_name_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name twice")
    return found


def _no_constant(_: str) -> None:
    raise ValueError("not JSON")
