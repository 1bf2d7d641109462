"""What was seen at a server, gathered before anything is judged; and what could not be seen, with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from broker.adapters.backends.vault_setup.acl import View
from broker.model.account import TargetFault


@dataclass(frozen=True, slots=True)
class Unseen:
    """Could not be looked at; `why` in a few words."""

    why: str


@dataclass(frozen=True, slots=True)
class Own:
    """The token of the broker's own login. `entity_id` is empty where it has no entity."""

    policies: frozenset[str]
    identity_policies: frozenset[str]
    kind: str
    entity_id: str
    view: View | Unseen
    entity_free: bool
    """True where it may write more of an entity than `disabled`: tried on an id that nobody has."""


@dataclass(frozen=True, slots=True)
class Gate:
    """A role of Vault's JWT auth that takes our attestation tokens."""

    path: str
    role: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Facts:
    """What was seen. None means: looked, and it is not there."""

    product: str
    """``openbao`` or ``vault``."""
    version: str
    standby_reads: bool | Unseen
    max_request: float | Unseen
    own: Own | Unseen
    token_role: Mapping[str, Any] | Unseen | None
    login_mount: Mapping[str, Any] | Unseen | None
    login_role: Mapping[str, Any] | Unseen | None
    mounts: Mapping[str, str] | Unseen
    policies: Mapping[str, View | Unseen | None] = field(default_factory=dict)
    """By name: what a token may that has this policy alone."""
    definitions: Mapping[str, bool | Unseen] = field(default_factory=dict)
    """By path of a role: whether the engine has what it asks for."""
    usernames: Mapping[str, str | Unseen] = field(default_factory=dict)
    """By database connection (``MOUNT/config/NAME``) that roles with a cutter use: its template for names."""
    targets: Mapping[str, tuple[TargetFault, ...] | Unseen] = field(default_factory=dict)
    """By cutter: what it says is wrong at its target."""
    gates: tuple[Gate, ...] = ()
    own_refused: str = ""
    """Why the server refused the broker's login; empty where it did not."""

    @property
    def tool(self) -> str:
        """The command that speaks to it."""
        return "bao" if self.product == "openbao" else "vault"
