"""Sets of units that were read before, by the exact bytes that spelled them: bounded, the latest stay."""

from __future__ import annotations

from collections import OrderedDict

from broker.model.evidence import Unit

Spelling = tuple[bytes, ...]
"""SHA-256 of each part of a statement that names units."""


class RememberedSets:
    """Owned by one event loop. Holds results of reading, which is pure: what is forgotten is read again."""

    def __init__(self, units: int) -> None:
        """`units` is how many units all that is kept may have together."""
        self._room = units
        self._known: OrderedDict[Spelling, tuple[frozenset[Unit], bytes]] = OrderedDict()
        self._held = 0

    def get(self, spelled: Spelling) -> tuple[frozenset[Unit], bytes] | None:
        """(units, digest of the code set), or None where it has to be read."""
        found = self._known.get(spelled)
        if found is not None:
            self._known.move_to_end(spelled)
        return found

    def keep(self, spelled: Spelling, units: frozenset[Unit], digest: bytes) -> tuple[frozenset[Unit], bytes]:
        """What was read, kept where there is room for it."""
        found = units, digest
        weight = len(units) + 1
        if weight <= self._room and spelled not in self._known:
            self._known[spelled] = found
            self._held += weight
            while self._held > self._room:
                _, (gone, _) = self._known.popitem(last=False)
                self._held -= len(gone) + 1
        return found
