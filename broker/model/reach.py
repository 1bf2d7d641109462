"""How far a caller's right reaches: to every role, or to those of its scopes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from broker.model.role import RoleBook, Scope


@dataclass(frozen=True, slots=True)
class Owned:
    """A role by its name, and whose it is (empty: nobody's)."""

    role: str
    owner: str


@dataclass(frozen=True, slots=True)
class Reach:
    """`scopes` None is everything; else a role is within where one of them covers it."""

    scopes: tuple[Scope, ...] | None = None

    @property
    def everything(self) -> bool:
        """True where nothing narrows it."""
        return self.scopes is None

    def covers(self, owned: Owned) -> bool:
        """True where the role is within."""
        return self.scopes is None or any(scope.covers(owned.role, owned.owner) for scope in self.scopes)

    def touches(self, roles: Iterable[Owned]) -> bool:
        """True where one of the roles is within: enough to see what belongs to them."""
        return self.scopes is None or any(self.covers(role) for role in roles)

    def holds(self, roles: Iterable[Owned]) -> bool:
        """True where there are roles and all of them are within: what it takes to act on what belongs to them."""
        known = tuple(roles)
        return self.scopes is None or (bool(known) and all(self.covers(role) for role in known))

    def touches_application(self, book: RoleBook, application: str) -> bool:
        """True where a role within runs an application, or what includes it."""
        return self.touches(Owned(role.name, role.owner) for role in book.running(application))


EVERYTHING: Final = Reach()
"""Of a right without a scope."""
