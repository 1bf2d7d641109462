"""One line of a check: how bad, what, why, and what mends it."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from broker.adapters.backends.vault_setup.acts import Act

ADMIN: Final = "run it with an operator's token: --token-file"
BATCH: Final = "batch tokens cannot be revoked, and their leases outlive them"
ROOT: Final = "whoever may write an entity may give it any policy: root in disguise"


class Level(enum.StrEnum):
    """In the order of what to do first."""

    TOO_WIDE = "too wide"
    MISSING = "missing"
    UNSEEN = "could not be seen"
    GOOD = "good"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of a check. `key` names it for programs; `mends` is empty where it is good."""

    key: str
    level: Level
    what: str
    why: str = ""
    mends: tuple[Act, ...] = ()
