"""What whoever opened a stream is by now: an identity ends, and a reload gives rights and takes them."""

from __future__ import annotations

from broker.api.access import Row
from broker.api.callers import caller_by
from broker.errors import Unauthenticated
from broker.model.caller import Caller, WorkloadCaller
from broker.model.role import RoleBook
from broker.ports import RoleSource
from lockstep.formats import Reason


class Standing:
    """Of one stream. A workload's is its attestation, which its room looks at."""

    def __init__(self, caller: Caller, row: Row, roles: RoleSource) -> None:
        self._caller = caller
        self._row = row
        self._roles = roles
        # Nothing yet: a reload may have come between the door and this.
        self._book: RoleBook | None = None

    @property
    def until(self) -> float | None:
        """When its identity ends (seconds, UTC); None for a workload."""
        return None if isinstance(self._caller, WorkloadCaller) else self._caller.identity.not_after

    def current(self, now: float) -> Caller:
        """The caller by the book in force. Raises `Unauthenticated`, `Denied` where it may not go on."""
        if isinstance(self._caller, WorkloadCaller):
            return self._caller
        identity = self._caller.identity
        if now >= identity.not_after:
            raise Unauthenticated(Reason.NO_IDENTITY, "the identity has expired: open the stream again")
        book = self._roles.current()
        if book is not self._book:
            self._caller = caller_by(book, self._row, identity)
            self._book = book
        return self._caller
