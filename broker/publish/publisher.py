"""The verb: publish, retire, withdraw, lower, and look."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Final

from broker.errors import Conflict, InvalidRequest, NotFound
from broker.ledger import Denial, Ledger, Target
from broker.model.decision import Decision, Effect
from broker.model.manifest import MAX_VERSION, ManifestRecord, ManifestState
from broker.model.matching import text_problem
from broker.model.requests import LowerAnswer, PublishAnswer, WithdrawAnswer
from broker.model.revocation import Selector, SelectorKind
from broker.ports import (
    AuditLog,
    Clock,
    Entropy,
    EnvelopeVerifier,
    ManifestSource,
    RoleSource,
    StateStore,
    Transaction,
)
from broker.publish.intake import Intake
from broker.publish.records import Records
from broker.publish.versions import least_version

PREVIEW_LIMIT = 10_000

MOST: Final = 1_000
"""Manifests that are listed at most."""


class Publisher:
    """Raises `Denied` (signature_rejected, manifest_rejected, not_entitled), `Conflict` (rollback, another content
    under one version), `NotFound`, `InvalidRequest`, `Unavailable`."""

    def __init__(
        self,
        *,
        clock: Clock,
        entropy: Entropy,
        roles: RoleSource,
        envelopes: EnvelopeVerifier,
        manifests: ManifestSource,
        state: StateStore,
        ledger: Ledger,
        audit: AuditLog,
    ) -> None:
        self._clock = clock
        self._entropy = entropy
        self._roles = roles
        self._manifests = manifests
        self._state = state
        self._ledger = ledger
        self._listing = asyncio.Lock()
        self._records = Records(entropy=entropy, state=state, manifests=manifests, audit=audit)
        self._intake = Intake(roles=roles, envelopes=envelopes, state=state, records=self._records)

    async def publish(self, envelope: bytes, actor: str) -> PublishAnswer:
        """Take a signed manifest; in force once enough of its application's signers have signed.

        Signatures may come in several calls. A refusal carries its decision's id.
        """
        return await self._intake.take(envelope, actor, self._clock.now())

    async def retire(self, digest: bytes, actor: str, reason: str, ticket: str) -> tuple[ManifestRecord, str]:
        """No new starts under it; what runs goes on. A proposal has none: it can only be withdrawn."""
        now = self._clock.now()
        _check_texts(reason, ticket)

        async def work(tx: Transaction) -> tuple[ManifestRecord, Decision] | Conflict | None:
            record = await tx.manifests.get(digest)
            if record is None or record.state is ManifestState.WITHDRAWN:
                return None
            problem = self._not_ours(record)
            if problem is not None:
                return problem
            decision = self._records.recorded(
                record.manifest, actor, f"retired: {reason}", now, ticket=ticket
            )
            await tx.manifests.set_state(digest, ManifestState.RETIRED)
            await tx.decisions.add(decision)
            return replace(record, state=ManifestState.RETIRED), decision

        result = await self._state.transact(work)
        if result is None:
            raise NotFound("no such manifest, or it was withdrawn")
        if isinstance(result, Conflict):
            raise result
        record, decision = result
        self._records.tell(decision)
        return record, decision.id

    def _not_ours(self, record: ManifestRecord) -> Conflict | None:
        """Why it is not here that a manifest is retired."""
        if record.state is ManifestState.PROPOSED:
            return Conflict("it was never in force: withdraw it")
        name = record.manifest.application
        application = self._roles.current().applications.get(name)
        if application is not None and not application.published:
            # The folder is read again and again: it would be in force at the next look.
            return Conflict(
                f"{name!r} comes from a signed folder: take it out of the folder and sign the index, or withdraw it"
            )
        return None

    async def withdraw(self, digest: bytes, actor: str, reason: str, ticket: str) -> WithdrawAnswer:
        """A tombstone: never in force again, and what runs under it is revoked.

        The version of one that was in force is passed; a proposal passes nothing.
        """
        now = self._clock.now()
        _check_texts(reason, ticket)
        selector = Selector(SelectorKind.MANIFEST, digest.hex())

        async def look(tx: Transaction) -> tuple[ManifestRecord | None, int]:
            record = await tx.manifests.get(digest)
            return record, len(await tx.attestations.alive_by(selector, PREVIEW_LIMIT))

        record, hit = await self._state.read(look)
        if record is None:
            raise NotFound("no such manifest")
        manifest = record.manifest
        made = self._records.recorded(
            manifest, actor, f"withdrawn: {reason}", now, effect=Effect.REVOKED, ticket=ticket
        )
        decision = replace(made, revocation_id=self._entropy.identifier("V", now))

        async def first(tx: Transaction) -> bool:
            current = await tx.manifests.get(digest)
            if current is None or current.state is ManifestState.WITHDRAWN:
                return False
            await tx.manifests.set_state(digest, ManifestState.WITHDRAWN)
            if current.state is not ManifestState.PROPOSED:
                await tx.manifests.raise_floor(manifest.application, manifest.version + 1)
            return True

        denied = await self._ledger.deny(
            Denial(
                id=decision.revocation_id,
                targets=(Target(selector, cut=True, ban=True),),
                attestations=(),
                wide=True,
                actor=actor,
                reason=reason,
                ticket=ticket,
                decision=decision,
                at=now,
            ),
            first=first,
        )
        if denied is None:
            raise Conflict("it was withdrawn before")
        self._manifests.invalidate()
        return WithdrawAnswer(
            replace(record, state=ManifestState.WITHDRAWN), decision.id, decision.revocation_id, hit
        )

    async def lower(
        self, application: str, version: int, actor: str, reason: str, ticket: str
    ) -> LowerAnswer:
        """Let `version` and later ones be published again, whatever came since; the only way back.

        What is in force stays so, and what was withdrawn never returns.
        """
        now = self._clock.now()
        _check_texts(reason, ticket)
        if not 1 <= version <= MAX_VERSION:
            raise InvalidRequest("min_version: not a version")

        async def work(tx: Transaction) -> tuple[int, Decision] | Conflict:
            before = await least_version(tx, application)
            if version >= before:
                return Conflict(f"{application!r} accepts version {before} or later already")
            detail = f"accepts version {version} or later again, not {before}: {reason}"
            made = self._records.recorded(None, actor, detail, now, ticket=ticket)
            decision = replace(made, application=application)
            await tx.manifests.lower_floor(application, version)
            await tx.decisions.add(decision)
            return before, decision

        result = await self._state.transact(work)
        if isinstance(result, Conflict):
            raise result
        before, decision = result
        self._records.tell(decision)
        return LowerAnswer(decision.id, before)

    async def get(self, digest: bytes | None, application: str, version: int) -> ManifestRecord:
        """By digest; or by application and version; or the newest in force of an application (version 0)."""

        async def work(tx: Transaction) -> ManifestRecord | None:
            if digest:
                return await tx.manifests.get(digest)
            if version:
                return await tx.manifests.by_version(application, version)
            newest = await tx.manifests.digests(application, (ManifestState.IN_FORCE,), 1)
            return await tx.manifests.get(newest[0]) if newest else None

        record = await self._state.read(work)
        if record is None:
            raise NotFound("no such manifest")
        return record

    async def list(self, application: str, include_ended: bool) -> AsyncIterator[ManifestRecord]:
        """Newest version first, at most `MOST`; all applications where `application` is empty.

        Each is read by itself, for one caller at a time: a manifest has thousands
        of units, and grants wait for the state too.
        """
        states = tuple(ManifestState) if include_ended else (ManifestState.IN_FORCE, ManifestState.PROPOSED)
        async with self._listing:
            for digest in await self._state.read(lambda tx: tx.manifests.digests(application, states, MOST)):
                record = await self._state.read(_Get(digest))
                if record is not None and record.state in states:
                    yield record


class _Get:
    """Reads one manifest."""

    def __init__(self, digest: bytes) -> None:
        self._digest = digest

    async def __call__(self, tx: Transaction) -> ManifestRecord | None:
        return await tx.manifests.get(self._digest)


def _check_texts(reason: str, ticket: str) -> None:
    problem = text_problem(reason, ticket)
    if problem:
        raise InvalidRequest(problem)
