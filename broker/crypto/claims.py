"""Pure rules on claims: times against an injected now, audiences, text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from broker.crypto.jose import JoseError

_LAST_TIME: Final = 253_402_300_800.0  # the year 10000: beyond it a time is an attack or a mistake
MAX_TEXT: Final = 2048


def check_times(
    claims: Mapping[str, Any], now: float, *, leeway: float, max_age: float | None = None
) -> float:
    """When the token ends, in seconds since the epoch (RFC 7519 section 4.1).

    ``exp`` is required and gets no leeway: nothing that is granted outlives it.
    ``nbf`` and ``iat`` may lie `leeway` seconds ahead; with `max_age` (seconds)
    ``iat`` is required and may not be older. Raises `JoseError`.
    """
    expires = numeric_date(claims, "exp")
    if expires is None:
        raise JoseError("exp is missing")
    if expires <= now:
        raise JoseError("the token has expired")
    not_before = numeric_date(claims, "nbf")
    if not_before is not None and not_before > now + leeway:
        raise JoseError("the token is not valid yet")
    issued = numeric_date(claims, "iat")
    if issued is not None and issued > now + leeway:
        raise JoseError("the token was issued in the future")
    if max_age is not None:
        if issued is None:
            raise JoseError("iat is missing")
        if now - issued > max_age:
            raise JoseError("the token is too old")
    return expires


def numeric_date(claims: Mapping[str, Any], name: str) -> float | None:
    """A NumericDate (RFC 7519 section 2), or None where absent. Raises `JoseError` for anything else."""
    value = claims.get(name)
    if value is None and name not in claims:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise JoseError(f"{name} is not a number")
    # Compared before it is converted: float() of a huge integer raises.
    if not 0 <= value < _LAST_TIME or not math.isfinite(value):
        raise JoseError(f"{name} is out of range")
    return float(value)


def check_audience(claims: Mapping[str, Any], audience: str, *, allow_list: bool = False) -> None:
    """``aud`` is exactly `audience`; with `allow_list` a list that has it. Raises `JoseError`.

    A list of one is the same as its text (RFC 7519 section 4.1.3).
    """
    value = claims.get("aud")
    if isinstance(value, list) and (allow_list or len(value) == 1):
        if not all(isinstance(item, str) for item in value) or audience not in value:
            raise JoseError("not for this audience")
    elif not isinstance(value, str) or value != audience:
        raise JoseError("not for this audience")


def text_claim(claims: Mapping[str, Any], name: str) -> str:
    """A required, non-empty text claim of at most `MAX_TEXT` characters. Raises `JoseError`."""
    value = claims.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT:
        raise JoseError(f"{name} is missing or malformed")
    return value
