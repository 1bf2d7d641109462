"""Oversee: what there is, for operators who may read: instances, reports, revocations, decisions.

Whoever has a scope sees what belongs to its roles, and of a report the instances that do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from broker.belonging import Belonging
from broker.model.attestation import Attestation, AttestationState
from broker.model.decision import Decision
from broker.model.detection import DetectionRecord, DetectionState
from broker.model.identifiers import first_of
from broker.model.reach import Reach
from broker.model.requests import AttestationQuery, Page
from broker.model.revocation import Revocation, RevocationState
from broker.ports import RoleSource, StateStore, Transaction

MOST = 1_000
"""Of a page."""


class Overseer:
    """Every answer is one page in id order, of one moment of the state; it may be shorter than `size` and not be the
    last. Raises `Unavailable`."""

    def __init__(self, *, state: StateStore, roles: RoleSource) -> None:
        self._state = state
        self._roles = roles

    async def attestations(
        self,
        reach: Reach,
        query: AttestationQuery,
        states: frozenset[AttestationState],
        size: int,
        after: str,
    ) -> Page[Attestation]:
        """Instances in some states (empty: any)."""
        limit = _bounded(size)

        async def look(tx: Transaction) -> Sequence[Attestation]:
            digests = [query.digest] if query.digest else []
            if query.package:
                digests += await tx.manifests.digests_of_package(query.package)
            if query.digest or query.package:
                return await tx.attestations.loaded(digests, query.since, limit, after)
            return await tx.attestations.page(query.since, limit, after, query.identity)

        async def work(tx: Transaction) -> Page[Attestation]:
            found = await look(tx)
            belonging = self._belonging(tx, reach)
            kept = [
                item
                for item in found
                if (not states or item.state in states)
                and query.identity in ("", item.identity.name)
                and await belonging.sees_attestation(item)
            ]
            return Page(tuple(kept), found[-1].id if len(found) == limit else "")

        return await self._state.read(work)

    async def detections(
        self, reach: Reach, states: Sequence[DetectionState], since: float, size: int, after: str
    ) -> Page[DetectionRecord]:
        """Reports in some states (empty: any), received at or after a time."""
        limit, start = _bounded(size), max(after, first_of("R", since))

        async def work(tx: Transaction) -> Page[DetectionRecord]:
            found = await tx.detections.page(states, limit, start)
            belonging = self._belonging(tx, reach)
            kept = []
            for item in found:
                if reach.everything:
                    kept.append(item)
                elif within := await belonging.seen(item.instances):
                    kept.append(replace(item, instances=within))
            return Page(tuple(kept), found[-1].id if len(found) == limit else "")

        return await self._state.read(work)

    async def revocations(
        self, reach: Reach, states: frozenset[RevocationState], since: float, size: int, after: str
    ) -> Page[Revocation]:
        """Revocations in some states (empty: any), committed at or after a time."""
        limit, start = _bounded(size), max(after, first_of("V", since))

        async def work(tx: Transaction) -> Page[Revocation]:
            found = await tx.revocations.page(limit, start)
            belonging = self._belonging(tx, reach)
            kept = [
                item
                for item in found
                if (not states or item.state in states) and await belonging.sees_revocation(item)
            ]
            return Page(tuple(kept), found[-1].id if len(found) == limit else "")

        return await self._state.read(work)

    async def decisions(self, reach: Reach, since: float, size: int, after: str) -> Page[Decision]:
        """Decisions made at or after a time."""
        limit = _bounded(size)

        async def work(tx: Transaction) -> Page[Decision]:
            found = await tx.decisions.page(since, limit, after)
            belonging = self._belonging(tx, reach)
            told = [await belonging.told(item) for item in found]
            kept = [item for item in told if item is not None]
            return Page(tuple(kept), found[-1].id if len(found) == limit else "")

        return await self._state.read(work)

    def _belonging(self, tx: Transaction, reach: Reach) -> Belonging:
        return Belonging(tx, self._roles.current(), reach)


def _bounded(size: int) -> int:
    return max(1, min(size, MOST))
