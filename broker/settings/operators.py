"""Tables of operators: who may do what, how far, and what takes more than one of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, model_validator

from broker.model.revocation import SelectorKind
from broker.settings.problems import nearest
from broker.settings.server import Table
from broker.settings.tables import MatchTable
from broker.settings.values import Count, Text

RIGHTS = (
    *(
        "read",
        "explain",
        "publish",
        "retire",
        "withdraw",
        "lower",
        "lift",
        "approve",
        "introspect",
        "revoke:*",
    ),
    *(f"revoke:{kind.value}" for kind in SelectorKind),
)


UNSCOPED = frozenset({"publish", "retire", "withdraw", "lower"})
"""Rights over manifests, which belong to applications and not to roles."""


class OperatorScopeTable(Table):
    """Which roles an operator's rights reach, by patterns; where both are given, both must hold."""

    owners: tuple[Text, ...] = ()
    roles: tuple[Text, ...] = ()

    @model_validator(mode="after")
    def _something(self) -> OperatorScopeTable:
        if not (self.owners or self.roles):
            raise ValueError("narrows nothing; give owners or roles, or leave scope out")
        return self


class OperatorTable(Table):
    """A person or pipeline with rights."""

    identity: MatchTable
    may: Annotated[tuple[str, ...], Field(min_length=1)]
    scope: OperatorScopeTable | None = None
    quorum: Mapping[str, Count] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _known(self) -> OperatorTable:
        for right in self.may:
            if right not in RIGHTS:
                raise ValueError(f'may: "{right}" is no right{nearest(right, RIGHTS)}')
        for right, people in self.quorum.items():
            if not right.startswith("revoke:") or right not in RIGHTS:
                known = [item for item in RIGHTS if item.startswith("revoke:")]
                raise ValueError(f'quorum: "{right}" is no right to revoke{nearest(right, known)}')
            if right not in self.may and "revoke:*" not in self.may:
                raise ValueError(f'quorum: "{right}" is not among may; name it there, or leave it out here')
            if people < 2:
                raise ValueError(f"quorum: one operator suffices without it; give {right} at least 2")
        wide = sorted(set(self.may) & UNSCOPED) if self.scope is not None else ()
        if wide:
            raise ValueError(
                f"scope does not narrow {', '.join(wide)}: an application's signers are named in [manifests.*]; "
                "give that in an [operators.*] of its own, without a scope"
            )
        return self
