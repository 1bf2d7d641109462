"""Publish: reference values come into force by k-of-n signatures, and leave it by retiring or withdrawing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from broker.errors import Conflict, Denied, InvalidRequest, NotFound
from broker.ledger import Denial, Ledger, Target
from broker.model.decision import Decision, DecisionKind, Effect
from broker.model.manifest import Manifest, ManifestError, ManifestRecord, ManifestState, parse_manifest
from broker.model.matching import text_problem
from broker.model.requests import PublishAnswer, WithdrawAnswer
from broker.model.revocation import Selector, SelectorKind
from broker.model.role import Application
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
from lockstep.formats import MANIFEST_PAYLOAD_TYPE, Reason

PREVIEW_LIMIT = 10_000
_ONCE_IN_FORCE = (
    ManifestState.IN_FORCE,
    ManifestState.RETIRED,
    ManifestState.WITHDRAWN,
    ManifestState.EXPIRED,
)
_KNOWN = (ManifestState.PROPOSED, *_ONCE_IN_FORCE)


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
        self._envelopes = envelopes
        self._manifests = manifests
        self._state = state
        self._ledger = ledger
        self._audit = audit

    async def publish(self, envelope: bytes, actor: str) -> PublishAnswer:
        """Take a signed manifest; in force once enough of its application's signers have signed.

        1. signatures by pinned keys, 2. the payload is a manifest of a configured
        application, 3. its signers are that application's, 4. version: never back,
        one content each, 5. stored with its decision. Signatures may come in
        several calls.
        """
        now = self._clock.now()
        payload, signers = self._envelopes.verify(envelope, MANIFEST_PAYLOAD_TYPE)
        try:
            manifest = parse_manifest(payload)
        except ManifestError as error:
            raise Denied(Reason.MANIFEST_REJECTED, str(error)) from error
        application = self._application(manifest)
        own = tuple(sorted(signers.intersection(application.signers)))
        if not own:
            raise Denied(Reason.SIGNATURE_REJECTED, f"no signer of {application.name!r} signed it")
        if manifest.not_after <= now:
            raise Denied(Reason.MANIFEST_REJECTED, "it has expired")

        async def work(tx: Transaction) -> tuple[PublishAnswer, Decision] | Denied | Conflict:
            known = await tx.manifests.get(manifest.digest)
            if known is not None:
                return await self._add_signatures(tx, known, envelope, own, application, actor, now)
            problem = await _version_problem(tx, manifest)
            if problem is not None:
                return problem
            complete = len(own) >= application.threshold
            record = ManifestRecord(
                manifest=manifest,
                envelope=envelope,
                signers=own,
                state=ManifestState.IN_FORCE if complete else ManifestState.PROPOSED,
                published_at=now,
            )
            if not await tx.manifests.add(record):
                return Conflict("published meanwhile by somebody else")
            return await self._published(tx, record, application, actor, now)

        result = await self._state.transact(work)
        if isinstance(result, Exception):
            raise result
        answer, decision = result
        self._manifests.invalidate()
        self._audit.record(decision)
        return answer

    async def retire(self, digest: bytes, actor: str, reason: str, ticket: str) -> tuple[ManifestRecord, str]:
        """No new starts under it; what runs goes on."""
        now = self._clock.now()
        _check_texts(reason, ticket)
        decision = self._decision(digest, Effect.RECORDED, actor, f"retired: {reason}", ticket, now)

        async def work(tx: Transaction) -> tuple[ManifestRecord, Decision] | None:
            record = await tx.manifests.get(digest)
            if record is None or record.state is ManifestState.WITHDRAWN:
                return None
            named = replace(decision, application=record.manifest.application)
            await tx.manifests.set_state(digest, ManifestState.RETIRED)
            await tx.decisions.add(named)
            return replace(record, state=ManifestState.RETIRED), named

        result = await self._state.transact(work)
        if result is None:
            raise NotFound("no such manifest, or it was withdrawn")
        self._manifests.invalidate()
        self._audit.record(result[1])
        return result[0], decision.id

    async def withdraw(self, digest: bytes, actor: str, reason: str, ticket: str) -> WithdrawAnswer:
        """A tombstone: never in force again, its version is passed, and what runs under it is revoked."""
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
        decision = replace(
            self._decision(digest, Effect.REVOKED, actor, f"withdrawn: {reason}", ticket, now),
            application=manifest.application,
            revocation_id=self._entropy.identifier("V", now),
        )

        async def first(tx: Transaction) -> bool:
            current = await tx.manifests.get(digest)
            if current is None or current.state is ManifestState.WITHDRAWN:
                return False
            await tx.manifests.set_state(digest, ManifestState.WITHDRAWN)
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

    async def get(self, digest: bytes | None, application: str, version: int) -> ManifestRecord:
        """By digest; or by application and version; or the newest in force of an application (version 0)."""

        async def work(tx: Transaction) -> ManifestRecord | None:
            if digest:
                return await tx.manifests.get(digest)
            if version:
                return await tx.manifests.by_version(application, version)
            found = await tx.manifests.of_application(application, (ManifestState.IN_FORCE,))
            return found[0] if found else None

        record = await self._state.read(work)
        if record is None:
            raise NotFound("no such manifest")
        return record

    async def list(self, application: str, include_ended: bool) -> Sequence[ManifestRecord]:
        """Newest version first; all applications where `application` is empty."""
        states = _KNOWN if include_ended else (ManifestState.IN_FORCE, ManifestState.PROPOSED)
        return await self._state.read(lambda tx: tx.manifests.of_application(application, states))

    # --- steps ------------------------------------------------------------------------------------

    def _application(self, manifest: Manifest) -> Application:
        application = self._roles.current().applications.get(manifest.application)
        if application is None:
            raise Denied(Reason.NOT_ENTITLED, f"no application {manifest.application!r} is configured")
        if not application.published:
            raise Denied(
                Reason.NOT_ENTITLED,
                f"manifests of {manifest.application!r} come from its signed folder alone",
            )
        foreign = sorted(set(manifest.includes) - set(application.includes))
        if foreign:
            raise Denied(
                Reason.MANIFEST_REJECTED,
                f"{manifest.application!r} may not include {foreign[0]!r}: add it to includes in its configuration",
            )
        return application

    async def _add_signatures(
        self,
        tx: Transaction,
        known: ManifestRecord,
        envelope: bytes,
        own: Sequence[str],
        application: Application,
        actor: str,
        now: float,
    ) -> tuple[PublishAnswer, Decision] | Denied | Conflict:
        if known.state is ManifestState.WITHDRAWN:
            return Denied(Reason.ROLLBACK, "it was withdrawn: publish the content under a higher version")
        signers = tuple(sorted({*known.signers, *own}.intersection(application.signers)))
        completes = known.state is ManifestState.PROPOSED and len(signers) >= application.threshold
        # A proposal may have waited while later versions came into force.
        problem = await _rollback(tx, known.manifest) if completes else None
        if problem is not None:
            return problem
        if set(signers) != set(known.signers):
            merged = self._envelopes.merge(known.envelope, envelope)
            await tx.manifests.add_signatures(known.manifest.digest, merged, signers)
            known = replace(known, envelope=merged, signers=signers)
        if completes:
            await tx.manifests.set_state(known.manifest.digest, ManifestState.IN_FORCE)
            known = replace(known, state=ManifestState.IN_FORCE)
        return await self._published(tx, known, application, actor, now)

    async def _published(
        self, tx: Transaction, record: ManifestRecord, application: Application, actor: str, now: float
    ) -> tuple[PublishAnswer, Decision]:
        manifest = record.manifest
        detail = (
            f"{manifest.application}@{manifest.version} {record.state}: signed by {', '.join(record.signers)}"
        )
        decision = replace(
            self._decision(manifest.digest, Effect.RECORDED, actor, detail, "", now),
            application=manifest.application,
        )
        await tx.decisions.add(decision)
        answer = PublishAnswer(
            record=record,
            decision_id=decision.id,
            in_force=record.state is ManifestState.IN_FORCE,
            signatures_present=len(record.signers),
            signatures_required=application.threshold,
        )
        return answer, decision

    def _decision(
        self, digest: bytes, effect: Effect, actor: str, detail: str, ticket: str, now: float
    ) -> Decision:
        return Decision(
            id=self._entropy.identifier("D", now),
            kind=DecisionKind.MANIFEST,
            at=now,
            verdict=Reason.OK,
            effect=effect,
            manifests=(digest,),
            actor=actor,
            ticket=ticket,
            detail=detail,
        )


async def _version_problem(tx: Transaction, manifest: Manifest) -> Conflict | None:
    """One content a version, and never back."""
    same = await tx.manifests.by_version(manifest.application, manifest.version)
    if same is not None:
        return Conflict(f"version {manifest.version} is another content: publish under a higher version")
    return await _rollback(tx, manifest)


async def _rollback(tx: Transaction, manifest: Manifest) -> Conflict | None:
    """An old release with a known flaw must not return. Proposals do not count: one signer alone
    could otherwise close an application for ever."""
    floor = await tx.manifests.floor(manifest.application)
    if manifest.version < floor:
        return Conflict(f"{manifest.application!r} accepts version {floor} or later", reason=Reason.ROLLBACK)
    newest = await tx.manifests.of_application(manifest.application, _ONCE_IN_FORCE)
    if newest and manifest.version < newest[0].manifest.version:
        return Conflict(
            f"{manifest.application!r} is at version {newest[0].manifest.version}", reason=Reason.ROLLBACK
        )
    return None


def _check_texts(reason: str, ticket: str) -> None:
    problem = text_problem(reason, ticket)
    if problem:
        raise InvalidRequest(problem)
