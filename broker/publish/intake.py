"""Taking a signed manifest: by its signatures, its application and its version, and kept whatever comes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from broker.errors import Conflict, Denied
from broker.model.decision import Decision
from broker.model.manifest import Manifest, ManifestError, ManifestRecord, ManifestState, parse_manifest
from broker.model.requests import PublishAnswer
from broker.model.role import Application
from broker.ports import EnvelopeVerifier, RoleSource, StateStore, Transaction
from broker.publish.records import Records
from broker.publish.versions import rollback, version_problem
from lockstep.formats import MANIFEST_PAYLOAD_TYPE, Reason


@dataclass(slots=True)
class _Arrival:
    """What is known of an envelope so far."""

    envelope: bytes
    actor: str
    now: float
    manifest: Manifest | None = None
    application: Application | None = None


class Intake:
    """One envelope after the other; raises what `Publisher` does."""

    def __init__(
        self, *, roles: RoleSource, envelopes: EnvelopeVerifier, state: StateStore, records: Records
    ) -> None:
        self._roles = roles
        self._envelopes = envelopes
        self._state = state
        self._records = records

    async def take(self, envelope: bytes, actor: str, now: float) -> PublishAnswer:
        """Keep it, in force or proposed; a refusal is a decision with an id as well."""
        arrival = _Arrival(envelope, actor, now)
        try:
            answer, decision = await self._take(arrival)
        except (Denied, Conflict) as error:
            await self._records.refused(error, arrival.manifest, actor, now)
            raise
        self._records.tell(decision)
        return answer

    async def _take(self, arrival: _Arrival) -> tuple[PublishAnswer, Decision]:
        """Raises `Denied`, `Conflict`, `Unavailable`.

        1. signatures by pinned keys, 2. the payload is a manifest of a configured
        application, 3. its signers are that application's, 4. version: never back,
        one content each, 5. stored with its decision. Signatures may come in
        several calls.
        """
        now = arrival.now
        payload, signers = self._envelopes.verify(arrival.envelope, MANIFEST_PAYLOAD_TYPE)
        try:
            manifest = parse_manifest(payload)
        except ManifestError as error:
            raise Denied(Reason.MANIFEST_REJECTED, str(error)) from error
        arrival.manifest = manifest
        application = self._application(manifest)
        own = tuple(sorted(signers.intersection(application.signers)))
        if not own:
            raise Denied(Reason.SIGNATURE_REJECTED, f"no signer of {application.name!r} signed it")
        if manifest.not_after <= now:
            raise Denied(Reason.MANIFEST_REJECTED, "it has expired")

        async def work(tx: Transaction) -> tuple[PublishAnswer, Decision] | Denied | Conflict:
            known = await tx.manifests.get(manifest.digest)
            if known is not None:
                return await self._add_signatures(tx, known, own, application, arrival)
            problem = await version_problem(tx, manifest)
            if problem is not None:
                return problem
            complete = len(own) >= application.threshold
            record = ManifestRecord(
                manifest=manifest,
                envelope=arrival.envelope,
                signers=own,
                state=ManifestState.IN_FORCE if complete else ManifestState.PROPOSED,
                published_at=now,
            )
            if not await tx.manifests.add(record):
                return Conflict("published meanwhile by somebody else")
            return await self._kept(tx, record, application, arrival)

        result = await self._state.transact(work)
        if isinstance(result, Exception):
            raise result
        return result

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
        own: Sequence[str],
        application: Application,
        arrival: _Arrival,
    ) -> tuple[PublishAnswer, Decision] | Denied | Conflict:
        if known.state is ManifestState.WITHDRAWN:
            return Denied(Reason.ROLLBACK, "it was withdrawn: publish the content under a higher version")
        signers = tuple(sorted({*known.signers, *own}.intersection(application.signers)))
        completes = known.state is ManifestState.PROPOSED and len(signers) >= application.threshold
        # A proposal may have waited while later versions came into force.
        problem = await rollback(tx, known.manifest) if completes else None
        if problem is not None:
            return problem
        if set(signers) != set(known.signers):
            merged = self._envelopes.merge(known.envelope, arrival.envelope)
            await tx.manifests.add_signatures(known.manifest.digest, merged, signers)
            known = replace(known, envelope=merged, signers=signers)
        if completes:
            await tx.manifests.set_state(known.manifest.digest, ManifestState.IN_FORCE)
            known = replace(known, state=ManifestState.IN_FORCE)
        return await self._kept(tx, known, application, arrival)

    async def _kept(
        self, tx: Transaction, record: ManifestRecord, application: Application, arrival: _Arrival
    ) -> tuple[PublishAnswer, Decision]:
        manifest = record.manifest
        detail = (
            f"{manifest.application}@{manifest.version} {record.state}: signed by {', '.join(record.signers)}"
        )
        decision = self._records.recorded(manifest, arrival.actor, detail, arrival.now)
        await tx.decisions.add(decision)
        answer = PublishAnswer(
            record=record,
            decision_id=decision.id,
            in_force=record.state is ManifestState.IN_FORCE,
            signatures_present=len(record.signers),
            signatures_required=application.threshold,
        )
        return answer, decision
