"""The live deny set: what every grant and every token is held against, in memory."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

from broker.model.anticipation import Anticipation
from broker.model.revocation import (
    EntryKind,
    LogEntry,
    LogHead,
    NewEntry,
    Selector,
    SelectorKind,
    chain_hash,
)


class DenySet:
    """The live part of the log, indexed: what a grant or a token is held against.

    Owned by one event loop. `seq` is the last entry applied. Its questions are
    answered by entries alone: what they say is durable, and may end what it hits.
    What is decided and not durable yet is in `early`, and only refuses: it may
    still be called off.
    """

    def __init__(self, head: LogHead) -> None:
        self.head = head
        self._by_selector: dict[Selector, list[LogEntry]] = {}
        self._by_seq: dict[int, LogEntry] = {}
        self._wide: dict[int, LogEntry] = {}
        self._notes: dict[int, int] = {}
        self.early = Anticipation()

    @property
    def seq(self) -> int:
        """Sequence of the last entry applied."""
        return self.head.seq

    def __len__(self) -> int:
        return len(self._by_seq)

    # --- before the commit ------------------------------------------------------------------------

    @property
    def anticipating(self) -> bool:
        """True while a revocation that is decided has not been applied as an entry."""
        return bool(self.early)

    def anticipate(self, bodies: Iterable[NewEntry]) -> int:
        """Refuse at once what these say; a ticket for `settle` or `unsure`, one of which must follow."""
        return self.early.add(bodies)

    def settle(self, ticket: int) -> None:
        """The entries have been applied, or will never be written: the anticipation ends."""
        self.early.settle(ticket)

    def unsure(self, ticket: int) -> None:
        """Whether it was written is not known: refuse on, until an entry says the same or a lift undoes it."""
        self.early.unsure(ticket)

    # --- the log ----------------------------------------------------------------------------------

    def load(self, entries: Iterable[LogEntry], head: LogHead) -> None:
        """Take the live entries of a store at start; `head` may be beyond the last of them."""
        for entry in entries:
            self._take(entry)
        self.head = head

    def reload(self, entries: Iterable[LogEntry], head: LogHead) -> None:
        """Begin anew from the live entries of a store; what is anticipated stays so."""
        self._by_selector.clear()
        self._by_seq.clear()
        self._wide.clear()
        self._notes.clear()
        self.load(entries, head)

    def apply(self, entry: LogEntry) -> bool:
        """Apply the next entry; False where it was applied before, ``ValueError`` on a gap or broken chain."""
        if entry.seq <= self.head.seq:
            return False
        if entry.seq != self.head.seq + 1 or chain_hash(self.head.hash, entry.seq, entry.body) != entry.hash:
            raise ValueError("the revocation log does not continue where this replica stands")
        self._take(entry)
        self.head = replace(self.head, seq=entry.seq, hash=entry.hash)
        return True

    def _take(self, entry: LogEntry) -> None:
        body = entry.body
        # What is read anew from before a doubt says nothing about it.
        if self.early and entry.seq > self.head.seq:
            self.early.answer(body)
        if body.kind is not EntryKind.REVOKED:
            self._notes[entry.seq] = body.refers_to
            if body.kind is EntryKind.LIFTED:
                self._drop_ban(body)
        else:
            self._by_selector.setdefault(body.selector, []).append(entry)
            self._by_seq[entry.seq] = entry
            if body.selector.kind.wide:
                self._wide[entry.seq] = entry

    def _drop_ban(self, lifted: NewEntry) -> None:
        # A lift ends bans and revives nothing: the cut of the same entry stays.
        entries = self._by_selector.get(lifted.selector, [])
        for index, entry in enumerate(entries):
            if entry.body.revocation_id == lifted.revocation_id and entry.body.ban:
                entries[index] = replace(entry, body=replace(entry.body, ban=False))
                self._by_seq[entry.seq] = entries[index]
                if entry.seq in self._wide:
                    self._wide[entry.seq] = entries[index]

    def forget(self, now: float, cut_before: float, instance_before: float = -math.inf) -> tuple[int, ...]:
        """Drop entries that can hit nothing any more; their sequences.

        A ban leaves at its `until` (or when lifted), a cut when the last
        credential that could hang on it has ended, that is when it is older
        than `cut_before` (seconds, UTC). A taint without an end leaves with its
        instance (ADR 7): nothing that was running before `instance_before` does
        so still. What was said of an entry leaves with it.
        """
        gone = [
            entry
            for entry in self._by_seq.values()
            if (not entry.body.cut or entry.body.at < cut_before)
            and (not entry.body.bans(now) or _outlived(entry.body, cut_before, instance_before))
        ]
        for entry in gone:
            del self._by_seq[entry.seq]
            self._wide.pop(entry.seq, None)
            entries = self._by_selector[entry.body.selector]
            entries.remove(entry)
            if not entries:
                del self._by_selector[entry.body.selector]
        notes = [seq for seq, refers_to in self._notes.items() if refers_to not in self._by_seq]
        for seq in notes:
            del self._notes[seq]
        return (*(entry.seq for entry in gone), *notes)

    # --- questions --------------------------------------------------------------------------------

    def banned(self, keys: Iterable[Selector], now: float) -> NewEntry | None:
        """The first ban that refuses a new grant to any of the keys."""
        for key in keys:
            for entry in tuple(self._by_selector.get(key, ())):
                if entry.body.bans(now):
                    return entry.body
        return None

    def cut(self, keys: Iterable[Selector], as_of: int) -> NewEntry | None:
        """The first cut after `as_of` that kills what was granted then."""
        for key in keys:
            for entry in tuple(self._by_selector.get(key, ())):
                if entry.body.cut and entry.seq > as_of:
                    return entry.body
        return None

    def wide_after(self, as_of: int) -> tuple[NewEntry, ...]:
        """Cuts of a digest or a package after `as_of`: ask the code set, or the manifests.

        Those that are expanded count too: what was granted while the expansion
        ran may not have been there to be found.
        """
        found = []
        # In order of sequence: the newest first, and nothing older than `as_of` is looked at. A snapshot: a
        # transaction asks on the thread of its state, while the loop applies what comes.
        for entry in reversed(tuple(self._wide.values())):
            if entry.seq <= as_of:
                break
            if entry.body.cut:
                found.append(entry.body)
        return tuple(found)

    def wide_bans(self, now: float) -> tuple[NewEntry, ...]:
        """Every live ban on a digest or a package."""
        return tuple(entry.body for entry in tuple(self._wide.values()) if entry.body.bans(now))

    def live(self) -> tuple[LogEntry, ...]:
        """All live entries in order: the snapshot for a watcher."""
        return tuple(self._by_seq[seq] for seq in sorted(self._by_seq))


def _outlived(body: NewEntry, cut_before: float, instance_before: float) -> bool:
    """True for a ban that nothing can run into any more, though it has no end."""
    match body.selector.kind:
        case SelectorKind.ATTESTATION:
            # Its cut ended it, and an end is an end: there is nothing left that a ban could keep from a grant.
            return body.cut and body.at < cut_before
        case SelectorKind.KEY:
            # Of a taint. It holds up who knows no better than to come back with its key; others make a new one.
            return not body.cut and body.until is None and body.at < cut_before
        case SelectorKind.POD | SelectorKind.CONTAINER | SelectorKind.PROCESS:
            return not body.cut and body.until is None and body.at < instance_before
        case _:
            return False
