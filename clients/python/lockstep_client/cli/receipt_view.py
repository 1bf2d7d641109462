"""A receipt as a responder reads it: what was taken back, how soon each step was done, what is not confirmed."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

from lockstep_client.errors import InvalidRequest


def head(receipt: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Name and value, a line each; empty where a receipt does not say. Raises `InvalidRequest`."""
    try:
        selector = receipt["selector"]
        value = str(selector["value"])
        if selector["kind"] in ("manifest", "digest", "key"):
            value = value[:12]
        return [
            ("revocation", receipt["revocation"]),
            ("at", _second(receipt["at"])),
            ("what", f"{selector['kind']} {value}"),
            ("acts", " ".join(name for name in ("cut", "ban") if receipt[name])),
            ("until", _second(receipt["until"]) if receipt["until"] else ""),
            ("hit", f"{receipt['attestations']} instances, {receipt['leases']} leases"),
            ("by", receipt["actor"]),
            ("reason", receipt["reason"]),
            ("ticket", receipt["ticket"]),
            ("decision", receipt["decision"]),
        ]
    except (KeyError, TypeError, ValueError):
        raise _no_receipt() from None


def steps(receipt: Mapping[str, Any]) -> list[Sequence[str]]:
    """(step, time since the denial: less than nothing for the report; detail), in order. Raises `InvalidRequest`."""
    try:
        began = _moment(receipt["at"])
        return [
            (item["name"], _since(_moment(item["at"]) - began), item["detail"]) for item in receipt["steps"]
        ]
    except (KeyError, TypeError, ValueError):
        raise _no_receipt() from None


def unconfirmed(receipt: Mapping[str, Any]) -> list[str]:
    """What nobody could confirm, and until when it may be good, a line each. Raises `InvalidRequest`."""
    try:
        return [
            f"{item['what']}"
            + (f", {item['lease']}" if item["lease"] else "")
            + (f", until {_second(item['until'])}" if item["until"] else "")
            for item in receipt["unconfirmed"]
        ]
    except (KeyError, TypeError, ValueError):
        raise _no_receipt() from None


def _since(span: dt.timedelta) -> str:
    seconds = span.total_seconds()
    return f"{seconds * 1000:+.1f} ms" if abs(seconds) < 1 else f"{seconds:+.1f} s"


def _moment(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text)


def _second(text: str) -> str:
    return f"{_moment(text):%Y-%m-%d %H:%M:%SZ}"


def _no_receipt() -> InvalidRequest:
    return InvalidRequest("the envelope holds no receipt that is known here: --json shows it")
