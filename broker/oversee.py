"""Oversee: what there is, for operators who may read: instances, reports, revocations, decisions."""

from __future__ import annotations

from collections.abc import Sequence

from broker.model.attestation import Attestation, AttestationState
from broker.model.decision import Decision
from broker.model.detection import DetectionRecord, DetectionState
from broker.model.identifiers import first_of
from broker.model.requests import AttestationQuery, Page
from broker.model.revocation import Revocation, RevocationState
from broker.ports import StateStore, Transaction

MOST = 1_000
"""Of a page."""


class Overseer:
    """Every answer is one page in id order, of one moment of the state. Raises `Unavailable`."""

    def __init__(self, *, state: StateStore) -> None:
        self._state = state

    async def attestations(
        self, query: AttestationQuery, states: frozenset[AttestationState], size: int, after: str
    ) -> Page[Attestation]:
        """Instances in some states (empty: any). A page may be shorter than `size` and not be the last."""
        limit = _bounded(size)

        async def work(tx: Transaction) -> Sequence[Attestation]:
            digests = [query.digest] if query.digest else []
            if query.package:
                digests += await tx.manifests.digests_of_package(query.package)
            if query.digest or query.package:
                return await tx.attestations.loaded(digests, query.since, limit, after)
            return await tx.attestations.page(query.since, limit, after, query.identity)

        found = await self._state.read(work)
        kept = [
            item
            for item in found
            if (not states or item.state in states) and query.identity in ("", item.identity.name)
        ]
        return Page(tuple(kept), found[-1].id if len(found) == limit else "")

    async def detections(
        self, states: Sequence[DetectionState], since: float, size: int, after: str
    ) -> Page[DetectionRecord]:
        """Reports in some states (empty: any), received at or after a time."""
        limit, start = _bounded(size), max(after, first_of("R", since))
        found = await self._state.read(lambda tx: tx.detections.page(states, limit, start))
        return Page(tuple(found), found[-1].id if len(found) == limit else "")

    async def revocations(
        self, states: frozenset[RevocationState], since: float, size: int, after: str
    ) -> Page[Revocation]:
        """Revocations in some states (empty: any), committed at or after a time. A page may be shorter than `size`
        and not be the last."""
        limit, start = _bounded(size), max(after, first_of("V", since))
        found = await self._state.read(lambda tx: tx.revocations.page(limit, start))
        kept = [item for item in found if not states or item.state in states]
        return Page(tuple(kept), found[-1].id if len(found) == limit else "")

    async def decisions(self, since: float, size: int, after: str) -> Page[Decision]:
        """Decisions made at or after a time."""
        limit = _bounded(size)
        found = await self._state.read(lambda tx: tx.decisions.page(since, limit, after))
        return Page(tuple(found), found[-1].id if len(found) == limit else "")


def _bounded(size: int) -> int:
    return max(1, min(size, MOST))
