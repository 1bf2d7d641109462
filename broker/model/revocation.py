"""Cuts, bans, the hash-chained log, and the live deny set.

A *cut* kills what was granted before its sequence; a *ban* also refuses later
grants until `until` or a lift. Both are entries of one log with one counter.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from hashlib import sha256

from broker.model.attestation import Attestation
from broker.model.credential import Lease
from broker.model.evidence import ProcessRef
from lockstep.formats import canonical_json


class SelectorKind(enum.StrEnum):
    """What a revocation can be aimed at."""

    ATTESTATION = "attestation"
    LEASE = "lease"
    TOKEN = "token"
    IDENTITY = "identity"
    MANIFEST = "manifest"
    DIGEST = "digest"
    PACKAGE = "package"
    NODE = "node"
    CONTAINER = "container"
    POD = "pod"
    KEY = "key"
    PROCESS = "process"

    @property
    def wide(self) -> bool:
        """True where an attestation does not carry the value itself: matching needs the code set."""
        return self in (SelectorKind.DIGEST, SelectorKind.PACKAGE)

    @property
    def bans_by_default(self) -> bool:
        """Digest, package, manifest and instances are banned; identity and places are cut."""
        return self not in (
            SelectorKind.IDENTITY,
            SelectorKind.NODE,
            SelectorKind.POD,
            SelectorKind.CONTAINER,
            SelectorKind.LEASE,
            SelectorKind.TOKEN,
        )


@dataclass(frozen=True, slots=True)
class Selector:
    """Kind and value; binary values are lower-case hexadecimal."""

    kind: SelectorKind
    value: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.value}"


def process_value(process: ProcessRef) -> str:
    """The value of a PROCESS selector: node, boot, pid and start ticks."""
    return f"{process.node}/{process.boot_id}/{process.pid}/{process.start_ticks}"


class EntryKind(enum.StrEnum):
    """Kinds of log entries."""

    REVOKED = "revoked"
    LIFTED = "lifted"
    EXPANDED = "expanded"


@dataclass(frozen=True, slots=True)
class NewEntry:
    """A log entry before the store gives it a sequence.

    `refers_to` is the sequence that an EXPANDED or LIFTED entry speaks of;
    `selector` of those repeats the selector of that entry. `audience` limits
    which resource servers see it, empty for all.
    """

    kind: EntryKind
    revocation_id: str
    selector: Selector
    cut: bool
    ban: bool
    at: float
    until: float | None
    actor: str
    reason: str
    ticket: str = ""
    decision_id: str = ""
    refers_to: int = 0
    audience: str = ""


@dataclass(frozen=True, slots=True)
class LogEntry:
    """A durable entry: `seq` counts without gaps; `hash` chains it to the entry before."""

    seq: int
    hash: bytes
    body: NewEntry


@dataclass(frozen=True, slots=True)
class LogHead:
    """Where a log stands; `hash` is 32 zero bytes at sequence 0."""

    log_id: str
    seq: int
    hash: bytes


GENESIS = bytes(32)


def chain_hash(previous: bytes, seq: int, body: NewEntry) -> bytes:
    """SHA-256 over the previous hash and the canonical JSON of the entry. Times are in microseconds."""
    content = {
        "seq": seq,
        "kind": body.kind.value,
        "revocation": body.revocation_id,
        "selector": [body.selector.kind.value, body.selector.value],
        "cut": body.cut,
        "ban": body.ban,
        "at": round(body.at * 1_000_000),
        "until": None if body.until is None else round(body.until * 1_000_000),
        "actor": body.actor,
        "reason": body.reason,
        "ticket": body.ticket,
        "decision": body.decision_id,
        "refers_to": body.refers_to,
        "audience": body.audience,
    }
    return sha256(previous + canonical_json(content)).digest()


def chain(head: LogHead, bodies: Iterable[NewEntry]) -> tuple[LogEntry, ...]:
    """Give entries their sequences and hashes after a head."""
    seq, previous = head.seq, head.hash
    found = []
    for body in bodies:
        seq += 1
        previous = chain_hash(previous, seq, body)
        found.append(LogEntry(seq, previous, body))
    return tuple(found)


def attestation_keys(attestation: Attestation) -> Iterator[Selector]:
    """Every selector, apart from wide ones, that hits an attestation."""
    yield Selector(SelectorKind.ATTESTATION, attestation.id)
    yield Selector(SelectorKind.IDENTITY, attestation.identity.name)
    yield Selector(SelectorKind.KEY, attestation.key.thumbprint.hex())
    yield from place_keys(attestation.whereabouts)
    for digest in attestation.manifest_digests():
        yield Selector(SelectorKind.MANIFEST, digest.hex())


def place_keys(place: ProcessRef) -> Iterator[Selector]:
    """Selectors of where something runs."""
    if place.node:
        yield Selector(SelectorKind.NODE, place.node)
    if place.container_id:
        yield Selector(SelectorKind.CONTAINER, place.container_id)
    if place.pod_uid:
        yield Selector(SelectorKind.POD, place.pod_uid)
    if place.exact():
        yield Selector(SelectorKind.PROCESS, process_value(place))


def lease_keys(lease: Lease, attestation: Attestation) -> Iterator[Selector]:
    """Every selector, apart from wide ones, that hits a lease."""
    yield Selector(SelectorKind.LEASE, lease.id)
    if lease.handle:
        yield Selector(SelectorKind.TOKEN, lease.handle)
    yield from attestation_keys(attestation)


def taint(attestation: Attestation, *, hold: bool) -> tuple[Selector, ...]:
    """What is banned when an instance is revoked, so that it cannot simply attest again.

    Always the key; and the most exact thing that the workload cannot change:
    the witnessed process, else the container, else the pod of the verified
    identity. Where nothing tells a new instance from the old and the role holds,
    the identity itself waits for a lift.
    """
    found = [Selector(SelectorKind.KEY, attestation.key.thumbprint.hex())]
    place = attestation.place
    if place.exact():
        found.append(Selector(SelectorKind.PROCESS, process_value(place)))
    elif place.container_id:
        found.append(Selector(SelectorKind.CONTAINER, place.container_id))
    elif place.pod_uid:
        found.append(Selector(SelectorKind.POD, place.pod_uid))
    elif hold:
        found.append(Selector(SelectorKind.IDENTITY, attestation.identity.name))
    return tuple(found)


class DenySet:
    """The live part of the log, indexed: what a grant or a token is held against.

    Owned by one event loop. `seq` is the last entry applied. What is anticipated
    denies from the moment that it is decided, before its commit. Where it is not
    known whether the commit came about, it denies until an entry says as much.
    """

    def __init__(self, head: LogHead) -> None:
        self.head = head
        self._by_selector: dict[Selector, list[LogEntry]] = {}
        self._by_seq: dict[int, LogEntry] = {}
        self._wide: dict[int, LogEntry] = {}
        self._notes: dict[int, int] = {}
        self._early: dict[int, tuple[NewEntry, ...]] = {}
        self._early_by_selector: dict[Selector, list[NewEntry]] = {}
        self._unsure: set[int] = set()
        self._tickets = 0

    @property
    def seq(self) -> int:
        """Sequence of the last entry applied."""
        return self.head.seq

    @property
    def anticipating(self) -> bool:
        """True while a revocation that is decided has not been applied as an entry."""
        return bool(self._early)

    def __len__(self) -> int:
        return len(self._by_seq)

    # --- before the commit ------------------------------------------------------------------------

    def anticipate(self, bodies: Iterable[NewEntry]) -> int:
        """Deny at once what these say; a ticket for `settle` or `unsure`, one of which must follow."""
        self._tickets += 1
        self._early[self._tickets] = tuple(bodies)
        for body in self._early[self._tickets]:
            self._early_by_selector.setdefault(body.selector, []).append(body)
        return self._tickets

    def settle(self, ticket: int) -> None:
        """The entries have been applied, or will never be written: the anticipation ends."""
        self._unsure.discard(ticket)
        for body in self._early.pop(ticket, ()):
            waiting = self._early_by_selector[body.selector]
            waiting.remove(body)
            if not waiting:
                del self._early_by_selector[body.selector]

    def unsure(self, ticket: int) -> None:
        """Whether it was written is not known: deny on, until an entry says the same or a lift undoes it."""
        if ticket in self._early:
            self._unsure.add(ticket)

    def _resolve(self, body: NewEntry) -> None:
        """An entry has come: what was unsure about it is settled, each selector by itself."""
        for ticket in tuple(self._unsure):
            kept = tuple(early for early in self._early[ticket] if not _answers(body, early))
            if len(kept) != len(self._early[ticket]):
                self.settle(ticket)
                if kept:
                    self._unsure.add(self.anticipate(kept))

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
        if self._unsure and entry.seq > self.head.seq:
            self._resolve(body)
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

    def forget(self, now: float, cut_before: float) -> tuple[int, ...]:
        """Drop entries that can hit nothing any more; their sequences.

        A ban leaves at its `until` (or when lifted), a cut when the last
        credential that could hang on it has ended, that is when it is older
        than `cut_before` (seconds, UTC). What was said of an entry leaves with it.
        """
        gone = [
            entry
            for entry in self._by_seq.values()
            if not _bans(entry.body, now) and (not entry.body.cut or entry.body.at < cut_before)
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
            for body in self._early_by_selector.get(key, ()):
                if _bans(body, now):
                    return body
            for entry in self._by_selector.get(key, ()):
                if _bans(entry.body, now):
                    return entry.body
        return None

    def cut(self, keys: Iterable[Selector], as_of: int) -> NewEntry | None:
        """The first cut after `as_of` that kills what was granted then."""
        for key in keys:
            for body in self._early_by_selector.get(key, ()):
                if body.cut:
                    return body
            for entry in self._by_selector.get(key, ()):
                if entry.body.cut and entry.seq > as_of:
                    return entry.body
        return None

    def wide_after(self, as_of: int) -> tuple[NewEntry, ...]:
        """Cuts of a digest or a package after `as_of`: ask the code set, or the manifests.

        Those that are expanded count too: what was granted while the expansion
        ran may not have been there to be found.
        """
        found = [body for body in self._early_wide() if body.cut]
        # In order of sequence: the newest first, and nothing older than `as_of` is looked at.
        for seq in reversed(self._wide):
            if seq <= as_of:
                break
            if self._wide[seq].body.cut:
                found.append(self._wide[seq].body)
        return tuple(found)

    def wide_bans(self, now: float) -> tuple[NewEntry, ...]:
        """Every live ban on a digest or a package."""
        bodies = (*self._early_wide(), *(entry.body for entry in self._wide.values()))
        return tuple(body for body in bodies if _bans(body, now))

    def _early_wide(self) -> Iterator[NewEntry]:
        for bodies in self._early.values():
            yield from (body for body in bodies if body.selector.kind.wide)

    def live(self) -> tuple[LogEntry, ...]:
        """All live entries in order: the snapshot for a watcher."""
        return tuple(self._by_seq[seq] for seq in sorted(self._by_seq))


def _bans(body: NewEntry, now: float) -> bool:
    return body.ban and (body.until is None or now < body.until)


def _answers(entry: NewEntry, early: NewEntry) -> bool:
    """True where an entry says all that was anticipated of its selector, or lifts it."""
    if entry.selector != early.selector or entry.kind is EntryKind.EXPANDED:
        return False
    if entry.kind is EntryKind.LIFTED or entry.revocation_id == early.revocation_id:
        return True
    lasts = entry.until is None or (early.until is not None and early.until <= entry.until)
    return (entry.cut or not early.cut) and (not early.ban or (entry.ban and lasts))


class RevocationState(enum.StrEnum):
    """How far a revocation has come."""

    COMMITTED = "committed"
    SETTLED = "settled"


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a receipt: what, when (seconds, UTC), and how it was confirmed."""

    name: str
    at: float
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Unconfirmed:
    """A credential that could not be confirmed dead, and until when it lives at most."""

    lease_id: str
    what: str
    until: float


@dataclass(frozen=True, slots=True)
class Revocation:
    """One act of revoking, with everything that follows from it.

    `first_seq` and `last_seq` bound its entries in the log. `receipt` is the
    signed DSSE envelope once it is settled.
    """

    id: str
    selector: Selector
    cut: bool
    ban: bool
    state: RevocationState
    actor: str
    reason: str
    ticket: str
    decision_id: str
    detection_id: str
    at: float
    until: float | None
    first_seq: int
    last_seq: int
    steps: tuple[Step, ...] = ()
    unconfirmed: tuple[Unconfirmed, ...] = ()
    attestations: int = 0
    leases: int = 0
    expanded: bool = False
    lifted_at: float = 0.0
    receipt: bytes = b""
