"""Cuts and bans, the hash-chained log of them, and what follows from each.

A *cut* kills what was granted before its sequence; a *ban* also refuses later
grants until `until` or a lift. Both are entries of one log with one counter.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256

from broker.model.attestation import Attestation
from broker.model.credential import Lease
from broker.model.evidence import ProcessRef
from broker.model.step import Step
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

    def bans(self, now: float) -> bool:
        """True where it bans at `now` (seconds, UTC)."""
        return self.ban and (self.until is None or now < self.until)


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


class RevocationState(enum.StrEnum):
    """COMMITTED → CLEANING → SETTLED.

    COMMITTED is denied, durably, and not all that it hits may have been found;
    CLEANING is when all of it is being taken back, SETTLED when it has a receipt.
    """

    COMMITTED = "committed"
    CLEANING = "cleaning"
    SETTLED = "settled"


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
