"""Strict reading of what others wrote, so that no two readers take the same bytes differently."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

MAX_PAYLOAD: Final = 64 * 1024 * 1024

_RFC3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?(?:Z|[+-][0-9]{2}:[0-9]{2})"
)
_BRACKET = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[\]{}]', re.DOTALL)
_SHA256_HEX = re.compile(r"[0-9a-f]{64}")
_QUOTE = ord('"')
_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
_SECOND = timedelta(seconds=1)


class Malformed(ValueError):
    """The input is not what it should be; the message says where, and quotes at most a short key."""


def strict_json(data: bytes, *, limit: int = MAX_PAYLOAD, depth: int | None = None) -> Any:
    """JSON (RFC 8259; UTF-8, no byte order mark) without duplicate keys and numbers beyond range.

    `limit` is in bytes; `depth` bounds how deep objects and lists nest, where
    the caller wants less than the parser's own bound. Raises `Malformed`.
    """
    if len(data) > limit:
        raise Malformed(f"larger than {limit} bytes")
    if depth is not None:
        _check_depth(data, depth)
    try:
        return _DECODER.decode(data.decode("utf-8"))
    except Malformed:
        raise
    # ValueError: not UTF-8, not JSON, or an integer of more digits than the interpreter converts.
    except (ValueError, RecursionError):
        raise Malformed("not JSON") from None


def _check_depth(data: bytes, limit: int) -> None:
    # Before any parser. Brackets inside texts could hide depth, so texts are skipped as JSON reads them.
    depth = 0
    for found in _BRACKET.finditer(data):
        character = data[found.start()]
        if character == _QUOTE:
            continue
        depth += 1 if character in b"[{" else -1
        if depth > limit:
            raise Malformed(f"nested deeper than {limit}")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Malformed("duplicate key in a JSON object")
    return found


def _refuse_constant(name: str) -> Any:
    raise Malformed(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise Malformed("a number is beyond range")
    return number


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_no_duplicates, parse_constant=_refuse_constant, parse_float=_finite
)


def read_object(
    value: Any, where: str, keys: Collection[str] | None, required: Iterable[str] = ()
) -> Mapping[str, Any]:
    """An object with no key but `keys` (None: any) and with all of `required`. Raises `Malformed`."""
    if not isinstance(value, dict):
        raise Malformed(f"{where}: not an object")
    if keys is not None:
        for name in value:
            if name not in keys:
                raise Malformed(f"{where}: unknown key {name[:64]!r}")
    for name in required:
        if name not in value:
            raise Malformed(f"{where}: {name!r} is missing")
    return value


def read_text(value: Any, where: str, *, limit: int = 4096, empty: bool = False) -> str:
    """A printable text of at most `limit` characters. Raises `Malformed`."""
    if (
        not isinstance(value, str)
        or len(value) > limit
        or (not value and not empty)
        or not value.isprintable()
    ):
        raise Malformed(f"{where}: not a printable text of at most {limit} characters")
    return value


def read_texts(value: Any, where: str, *, count: int = 10_000, limit: int = 4096) -> tuple[str, ...]:
    """A list of at most `count` texts. Raises `Malformed`."""
    if not isinstance(value, list) or len(value) > count:
        raise Malformed(f"{where}: not a list of at most {count}")
    return tuple(read_text(item, where, limit=limit) for item in value)


def read_number(value: Any, where: str, *, most: int, least: int = 0) -> int:
    """A whole number between `least` and `most`, no boolean and no fraction. Raises `Malformed`."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise Malformed(f"{where}: not a whole number from {least} to {most}")
    return value


def read_sha256(value: Any, where: str) -> bytes:
    """The 32 bytes of a lower-case hexadecimal SHA-256. Raises `Malformed`."""
    # fromhex alone would take white space and capitals: several spellings of one digest.
    if not isinstance(value, str) or not _SHA256_HEX.fullmatch(value):
        raise Malformed(f"{where}: not a lower-case hexadecimal SHA-256")
    return bytes.fromhex(value)


def read_time(value: Any, where: str) -> float:
    """Seconds since the epoch, UTC, of an RFC 3339 time (section 5.6) with a zone. Raises `Malformed`."""
    if not isinstance(value, str) or len(value) > 40 or not _RFC3339.fullmatch(value):
        raise Malformed(f"{where}: not an RFC 3339 time with a zone")
    try:
        return (datetime.fromisoformat(value) - _EPOCH) / _SECOND
    except (ValueError, OverflowError):
        raise Malformed(f"{where}: no such time") from None
