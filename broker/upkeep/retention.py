"""Retention: rows of what is over are dropped once they are old, a slice at a time, and never what is still needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from broker.model.attestation import AttestationState
from broker.model.credential import Lease, LeaseState
from broker.model.decision import Decision, DecisionKind
from broker.model.detection import DetectionRecord, DetectionState
from broker.model.revocation import RevocationState
from broker.ports import StateStore, Transaction
from broker.upkeep.limits import UpkeepLimits

SLICE: Final = 100
"""Rows that one transaction looks at."""
SLICES: Final = 50
"""Transactions of one table in a turn."""
TURN: Final = 15.0
"""Seconds between two turns."""
SLACK: Final = 3_600.0
"""Seconds by which a decision has to be older than the last one that is safe in the audit log."""
_OVER: Final = (LeaseState.REVOKED, LeaseState.EXPIRED)
_SETTLED_NOT: Final = (RevocationState.COMMITTED, RevocationState.CLEANING)
_DETECTED: Final = tuple(state for state in DetectionState if state is not DetectionState.HELD)


class Retention:
    """Leases, detections and decisions. The audit log keeps all of them for good."""

    def __init__(self, state: StateStore, audited: Callable[[], str], limits: UpkeepLimits) -> None:
        """`audited` is the id of a decision that is safe in the audit log with all before it; empty for none yet."""
        self._state = state
        self._audited = audited
        self._limits = limits
        self._after = 0.0
        # Where each table's pass has come to: rows that are needed are not looked at again and again.
        self._cursors: dict[type[_Slice], str] = {}

    async def tick(self, now: float) -> None:
        """Now and then, some slices. Raises `Unavailable`."""
        if now < self._after:
            return
        for table in (_Leases, _Detections, _Decisions):
            for _ in range(SLICES):
                part = table(now, self._cursors.get(table, ""), self._audited(), self._limits)
                # Most turns find nothing, and a look keeps no grant waiting.
                found, reached = await self._state.read(part.look)
                if found:
                    # Judged again where it is dropped: a row that nothing needed may be needed by now.
                    await self._state.transact(part.drop)
                self._cursors[table] = reached
                if not reached:
                    break
        self._after = now + TURN


class _Slice:
    """Some rows of one table, from a place on."""

    def __init__(self, now: float, cursor: str, audited: str, limits: UpkeepLimits) -> None:
        self._now = now
        self._cursor = cursor
        self._audited = audited
        self._limits = limits

    async def look(self, tx: Transaction) -> tuple[list[str], str]:
        """(ids that can go, the place from which to go on; empty at the end)."""
        raise NotImplementedError

    async def drop(self, tx: Transaction) -> None:
        """Let them go."""
        raise NotImplementedError


class _Leases(_Slice):
    async def look(self, tx: Transaction) -> tuple[list[str], str]:
        before = self._now - self._limits.keep_leases
        page = await tx.leases.page(_OVER, SLICE, self._cursor)
        old = [lease for lease in page if lease.issued_at < before]
        ended = min(before, await _oldest_open(tx)) if old else before
        found = [
            lease.id
            for lease in old
            if max(lease.ended_at, lease.expires_at) < ended and not await _in_use(tx, lease)
        ]
        return found, old[-1].id if len(old) == SLICE else ""

    async def drop(self, tx: Transaction) -> None:
        await tx.leases.drop((await self.look(tx))[0])


class _Detections(_Slice):
    async def look(self, tx: Transaction) -> tuple[list[str], str]:
        before = self._now - self._limits.keep_detections
        page = await tx.detections.page(_DETECTED, SLICE, self._cursor)
        old = [record for record in page if record.received_at < before]
        found = [record.id for record in old if not await _open(tx, record)]
        return found, old[-1].id if len(old) == SLICE else ""

    async def drop(self, tx: Transaction) -> None:
        await tx.detections.drop((await self.look(tx))[0])


class _Decisions(_Slice):
    async def look(self, tx: Transaction) -> tuple[list[str], str]:
        mark = await tx.decisions.get(self._audited)
        if mark is None:
            return [], ""
        before = min(self._now - self._limits.keep_decisions, mark.at - SLACK)
        page = await tx.decisions.page(0.0, SLICE, self._cursor)
        old = [decision for decision in page if decision.at < before]
        found = [decision.id for decision in old if not await _needed(tx, decision)]
        return found, old[-1].id if len(old) == SLICE else ""

    async def drop(self, tx: Transaction) -> None:
        await tx.decisions.drop((await self.look(tx))[0])


async def _oldest_open(tx: Transaction) -> float:
    """When the oldest revocation was made that is not settled: what had ended before is none of its business."""
    found = [page[0].at for state in _SETTLED_NOT if (page := await tx.revocations.page(1, "", state))]
    return min(found, default=float("inf"))


async def _in_use(tx: Transaction, lease: Lease) -> bool:
    """True where its attestation lives: a request that is sent again has to find its lease."""
    attestation = await tx.attestations.get(lease.attestation_id)
    return attestation is not None and attestation.state is AttestationState.ALIVE


async def _open(tx: Transaction, record: DetectionRecord) -> bool:
    """True where what a report revoked is still being taken back."""
    revocation = await tx.revocations.get(record.revocation_id) if record.revocation_id else None
    return revocation is not None and revocation.state is not RevocationState.SETTLED


async def _needed(tx: Transaction, decision: Decision) -> bool:
    """True for why something is as it is now: a living instance, its leases, a report that is held, whatever was
    banned, lifted or published."""
    if decision.revocation_id or decision.kind in (
        DecisionKind.REVOKE,
        DecisionKind.LIFT,
        DecisionKind.MANIFEST,
    ):
        return True
    if decision.detection_id:
        record = await tx.detections.get(decision.detection_id)
        if record is not None and record.state is DetectionState.HELD:
            return True
    name = decision.attestation_id
    if not name:
        return False
    attestation = await tx.attestations.get(name)
    if attestation is not None and attestation.state is AttestationState.ALIVE:
        return True
    return await tx.leases.unsettled([name]) + await tx.accounts.unsettled([name]) > 0
