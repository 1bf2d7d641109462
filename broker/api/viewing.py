"""What each kind of watcher sees of the log: a workload its own, a resource server handles, an operator all."""

from __future__ import annotations

import math
from dataclasses import replace
from hashlib import sha256
from typing import Final, Protocol

from broker.api.convert import revocations as convert
from broker.belonging import Belonging
from broker.errors import Denied, NotFound, Unauthenticated
from broker.model.attestation import Attestation, AttestationState
from broker.model.caller import Caller, OperatorCaller, ResourceServerCaller
from broker.model.identity import WorkloadIdentity
from broker.model.reach import Reach
from broker.model.revocation import EntryKind, LogEntry, LogHead, Selector, SelectorKind, attestation_keys
from broker.ports import RoleSource, StateStore, Transaction
from lockstep.formats import Reason
from lockstep.v1 import revocation_pb2 as pb

_OTHER_EYES: Final = "what this watcher may see has changed"
_HANDLES = (SelectorKind.ATTESTATION, SelectorKind.LEASE, SelectorKind.TOKEN)
# A token carries these, so its verifier can compare them.
_COMPARED = (SelectorKind.IDENTITY, SelectorKind.MANIFEST, SelectorKind.KEY)


class Behind(Exception):
    """The watcher must begin anew; the text says why."""


class View(Protocol):
    """One watcher's eyes. Entries are shown to it in the order of the log."""

    @property
    def until(self) -> float:
        """When `check` has to be asked again (seconds, UTC)."""

    async def check(self, now: float) -> None:
        """Raises where the watcher may not watch any longer."""

    def position(self, head: LogHead) -> LogHead:
        """Where the log stands, by the name that it has for this watcher: another part of it is another log.

        So that nobody resumes a log of which it has seen less than it may see now.
        """

    def may_go_on(self, caller: Caller) -> None:
        """`caller` is what the watcher is by now. Raises `Behind` where it has other eyes than these."""

    async def of(self, log_id: str, entry: LogEntry) -> pb.RevocationEvent | None:
        """A new entry as the watcher sees it; None where it does not."""

    async def now(
        self, log_id: str, entry: LogEntry, unexpanded: frozenset[int]
    ) -> pb.RevocationEvent | None:
        """A live entry of a snapshot. `unexpanded` are sequences of wide ones whose victims are not all known."""

    def began(self, head: LogHead) -> pb.RevocationEvent | None:
        """What a snapshot begins with where the state was restored from a copy, and the log began anew at `head`."""

    def passed(self, entry: LogEntry) -> None:
        """The watcher has this entry from an earlier stream."""

    def ends(self, entry: LogEntry) -> bool:
        """True with the entry after which there is nothing more to watch."""


class _Identified:
    """A watcher known by its call credentials, for as long as they last."""

    def __init__(self, identity: WorkloadIdentity) -> None:
        self._not_after = identity.not_after

    @property
    def until(self) -> float:
        return self._not_after

    async def check(self, now: float) -> None:
        if now >= self._not_after:
            raise Unauthenticated(Reason.NO_IDENTITY, "the identity has expired: open the watch again")

    def ends(self, entry: LogEntry) -> bool:
        return False


class OperatorView(_Identified):
    """Everything, with reasons."""

    def position(self, head: LogHead) -> LogHead:
        return head

    def may_go_on(self, caller: Caller) -> None:
        if not isinstance(caller, OperatorCaller) or not caller.reach("read").everything:
            raise Behind(_OTHER_EYES)

    async def of(self, log_id: str, entry: LogEntry) -> pb.RevocationEvent | None:
        return convert.event(log_id, entry, reasons=True)

    async def now(
        self, log_id: str, entry: LogEntry, unexpanded: frozenset[int]
    ) -> pb.RevocationEvent | None:
        return convert.event(log_id, entry, reasons=True)

    def began(self, head: LogHead) -> pb.RevocationEvent | None:
        return None  # the log has another id: that says it

    def passed(self, entry: LogEntry) -> None:
        return


class ScopedView(_Identified):
    """What hits the roles of an operator's scope, with reasons: instances, leases, tokens and identities.

    What a wide selector hits follows as entries of its own.
    """

    def __init__(
        self, identity: WorkloadIdentity, reach: Reach, state: StateStore, roles: RoleSource
    ) -> None:
        super().__init__(identity)
        self._reach = reach
        self._state = state
        self._roles = roles
        self._part = sha256(repr(reach.scopes).encode()).hexdigest()[:16]

    def position(self, head: LogHead) -> LogHead:
        return replace(head, log_id=f"{head.log_id}/{self._part}")

    def may_go_on(self, caller: Caller) -> None:
        if not isinstance(caller, OperatorCaller) or caller.reach("read") != self._reach:
            raise Behind(_OTHER_EYES)

    async def of(self, log_id: str, entry: LogEntry) -> pb.RevocationEvent | None:
        book = self._roles.current()

        async def work(tx: Transaction) -> bool:
            return await Belonging(tx, book, self._reach).sees_selector(entry.body.selector)

        return convert.event(log_id, entry, reasons=True) if await self._state.read(work) else None

    async def now(
        self, log_id: str, entry: LogEntry, unexpanded: frozenset[int]
    ) -> pb.RevocationEvent | None:
        return await self.of(log_id, entry)

    def began(self, head: LogHead) -> pb.RevocationEvent | None:
        return None  # the log has another id: that says it

    def passed(self, entry: LogEntry) -> None:
        return


class ResourceServerView(_Identified):
    """Cuts, as handles that its tokens carry; what they do not carry says "introspect what is older".

    No reason, no place, no digest, and no handle of another audience.
    """

    def __init__(
        self,
        identity: WorkloadIdentity,
        audiences: frozenset[str],
        state: StateStore,
        cuts_since: float = -math.inf,
    ) -> None:
        """What a cut before `cuts_since` (seconds, UTC) killed has expired by itself: a snapshot leaves it out."""
        super().__init__(identity)
        self._audiences = audiences
        self._cuts_since = cuts_since
        self._state = state
        self._revocation = ""
        served = "\n".join(sorted(audiences)).encode()
        self._part = sha256(served).hexdigest()[:16]

    def position(self, head: LogHead) -> LogHead:
        return replace(head, log_id=f"{head.log_id}/{self._part}")

    def may_go_on(self, caller: Caller) -> None:
        if not isinstance(caller, ResourceServerCaller) or caller.server.audiences != self._audiences:
            raise Behind(_OTHER_EYES)

    async def of(self, log_id: str, entry: LogEntry) -> pb.RevocationEvent | None:
        # Only what a revocation is aimed at gets expanded. The entries behind it name one instance once more, by
        # place: its attestation was told, and an "introspect" that nothing ever ends would be all that is left.
        first = entry.body.revocation_id != self._revocation
        self.passed(entry)
        return await self._seen(log_id, entry, wide=first)

    async def now(
        self, log_id: str, entry: LogEntry, unexpanded: frozenset[int]
    ) -> pb.RevocationEvent | None:
        # An expanded wide entry has nothing to say: its victims are entries of their own.
        self.passed(entry)
        if entry.body.at < self._cuts_since:
            return None
        return await self._seen(log_id, entry, wide=entry.seq in unexpanded)

    def began(self, head: LogHead) -> pb.RevocationEvent | None:
        # Tokens of before are out there of which the state knows nothing: nobody takes one without asking.
        return convert.introspect_older(head)

    def passed(self, entry: LogEntry) -> None:
        self._revocation = entry.body.revocation_id

    async def _seen(self, log_id: str, entry: LogEntry, *, wide: bool) -> pb.RevocationEvent | None:
        body = entry.body
        kind = body.selector.kind
        if body.audience and body.audience not in self._audiences:
            return None
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


class WorkloadView:
    """Entries that hit its own attestation, with reasons, for as long as it lives."""

    def __init__(self, attestation: Attestation, state: StateStore) -> None:
        self._attestation = attestation
        self._keys = frozenset(attestation_keys(attestation))
        self._state = state

    @classmethod
    async def open(cls, attestation_id: str, state: StateStore) -> WorkloadView:
        """Raises `NotFound`."""
        return cls(await _attestation(attestation_id, state), state)

    @property
    def until(self) -> float:
        return self._attestation.expires_at

    def position(self, head: LogHead) -> LogHead:
        return head

    def may_go_on(self, caller: Caller) -> None:
        return  # by its attestation: `check`

    async def check(self, now: float) -> None:
        """Evidence renews an attestation: what it is is read anew."""
        self._attestation = await _attestation(self._attestation.id, self._state)
        self._keys = frozenset(attestation_keys(self._attestation))
        if self._attestation.state is AttestationState.REVOKED:
            raise Denied(Reason.REVOKED, "the attestation was revoked")
        if self._attestation.state is not AttestationState.ALIVE or self._attestation.expires_at <= now:
            raise Denied(Reason.ATTESTATION_EXPIRED, "the attestation has ended: attest anew")

    async def of(self, log_id: str, entry: LogEntry) -> pb.RevocationEvent | None:
        # Wide entries reach it as entries of its own, once they are expanded.
        if not await self._own(entry.body.selector):
            return None
        return convert.event(log_id, entry, reasons=True)

    async def now(
        self, log_id: str, entry: LogEntry, unexpanded: frozenset[int]
    ) -> pb.RevocationEvent | None:
        # What came before it was appraised was judged then.
        return await self.of(log_id, entry) if entry.seq > self._attestation.as_of else None

    def began(self, head: LogHead) -> pb.RevocationEvent | None:
        return None  # whatever lived then has ended

    def passed(self, entry: LogEntry) -> None:
        return

    def ends(self, entry: LogEntry) -> bool:
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


async def _attestation(attestation_id: str, state: StateStore) -> Attestation:
    async def work(tx: Transaction) -> Attestation | None:
        return await tx.attestations.get(attestation_id)

    found = await state.read(work)
    if found is None:
        raise NotFound("no such attestation of this key")
    return found
