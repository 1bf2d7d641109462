"""What people read: enumerators of the wire as they say them, and names of anybody's on one line."""

from __future__ import annotations

from typing import Any


def word(enum: Any, number: int, prefix: str) -> str:
    """``LEASE_STATE_ACTIVE`` is ``active``; what a newer broker says is ``unknown_9``."""
    try:
        name: str = enum.Name(number)
    except ValueError:
        return f"unknown_{number}"
    return name.removeprefix(prefix).lower()


def plain(text: str) -> str:
    """One line of a terminal, whatever is in it: what moves a cursor, a colour or a direction is spelled out.

    Files and modules are called as those who run them like.
    """
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
