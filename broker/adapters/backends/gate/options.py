"""What an operator says of a gate: which JWT auth method takes its tokens, and for how long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

LONGEST: Final = 60.0
"""Seconds that a gate token may live: it is a bearer token, and only its entity is taken back."""


@dataclass(frozen=True, slots=True)
class GateOptions:
    """`mount` is the path of Vault's JWT auth method, `audience` what its roles are bound to, `ttl` seconds.

    `max_request_duration` is what Vault's listener says, as in `VaultOptions`.
    """

    mount: str
    audience: str
    ttl: float = LONGEST
    max_request_duration: float = 30.0
