"""What is decided and not durable yet: it refuses, and has no other consequence until an entry of the log says it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from broker.model.revocation import EntryKind, NewEntry, Selector


class Anticipation:
    """Bodies of entries that are on their way into the log, a ticket for each denial.

    A ticket ends by `settle` (the entries have been applied, or will never be
    written) or by `unsure` (nobody knows): then its bodies stay until an entry
    answers them.
    """

    def __init__(self) -> None:
        self._bodies: dict[int, tuple[NewEntry, ...]] = {}
        self._by_selector: dict[Selector, list[NewEntry]] = {}
        self._unsure: set[int] = set()
        self._tickets = 0

    def __bool__(self) -> bool:
        return bool(self._bodies)

    def add(self, bodies: Iterable[NewEntry]) -> int:
        """Refuse from now on what these say; the ticket."""
        self._tickets += 1
        self._bodies[self._tickets] = tuple(bodies)
        for body in self._bodies[self._tickets]:
            self._by_selector.setdefault(body.selector, []).append(body)
        return self._tickets

    def settle(self, ticket: int) -> None:
        """The anticipation ends."""
        self._unsure.discard(ticket)
        for body in self._bodies.pop(ticket, ()):
            waiting = self._by_selector[body.selector]
            waiting.remove(body)
            if not waiting:
                del self._by_selector[body.selector]

    def unsure(self, ticket: int) -> None:
        """Whether it was written is not known: refuse on, until an entry says the same or a lift undoes it."""
        if ticket in self._bodies:
            self._unsure.add(ticket)

    def answer(self, entry: NewEntry) -> None:
        """An entry has come: what was unsure about it is settled, each selector by itself."""
        for ticket in tuple(self._unsure):
            kept = tuple(early for early in self._bodies[ticket] if not _answers(entry, early))
            if len(kept) != len(self._bodies[ticket]):
                self.settle(ticket)
                if kept:
                    self._unsure.add(self.add(kept))

    # --- questions --------------------------------------------------------------------------------

    def cut(self, keys: Iterable[Selector]) -> NewEntry | None:
        """The first cut of any of the keys."""
        return next((body for body in self._of(keys) if body.cut), None)

    def banned(self, keys: Iterable[Selector], now: float) -> NewEntry | None:
        """The first ban of any of the keys."""
        return next((body for body in self._of(keys) if body.bans(now)), None)

    def wide_cuts(self) -> tuple[NewEntry, ...]:
        """Cuts of a digest or a package: ask the code set, or the manifests."""
        return tuple(body for body in self._wide() if body.cut)

    def wide_bans(self, now: float) -> tuple[NewEntry, ...]:
        """Bans on a digest or a package."""
        return tuple(body for body in self._wide() if body.bans(now))

    def _of(self, keys: Iterable[Selector]) -> Iterator[NewEntry]:
        for key in keys if self._bodies else ():
            yield from tuple(self._by_selector.get(key, ()))

    def _wide(self) -> Iterator[NewEntry]:
        # A snapshot: a transaction asks on the thread of its state.
        for bodies in tuple(self._bodies.values()):
            yield from (body for body in bodies if body.selector.kind.wide)


def _answers(entry: NewEntry, early: NewEntry) -> bool:
    """True where an entry says all that was anticipated of its selector, or lifts it."""
    if entry.selector != early.selector or entry.kind is EntryKind.EXPANDED:
        return False
    if entry.kind is EntryKind.LIFTED or entry.revocation_id == early.revocation_id:
        return True
    lasts = entry.until is None or (early.until is not None and early.until <= entry.until)
    return (entry.cut or not early.cut) and (not early.ban or (entry.ban and lasts))
