"""Faults: what a plug raises that is none of the broker's errors costs its own row a try, and the others nothing."""

from __future__ import annotations

from collections.abc import Callable

OnFault = Callable[[str, Exception], None]
"""Told what was worked on, and what was raised: its text may quote a secret and belongs in no log and no row."""


def fault(error: Exception) -> str:
    """What a row keeps of it."""
    return f"fault of the broker: {type(error).__qualname__}"
