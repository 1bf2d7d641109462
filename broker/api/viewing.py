"""What each kind of watcher sees of the log: a workload its own, a resource server handles, an operator all."""

from __future__ import annotations

from typing import Protocol

from broker.api.convert import revocations as convert
from broker.model.attestation import Attestation
from broker.model.revocation import EntryKind, LogEntry, Selector, SelectorKind, attestation_keys
from broker.ports import StateStore, Transaction
from lockstep.v1 import revocation_pb2 as pb

_HANDLES = (SelectorKind.ATTESTATION, SelectorKind.LEASE, SelectorKind.TOKEN)
# A token carries these, so its verifier can compare them.
_COMPARED = (SelectorKind.IDENTITY, SelectorKind.MANIFEST, SelectorKind.KEY)


class View(Protocol):
    """One watcher's eyes. `unexpanded` are sequences of wide entries whose victims are not all known."""

    async def of(self, log_id: str, entry: LogEntry) -> pb.RevocationEvent | None: ...
    async def now(
        self, log_id: str, entry: LogEntry, unexpanded: frozenset[int]
    ) -> pb.RevocationEvent | None: ...
    def ends(self, entry: LogEntry) -> bool: ...


class OperatorView:
    """Everything, with reasons."""

    async def of(self, log_id: str, entry: LogEntry) -> pb.RevocationEvent | None:
        """The entry as it is."""
        return convert.event(log_id, entry, reasons=True)

    async def now(
        self, log_id: str, entry: LogEntry, unexpanded: frozenset[int]
    ) -> pb.RevocationEvent | None:
        """The same in a snapshot."""
        return convert.event(log_id, entry, reasons=True)

    def ends(self, entry: LogEntry) -> bool:
        """An operator's watch ends with its connection."""
        return False


class WorkloadView:
    """Entries that hit its own attestation, with reasons."""

    def __init__(self, attestation: Attestation, state: StateStore) -> None:
        self._attestation = attestation
        self._keys = frozenset(attestation_keys(attestation))
        self._state = state

    async def of(self, log_id: str, entry: LogEntry) -> pb.RevocationEvent | None:
        """Its own entries; wide ones reach it as entries of their own once they are expanded."""
        if not await self._own(entry.body.selector):
            return None
        return convert.event(log_id, entry, reasons=True)

    async def now(
        self, log_id: str, entry: LogEntry, unexpanded: frozenset[int]
    ) -> pb.RevocationEvent | None:
        """What came after it was attested; what came before was judged then."""
        return await self.of(log_id, entry) if entry.seq > self._attestation.as_of else None

    def ends(self, entry: LogEntry) -> bool:
        """True with the entry that ends the attestation."""
        body = entry.body
        own = Selector(SelectorKind.ATTESTATION, self._attestation.id)
        return body.kind is EntryKind.REVOKED and body.cut and body.selector == own

    async def _own(self, selector: Selector) -> bool:
        if selector in self._keys:
            return True
        if selector.kind not in (SelectorKind.LEASE, SelectorKind.TOKEN):
            return False

        async def work(tx: Transaction) -> bool:
            look = tx.leases.get if selector.kind is SelectorKind.LEASE else tx.leases.by_handle
            lease = await look(selector.value)
            return lease is not None and lease.attestation_id == self._attestation.id

        return await self._state.read(work)


class ResourceServerView:
    """Cuts, as handles that its tokens carry; what they do not carry says "introspect what is older".

    No reason, no place, no digest, and no handle of another audience.
    """

    def __init__(self, audiences: frozenset[str], state: StateStore) -> None:
        self._audiences = audiences
        self._state = state

    async def of(self, log_id: str, entry: LogEntry) -> pb.RevocationEvent | None:
        """A new entry."""
        return await self._seen(log_id, entry, wide=True)

    async def now(
        self, log_id: str, entry: LogEntry, unexpanded: frozenset[int]
    ) -> pb.RevocationEvent | None:
        """In a snapshot, an expanded wide entry has nothing to say: its victims are entries of their own."""
        return await self._seen(log_id, entry, wide=entry.seq in unexpanded)

    def ends(self, entry: LogEntry) -> bool:
        """A resource server's watch ends with its connection."""
        return False

    async def _seen(self, log_id: str, entry: LogEntry, *, wide: bool) -> pb.RevocationEvent | None:
        body = entry.body
        kind = body.selector.kind
        if body.kind is EntryKind.EXPANDED:
            return convert.expanded_event(log_id, entry)
        if body.kind is not EntryKind.REVOKED or not body.cut:
            return None
        if kind in _HANDLES:
            return await self._handle(log_id, entry)
        if kind in _COMPARED:
            return convert.event(log_id, entry, reasons=False)
        return convert.introspect_event(log_id, entry) if wide else None

    async def _handle(self, log_id: str, entry: LogEntry) -> pb.RevocationEvent | None:
        selector = entry.body.selector

        async def work(tx: Transaction) -> bool:
            if selector.kind is SelectorKind.ATTESTATION:
                leases = await tx.leases.of_attestation(selector.value)
                return any(lease.audience in self._audiences for lease in leases)
            look = tx.leases.get if selector.kind is SelectorKind.LEASE else tx.leases.by_handle
            lease = await look(selector.value)
            return lease is not None and lease.audience in self._audiences

        return convert.event(log_id, entry, reasons=False) if await self._state.read(work) else None
