"""The end of a later attestation: the record grows, or the instance falls by its own evidence."""

from __future__ import annotations

import enum
from dataclasses import replace

from broker.attest.judge import Judge, Judgement
from broker.attest.keeping import keep, note, spread
from broker.attest.nonces import SpentNonce, used_before
from broker.attest.outcome import Outcome, refuse_banned, refuse_undecided_case
from broker.errors import Conflict, Denied, NotFound
from broker.ledger import (
    Denial,
    Ledger,
    holds,
    instance_targets,
    loaded_hit,
    refuse_undecided,
    wide_hit,
)
from broker.model.attestation import Attestation, AttestationState
from broker.model.caller import ProofUse
from broker.model.case import Case, fell_in_enforce, refusal_text, unmeasured_names
from broker.model.decision import Decision, DecisionKind, Effect
from broker.model.denials import DenySet
from broker.model.evidence import CodeSet
from broker.model.requests import AttestAnswer, RoleVerdict
from broker.model.revocation import attestation_keys
from broker.ports import AuditLog, Entropy, RevocationFeed, StateStore, Transaction
from lockstep.formats import Reason


class _End(enum.Enum):
    KEPT = enum.auto()
    REPLAYED = enum.auto()
    BANNED = enum.auto()
    CUT = enum.auto()
    ENDED = enum.auto()
    MOVED = enum.auto()


class Renewal:
    """What was cut since the last evidence stays cut: fresh evidence does not outrun a revocation."""

    def __init__(
        self,
        entropy: Entropy,
        state: StateStore,
        feed: RevocationFeed,
        audit: AuditLog,
        judge: Judge,
        outcome: Outcome,
        ledger: Ledger,
    ) -> None:
        self._entropy = entropy
        self._state = state
        self._feed = feed
        self._audit = audit
        self._judge = judge
        self._outcome = outcome
        self._ledger = ledger

    async def living(self, attestation_id: str, proof: ProofUse, now: float) -> tuple[Attestation, CodeSet]:
        """The attestation of a key with its recorded code set; raises `NotFound`, `Denied` where it has ended."""

        async def work(tx: Transaction) -> tuple[Attestation | None, CodeSet | None]:
            found = await tx.attestations.get(attestation_id)
            return found, await tx.code.get(found.code_set) if found is not None else None

        attestation, code = await self._state.read(work)
        if attestation is None or code is None or attestation.key.thumbprint != proof.thumbprint:
            raise NotFound("no such attestation of this key")
        if attestation.state is AttestationState.REVOKED:
            raise Denied(Reason.REVOKED, "the attestation was revoked")
        if attestation.state is not AttestationState.ALIVE or attestation.expires_at <= now:
            raise Denied(Reason.ATTESTATION_EXPIRED, "the attestation has ended: attest anew")
        return attestation, code

    async def conclude(self, case: Case, previous: Attestation, nonce: SpentNonce) -> AttestAnswer:
        """Raises `Denied`, `Conflict` (another reattest came between), `Unavailable`."""
        denials = self._feed.denials
        judgement = await self._ledger.once_decided(
            lambda: self._judge.judge(case, DecisionKind.REATTEST, previous.id, previous=previous)
        )
        fallen = fell_in_enforce(case.roles, judgement.verdicts, previous)
        if fallen is not None:
            own = next(item for item in judgement.decisions if item.id == fallen.decision_id)
            text = "its own evidence shows code that is not approved"
            await self._revoke(case, previous, judgement, own, text, nonce)
            raise _fallen(fallen)
        # After its own evidence: what memory alone refuses yet becomes durable with that.
        await self._ledger.once_decided(lambda: _refuse_hit(previous, case, denials))
        refreshed = _refreshed(previous, case, judgement)
        await spread(self._state, case.code)

        async def work(tx: Transaction) -> _End:
            if not await nonce.claim(tx):
                return _End.REPLAYED
            current = await tx.attestations.get(previous.id)
            if current is None or current.state is not AttestationState.ALIVE:
                return _End.ENDED
            if await wide_hit(tx, denials.wide_after(previous.as_of), previous):
                return _End.CUT
            if await loaded_hit(tx, denials.wide_bans(case.now), case.code) is not None:
                return _End.BANNED
            await refuse_undecided_case(tx, case, tuple(attestation_keys(previous)), denials)
            # The delta was judged against the record as it was read: two at once would lose one.
            if current != previous:
                return _End.MOVED
            await keep(tx, case, judgement, previous)
            for decision in judgement.decisions:
                await tx.decisions.add(decision)
            return _End.KEPT if await tx.attestations.refresh(refreshed) else _End.ENDED

        end = await self._ledger.once_decided(lambda: self._state.transact(work))
        if end is _End.REPLAYED:
            raise used_before()
        if end is _End.BANNED:
            own = replace(judgement.decisions[0], verdict=Reason.BANNED)
            await self._revoke(case, previous, judgement, own, "it has loaded code that is banned", None)
            raise Denied(Reason.REVOKED, "it has loaded code that is banned", decision_id=own.id)
        if end in (_End.ENDED, _End.CUT):
            raise Denied(Reason.REVOKED, "the attestation was revoked")
        if end is _End.MOVED:
            raise Conflict("another evidence of this attestation came between: measure again")
        self._outcome.record(judgement)
        await self._outcome.fence(refreshed, case, new=False)
        return self._outcome.answer(case, judgement, refreshed)

    async def _revoke(
        self,
        case: Case,
        previous: Attestation,
        judgement: Judgement,
        own: Decision,
        why: str,
        nonce: SpentNonce | None,
    ) -> None:
        revocation_id = self._entropy.identifier("V", case.now)
        decision = replace(own, effect=Effect.REVOKED, revocation_id=revocation_id, instances=(previous.id,))

        async def first(tx: Transaction) -> bool:
            if nonce is not None and not await nonce.claim(tx):
                return False
            await note(tx, case, judgement, previous)
            return True

        denied = await self._ledger.deny(
            Denial(
                id=revocation_id,
                targets=instance_targets(previous, hold=holds(case.roles)),
                attestations=(previous.id,),
                wide=False,
                actor="broker:reattest",
                reason=why,
                decision=decision,
                at=case.now,
                reported_at=case.now,
            ),
            first=first,
        )
        if denied is None:
            raise used_before()


async def _refuse_hit(previous: Attestation, case: Case, denials: DenySet) -> None:
    keys = tuple(attestation_keys(previous))
    if denials.cut(keys, previous.as_of) is not None:
        raise Denied(Reason.REVOKED, "the attestation was revoked")
    await refuse_banned(case, denials)
    refuse_undecided(denials.early, keys, case.now)


def _refreshed(previous: Attestation, case: Case, judgement: Judgement) -> Attestation:
    return replace(
        previous,
        identity=case.identity,
        process=case.process,
        results=judgement.results,
        code_set=case.code.digest,
        refreshed_at=case.now,
        expires_at=judgement.expires_at,
        as_of=case.as_of,
        unmeasured=unmeasured_names(case.evidence),
    )


def _fallen(verdict: RoleVerdict) -> Denied:
    return Denied(
        Reason.REVOKED, refusal_text(verdict), decision_id=verdict.decision_id, count=verdict.findings
    )
