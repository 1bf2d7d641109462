"""Enumerators of the wire as people say them."""

from __future__ import annotations

from typing import Any


def word(enum: Any, number: int, prefix: str) -> str:
    """``LEASE_STATE_ACTIVE`` is ``active``; what a newer broker says is ``unknown_9``."""
    try:
        name: str = enum.Name(number)
    except ValueError:
        return f"unknown_{number}"
    return name.removeprefix(prefix).lower()
