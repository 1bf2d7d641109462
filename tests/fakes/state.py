"""The state in memory: the same contract as a database, without one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

from broker.adapters.state.codec import UNIT_SIZE, pack_names, pack_units, unpack_units
from broker.adapters.state.driving import drive
from broker.adapters.state.rules import (
    beyond,
    capped,
    chained,
    check_anew,
    check_kind,
    merged_names,
    package_digests,
    refreshed,
    selector_digest,
)
from broker.errors import Conflict, Misuse, Unavailable
from broker.model.account import Account, AccountState
from broker.model.attestation import Attestation, AttestationState
from broker.model.credential import Lease, LeaseState
from broker.model.decision import Decision
from broker.model.detection import DetectionRecord, DetectionState
from broker.model.evidence import CodeSet, UnitHint
from broker.model.manifest import ManifestRecord, ManifestState
from broker.model.proposal import Proposal, ProposalState
from broker.model.revocation import (
    GENESIS,
    LogEntry,
    LogHead,
    NewEntry,
    Revocation,
    RevocationState,
    Selector,
    SelectorKind,
    attestation_keys,
)
from broker.model.role import Role
from broker.ports import Transaction
from lockstep.formats import Reason

T = TypeVar("T")


@dataclass
class Tables:
    """Everything. Values are immutable, so that a copy of the dictionaries is a snapshot."""

    head: LogHead
    restored: LogHead | None = None
    attestations: dict[str, Attestation] = field(default_factory=dict)
    code: dict[bytes, CodeSet] = field(default_factory=dict)
    interned: dict[bytes, None] = field(default_factory=dict)
    indexed: dict[bytes, int] = field(default_factory=dict)
    names: dict[tuple[bytes, str], tuple[UnitHint, ...]] = field(default_factory=dict)
    leases: dict[str, Lease] = field(default_factory=dict)
    accounts: dict[str, Account] = field(default_factory=dict)
    log: dict[int, LogEntry] = field(default_factory=dict)
    revocations: dict[str, Revocation] = field(default_factory=dict)
    hits: dict[tuple[str, str], None] = field(default_factory=dict)
    proposals: dict[str, Proposal] = field(default_factory=dict)
    detections: dict[str, DetectionRecord] = field(default_factory=dict)
    decisions: dict[str, Decision] = field(default_factory=dict)
    roles: dict[bytes, str] = field(default_factory=dict)
    manifests: dict[bytes, ManifestRecord] = field(default_factory=dict)
    floors: dict[str, int] = field(default_factory=dict)
    reached: dict[bytes, bool] = field(default_factory=dict)
    indexes: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    packages: dict[tuple[str, bytes], bool] = field(default_factory=dict)
    replays: dict[tuple[str, bytes], float] = field(default_factory=dict)

    def copy(self) -> Tables:
        """A snapshot."""
        values: dict[str, Any] = {item.name: getattr(self, item.name) for item in fields(self)}
        return Tables(**{name: dict(v) if isinstance(v, dict) else v for name, v in values.items()})


class View:
    """The tables while a work runs."""

    def __init__(self, tables: Tables, *, writable: bool) -> None:
        self._tables = tables
        self._writable = writable
        self.open = True

    @property
    def read(self) -> Tables:
        """For looking."""
        if not self.open:
            raise Misuse("a transaction was used outside its work")
        return self._tables

    @property
    def write(self) -> Tables:
        """For changing."""
        found = self.read
        if not self._writable:
            raise Misuse("a read must not write")
        return found


class Store:
    """What all small stores are made of."""

    def __init__(self, view: View) -> None:
        self._view = view


def _insert(table: dict[str, Any], key: str, value: object) -> None:
    if key in table:
        raise Conflict("the row contradicts what is stored")
    table[key] = value


def _after(table: Mapping[str, T], after: str) -> Iterable[T]:
    return (table[key] for key in sorted(table) if key > after)


class MemoryAttestations(Store):
    """Plug of `broker.ports.AttestationStore`."""

    async def add(self, attestation: Attestation) -> None:
        self._view.write.interned.setdefault(attestation.code_set)
        _insert(self._view.write.attestations, attestation.id, attestation)

    async def get(self, attestation_id: str) -> Attestation | None:
        return self._view.read.attestations.get(attestation_id)

    async def refresh(self, attestation: Attestation) -> bool:
        table = self._view.write.attestations
        old = table.get(attestation.id)
        if old is None or old.state is not AttestationState.ALIVE:
            return False
        self._view.write.interned.setdefault(attestation.code_set)
        table[old.id] = refreshed(old, attestation)
        return True

    async def end(self, ids: Sequence[str], state: AttestationState) -> Sequence[str]:
        table = self._view.write.attestations
        alive = AttestationState.ALIVE
        ended = sorted(item for item in set(ids) if item in table and table[item].state is alive)
        for item in ended:
            table[item] = replace(table[item], state=state)
        return ended

    async def alive_by(self, selector: Selector, limit: int, after: str = "") -> Sequence[Attestation]:
        check_kind(selector)
        digest = selector_digest(selector) if selector.kind is SelectorKind.DIGEST else None
        found = []
        for item in _after(self._view.read.attestations, after):
            if item.state is not AttestationState.ALIVE:
                continue
            if selector in attestation_keys(item) or (digest is not None and self._has(item, {digest})):
                found.append(item)
        return found[:limit]

    async def last_of_process(self, process: str) -> Attestation | None:
        wanted = Selector(SelectorKind.PROCESS, process)
        found = [
            item for item in _after(self._view.read.attestations, "") if wanted in attestation_keys(item)
        ]
        return found[-1] if found else None

    async def page(
        self, since: float, limit: int, after: str = "", identity: str = ""
    ) -> Sequence[Attestation]:
        return [
            item
            for item in _after(self._view.read.attestations, after)
            if item.refreshed_at >= since and identity in ("", item.identity.name)
        ][:limit]

    async def loaded(
        self, digests: Sequence[bytes], since: float, limit: int, after: str = ""
    ) -> Sequence[Attestation]:
        wanted = set(digests)
        everyone = _after(self._view.read.attestations, after)
        return [item for item in everyone if item.refreshed_at >= since and self._has(item, wanted)][:limit]

    async def count_alive(self, identity: str = "") -> int:
        alive = [a for a in self._view.read.attestations.values() if a.state is AttestationState.ALIVE]
        return sum(identity in ("", item.identity.name) for item in alive)

    async def due(self, now: float, limit: int) -> Sequence[str]:
        alive = AttestationState.ALIVE
        table = self._view.read.attestations.values()
        found = sorted((a.expires_at, a.id) for a in table if a.state is alive and a.expires_at <= now)
        return [item for _, item in found[:limit]]

    def _has(self, attestation: Attestation, digests: set[bytes]) -> bool:
        code = self._view.read.code.get(attestation.code_set)
        if code is None:
            return False
        packed = pack_units(code.units)[: self._view.read.indexed.get(code.digest, 0) * UNIT_SIZE]
        return any(unit.digest in digests for unit in unpack_units(packed))


class MemoryCode(Store):
    """Plug of `broker.ports.CodeSetStore`."""

    async def put(self, code: CodeSet) -> None:
        self._view.write.interned.setdefault(code.digest)
        self._view.write.code.setdefault(code.digest, code)

    async def index(self, code: CodeSet, most: int) -> bool:
        await self.put(code)
        table = self._view.write.indexed
        table[code.digest] = min(table.get(code.digest, 0) + most, len(code.units))
        return table[code.digest] == len(code.units)

    async def indexed(self, digest: bytes) -> bool:
        code = self._view.read.code.get(digest)
        return code is not None and self._view.read.indexed.get(digest) == len(code.units)

    async def get(self, digest: bytes) -> CodeSet | None:
        return self._view.read.code.get(digest)

    async def contains(self, digest: bytes, units: Sequence[bytes]) -> bool:
        code = self._view.read.code.get(digest)
        return code is not None and any(unit.digest in units for unit in code.units)

    async def put_names(self, digest: bytes, identity: str, names: Iterable[UnitHint]) -> None:
        tables = self._view.write
        known = tables.names.get((digest, identity), ())
        wanted = tuple(merged_names(known, names))
        if digest in tables.code and len(wanted) > len(known):
            tables.names[digest, identity] = wanted

    async def names(self, digest: bytes, identity: str) -> Sequence[UnitHint]:
        return self._view.read.names.get((digest, identity), ())

    async def prune(self, sets: int, names: int, limit: int) -> int:
        tables = self._view.write
        attested = {item.code_set for item in tables.attestations.values()}
        loose = [item for item in tables.interned if item in tables.code and item not in tables.indexed]
        sizes = [(item, len(tables.code[item].units) * UNIT_SIZE) for item in loose if item not in attested]
        gone = beyond(reversed(sizes), sets, limit)
        for digest in gone:
            del tables.code[digest], tables.interned[digest]
            for key in [key for key in tables.names if key[0] == digest]:
                del tables.names[key]
        unnamed = beyond([(k, pack_names(v)[0]) for k, v in reversed(tables.names.items())], names, limit)
        for key in unnamed:
            del tables.names[key]
        return len(gone) + len(unnamed)


def _due_at(lease: Lease) -> float:
    return lease.expires_at if lease.state is LeaseState.ACTIVE else lease.next_attempt_at


class MemoryLeases(Store):
    """Plug of `broker.ports.LeaseStore`."""

    async def open(self, lease: Lease) -> None:
        _insert(self._view.write.leases, lease.id, lease)

    async def get(self, lease_id: str) -> Lease | None:
        return self._view.read.leases.get(lease_id)

    async def by_request(self, attestation_id: str, request_id: str) -> Lease | None:
        table = self._view.read.leases.values()
        found = [a for a in table if a.attestation_id == attestation_id and a.request_id == request_id]
        return max(found, key=lambda lease: lease.id, default=None)

    async def by_handle(self, handle: str) -> Lease | None:
        found = [lease for lease in self._view.read.leases.values() if handle and lease.handle == handle]
        return max(found, key=lambda lease: lease.id, default=None)

    async def by_stem(self, stem: str) -> Lease | None:
        table = self._view.read.leases.values()
        found = [lease for lease in table if stem and lease.handle.startswith(f"{stem}:")]
        return max(found, key=lambda lease: lease.id, default=None)

    async def replace(self, lease: Lease, expected: LeaseState) -> bool:
        table = self._view.write.leases
        old = table.get(lease.id)
        if old is None or old.state is not expected:
            return False
        table[lease.id] = replace(
            lease,
            attestation_id=old.attestation_id,
            request_id=old.request_id,
            account_id=old.account_id,
            cutter=old.cutter,
        )
        return True

    async def begin_revoking(self, attestation_ids: Sequence[str]) -> int:
        table = self._view.write.leases
        before = (LeaseState.PENDING, LeaseState.ACTIVE)
        found = [a for a in table.values() if a.attestation_id in attestation_ids and a.state in before]
        for lease in found:
            table[lease.id] = replace(lease, state=LeaseState.REVOKING, next_attempt_at=0.0)
        return len(found)

    async def of_attestation(self, attestation_id: str) -> Sequence[Lease]:
        return [a for a in _after(self._view.read.leases, "") if a.attestation_id == attestation_id]

    async def page(
        self, states: Sequence[LeaseState], limit: int, after: str = "", attestation_id: str = ""
    ) -> Sequence[Lease]:
        return [
            lease
            for lease in _after(self._view.read.leases, after)
            if (not states or lease.state in states) and attestation_id in ("", lease.attestation_id)
        ][:limit]

    async def due(self, now: float, limit: int) -> Sequence[Lease]:
        found = [a for a in self._view.read.leases.values() if a.state.live and _due_at(a) <= now]
        return sorted(found, key=lambda lease: (_due_at(lease), lease.id))[:limit]

    async def unsettled(self, attestation_ids: Sequence[str]) -> int:
        return sum(
            a.attestation_id in attestation_ids and a.state.live for a in self._view.read.leases.values()
        )

    async def count(self) -> Mapping[LeaseState, int]:
        found: dict[LeaseState, int] = {}
        for lease in self._view.read.leases.values():
            if lease.state.live:
                found[lease.state] = found.get(lease.state, 0) + 1
        return found

    async def drop(self, ids: Sequence[str]) -> None:
        table = self._view.write.leases
        for item in ids:
            table.pop(item, None)


class MemoryAccounts(Store):
    """Plug of `broker.ports.AccountStore`."""

    async def add(self, account: Account) -> None:
        _insert(self._view.write.accounts, account.id, account)

    async def get(self, account_id: str) -> Account | None:
        return self._view.read.accounts.get(account_id)

    async def replace(self, account: Account, expected: AccountState) -> bool:
        table = self._view.write.accounts
        old = table.get(account.id)
        if old is None or old.state is not expected:
            return False
        table[account.id] = replace(account, attestation_id=old.attestation_id, backend=old.backend)
        return True

    async def of_attestation(self, attestation_id: str) -> Sequence[Account]:
        return [a for a in _after(self._view.read.accounts, "") if a.attestation_id == attestation_id]

    async def begin_closing(self, attestation_ids: Sequence[str], now: float) -> int:
        table = self._view.write.accounts
        before = (AccountState.OPENING, AccountState.OPEN)
        found = [a for a in table.values() if a.attestation_id in attestation_ids and a.state in before]
        for account in found:
            closing = replace(account, state=AccountState.CLOSING, closing_at=now, next_attempt_at=0.0)
            table[account.id] = closing
        return len(found)

    async def due(self, now: float, limit: int) -> Sequence[Account]:
        waiting = (AccountState.CLOSING, AccountState.STUCK)
        table = self._view.read.accounts.values()
        found = [a for a in table if a.state in waiting and a.next_attempt_at <= now]
        return sorted(found, key=lambda account: (account.next_attempt_at, account.id))[:limit]

    async def unsettled(self, attestation_ids: Sequence[str]) -> int:
        table = self._view.read.accounts.values()
        return sum(a.attestation_id in attestation_ids and a.state.live for a in table)

    async def page(self, states: Sequence[AccountState], limit: int, after: str = "") -> Sequence[Account]:
        found = _after(self._view.read.accounts, after)
        return [account for account in found if not states or account.state in states][:limit]


class MemoryRevocations(Store):
    """Plug of `broker.ports.RevocationStore`."""

    async def head(self) -> LogHead:
        return self._view.read.head

    async def append(self, entries: Sequence[NewEntry]) -> Sequence[LogEntry]:
        tables = self._view.write
        written = chained(tables.head, entries)
        for entry in written:
            tables.log[entry.seq] = entry
            tables.head = replace(tables.head, seq=entry.seq, hash=entry.hash)
        return written

    async def since(self, seq: int, limit: int) -> Sequence[LogEntry]:
        log = self._view.read.log
        return [log[number] for number in sorted(log) if number > seq][:limit]

    async def entry(self, seq: int) -> LogEntry | None:
        return self._view.read.log.get(seq)

    async def live(self) -> Sequence[LogEntry]:
        log = self._view.read.log
        return [log[number] for number in sorted(log)]

    async def prune(self, seqs: Sequence[int]) -> None:
        log = self._view.write.log
        for seq in seqs:
            log.pop(seq, None)

    async def begin_anew(self, head: LogHead, decision_id: str) -> None:
        check_anew(self._view.read.head, head)
        tables = self._view.write
        tables.head = tables.restored = head

    async def restored(self) -> LogHead | None:
        return self._view.read.restored

    async def put(self, revocation: Revocation) -> None:
        self._view.write.revocations[revocation.id] = revocation

    async def get(self, revocation_id: str) -> Revocation | None:
        return self._view.read.revocations.get(revocation_id)

    async def page(
        self, limit: int, after: str = "", state: RevocationState | None = None
    ) -> Sequence[Revocation]:
        found = _after(self._view.read.revocations, after)
        return [item for item in found if state in (None, item.state)][:limit]

    async def newest(self, limit: int, state: RevocationState) -> Sequence[Revocation]:
        found = [item for item in _after(self._view.read.revocations, "") if item.state is state]
        return found[::-1][:limit]

    async def hit(self, revocation_id: str, attestation_ids: Sequence[str]) -> None:
        table = self._view.write.hits
        table.update(((revocation_id, item), None) for item in attestation_ids)

    async def hits(self, revocation_id: str, limit: int, after: str = "") -> Sequence[str]:
        table = self._view.read.hits
        return sorted(item for owner, item in table if owner == revocation_id and item > after)[:limit]


class MemoryDetections(Store):
    """Plug of `broker.ports.DetectionStore`."""

    async def add(self, record: DetectionRecord) -> None:
        _insert(self._view.write.detections, record.id, record)

    async def get(self, detection_id: str) -> DetectionRecord | None:
        return self._view.read.detections.get(detection_id)

    async def decide(self, record: DetectionRecord) -> bool:
        table = self._view.write.detections
        before = table.get(record.id)
        if before is None or before.state is not DetectionState.HELD:
            return False
        table[record.id] = replace(
            before,
            state=record.state,
            reason=record.reason,
            decided_by=record.decided_by,
            decision_id=record.decision_id,
            revocation_id=record.revocation_id,
            instances=record.instances,
            siblings=record.siblings,
        )
        return True

    async def by_event(self, detector: str, event_id: str) -> DetectionRecord | None:
        for record in _after(self._view.read.detections, ""):
            if (record.detection.detector, record.detection.event_id) == (detector, event_id):
                return record
        return None

    async def applied_instances(self, detector: str, since: float) -> int:
        found: set[str] = set()
        for record in self._view.read.detections.values():
            applied = record.state is DetectionState.APPLIED and record.received_at >= since
            if applied and record.detection.detector == detector:
                hits = self._view.read.hits
                found.update(item for item in record.instances if (record.revocation_id, item) in hits)
        return len(found)

    def _denied(self, detector: str, since: float) -> Sequence[DetectionRecord]:
        return [
            record
            for record in self._view.read.detections.values()
            if record.revocation_id and record.detection.detector == detector and record.received_at >= since
        ]

    async def denied_instances(self, detector: str, since: float) -> int:
        return len({item for record in self._denied(detector, since) for item in record.instances})

    async def siblings(self, detector: str, since: float, revoked_only: bool) -> int:
        revoked = {owner for owner, _ in self._view.read.hits}
        found = self._denied(detector, since)
        return sum(item.siblings for item in found if not revoked_only or item.revocation_id in revoked)

    async def page(
        self, states: Sequence[DetectionState], limit: int, after: str = ""
    ) -> Sequence[DetectionRecord]:
        found = _after(self._view.read.detections, after)
        return [record for record in found if not states or record.state in states][:limit]

    async def drop(self, ids: Sequence[str]) -> None:
        table = self._view.write.detections
        for item in ids:
            table.pop(item, None)


class MemoryProposals(Store):
    """Plug of `broker.ports.ProposalStore`."""

    async def put(self, proposal: Proposal) -> None:
        kept = replace(proposal, preview=replace(proposal.preview, instances=()))
        self._view.write.proposals[proposal.id] = kept

    async def get(self, proposal_id: str) -> Proposal | None:
        return self._view.read.proposals.get(proposal_id)

    async def page(self, limit: int, after: str = "") -> Sequence[Proposal]:
        return list(_after(self._view.read.proposals, after))[:limit]

    async def waiting(self, now: float) -> int:
        found = self._view.read.proposals.values()
        return sum(item.state_at(now) is ProposalState.OPEN for item in found)


class MemoryDecisions(Store):
    """Plug of `broker.ports.DecisionStore`."""

    async def add(self, decision: Decision) -> None:
        _insert(self._view.write.decisions, decision.id, capped(decision))

    async def get(self, decision_id: str) -> Decision | None:
        return self._view.read.decisions.get(decision_id)

    async def page(self, since: float, limit: int, after: str = "") -> Sequence[Decision]:
        return [item for item in _after(self._view.read.decisions, after) if item.at >= since][:limit]

    async def following(self, after: str, limit: int) -> Sequence[Decision]:
        ids = list(self._view.read.decisions)
        if after and after not in ids:
            return []
        start = ids.index(after) + 1 if after else 0
        return [self._view.read.decisions[item] for item in ids[start : start + limit]]

    async def drop(self, ids: Sequence[str]) -> None:
        table = self._view.write.decisions
        for item in ids:
            table.pop(item, None)


class MemoryRoles(Store):
    """Plug of `broker.ports.RoleVersionStore`."""

    async def record(self, role: Role, now: float) -> None:
        self._view.write.roles.setdefault(role.version, role.text)

    async def text(self, version: bytes) -> str | None:
        return self._view.read.roles.get(version)


class MemoryManifests(Store):
    """Plug of `broker.ports.ManifestStore`."""

    async def add(self, record: ManifestRecord) -> bool:
        tables = self._view.write
        manifest = record.manifest
        if manifest.digest in tables.manifests or self._version(manifest.application, manifest.version):
            return False
        tables.manifests[manifest.digest] = record
        tables.reached[manifest.digest] = record.state is ManifestState.IN_FORCE
        for key, unit in package_digests(manifest).items():
            tables.packages[key] = tables.packages.get(key, False) or unit
        return True

    async def add_signatures(self, digest: bytes, envelope: bytes, signers: Sequence[str]) -> None:
        table = self._view.write.manifests
        old = table.get(digest)
        if old is not None:
            everybody = tuple(dict.fromkeys((*old.signers, *signers)))
            table[digest] = replace(old, envelope=envelope, signers=everybody)

    async def get(self, digest: bytes) -> ManifestRecord | None:
        return self._view.read.manifests.get(digest)

    async def by_version(self, application: str, version: int) -> ManifestRecord | None:
        return self._version(application, version)

    async def of_application(
        self, application: str, states: Sequence[ManifestState]
    ) -> Sequence[ManifestRecord]:
        found = [
            record
            for record in self._view.read.manifests.values()
            if application in ("", record.manifest.application) and (not states or record.state in states)
        ]
        return sorted(found, key=lambda record: (-record.manifest.version, record.manifest.application))

    async def digests(self, application: str, states: Sequence[ManifestState], limit: int) -> Sequence[bytes]:
        return [record.manifest.digest for record in await self.of_application(application, states)][:limit]

    async def set_state(self, digest: bytes, state: ManifestState) -> bool:
        tables = self._view.write
        old = tables.manifests.get(digest)
        if old is None or (old.state is ManifestState.WITHDRAWN and state is not ManifestState.WITHDRAWN):
            return False
        tables.manifests[digest] = replace(old, state=state)
        tables.reached[digest] = tables.reached[digest] or state is ManifestState.IN_FORCE
        return True

    async def reached(self, application: str) -> int:
        tables = self._view.read
        return max(
            (
                record.manifest.version
                for digest, record in tables.manifests.items()
                if record.manifest.application == application and tables.reached[digest]
            ),
            default=0,
        )

    async def floor(self, application: str) -> int:
        return self._view.read.floors.get(application, 0)

    async def raise_floor(self, application: str, version: int) -> None:
        table = self._view.write.floors
        table[application] = max(version, table.get(application, version))

    async def lower_floor(self, application: str, version: int) -> None:
        tables = self._view.write
        tables.floors[application] = version
        for digest, record in tables.manifests.items():
            if record.manifest.application == application and record.manifest.version >= version:
                tables.reached[digest] = False

    async def last_index(self, application: str) -> tuple[int, bytes]:
        return self._view.read.indexes.get(application, (0, b""))

    async def put_index(self, application: str, version: int, digest: bytes) -> None:
        self._view.write.indexes[application] = (version, digest)

    async def digests_of_package(self, purl: str) -> Sequence[bytes]:
        table = self._view.read.packages
        return sorted(digest for (package, digest), unit in table.items() if unit and package == purl)

    async def packages_of_digests(self, digests: Sequence[bytes]) -> Mapping[bytes, str]:
        found: dict[bytes, str] = {}
        for package, digest in sorted(self._view.read.packages):
            if digest in digests:
                found.setdefault(digest, package)
        return found

    def _version(self, application: str, version: int) -> ManifestRecord | None:
        for record in self._view.read.manifests.values():
            if (record.manifest.application, record.manifest.version) == (application, version):
                return record
        return None


class MemoryReplays(Store):
    """Plug of `broker.ports.ReplayStore`."""

    async def claim(self, scope: str, key: bytes, expires_at: float) -> bool:
        table = self._view.write.replays
        if (scope, key) in table:
            return False
        table[scope, key] = expires_at
        return True

    async def prune(self, now: float, limit: int) -> int:
        table = self._view.write.replays
        gone = sorted((until, key) for key, until in table.items() if until <= now)[:limit]
        for _, key in gone:
            del table[key]
        return len(gone)


class MemoryTransaction:
    """Plug of `broker.ports.Transaction`."""

    def __init__(self, view: View) -> None:
        self.attestations = MemoryAttestations(view)
        self.code = MemoryCode(view)
        self.leases = MemoryLeases(view)
        self.accounts = MemoryAccounts(view)
        self.revocations = MemoryRevocations(view)
        self.proposals = MemoryProposals(view)
        self.detections = MemoryDetections(view)
        self.decisions = MemoryDecisions(view)
        self.roles = MemoryRoles(view)
        self.manifests = MemoryManifests(view)
        self.replays = MemoryReplays(view)


class MemoryState:
    """Plug of `broker.ports.StateStore`. Callers meet as they would at a database: each call yields to the
    loop before its work and after its commit."""

    def __init__(self, log_id: str = "memory") -> None:
        self._tables = Tables(LogHead(log_id, 0, GENESIS))
        self._closed = False

    async def transact(self, work: Callable[[Transaction], Awaitable[T]], *, urgent: bool = False) -> T:
        await asyncio.sleep(0)
        draft = self._tables.copy()
        result = self._run(work, draft, writable=True)
        self._tables = draft
        await asyncio.sleep(0)
        return result

    async def read(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        await asyncio.sleep(0)
        return self._run(work, self._tables, writable=False)

    async def close(self) -> None:
        self._closed = True

    def _run(self, work: Callable[[Transaction], Awaitable[T]], tables: Tables, *, writable: bool) -> T:
        if self._closed:
            raise Unavailable(Reason.STATE_UNAVAILABLE, "the state is closed")
        view = View(tables, writable=writable)
        try:
            return drive(work, MemoryTransaction(view))
        finally:
            view.open = False
