"""The end of a first attestation: stored with its decisions in one transaction, or not at all."""

from __future__ import annotations

from dataclasses import replace

from broker.attest.judge import Judge, Judgement
from broker.attest.keeping import keep, note, spread
from broker.attest.nonces import SpentNonce, used_before
from broker.attest.outcome import Outcome, refuse_undecided_case
from broker.errors import Denied
from broker.ledger import Ledger, loaded_hit
from broker.model.attestation import Attestation, AttestationState
from broker.model.case import Case, refusal_text, unmeasured_names
from broker.model.decision import Decision, DecisionKind, Effect
from broker.model.requests import AttestAnswer
from broker.ports import AuditLog, Entropy, RevocationFeed, StateStore, Transaction
from lockstep.formats import Reason


class Admission:
    """`dry_run` judges and records, and grants nothing."""

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

    async def conclude(self, case: Case, nonce: SpentNonce, *, dry_run: bool) -> AttestAnswer:
        """Raises `Denied` (with the decision's id where one was stored), `Unavailable`."""
        attestation_id = self._entropy.identifier("A", case.now)
        named = "" if dry_run else attestation_id
        judgement = await self._ledger.once_decided(
            lambda: self._judge.judge(case, DecisionKind.ATTEST, named, dry_run=dry_run)
        )
        attestation = _attestation(attestation_id, case, judgement)
        granted = judgement.granted and not dry_run
        if granted:
            await spread(self._state, case.code)
        denials = self._feed.denials

        async def work(tx: Transaction) -> tuple[Decision, ...] | None:
            if not await nonce.claim(tx):
                return None
            banned = await loaded_hit(tx, denials.wide_bans(case.now), case.code)
            if banned is None:
                await refuse_undecided_case(tx, case, (), denials)
            decisions = judgement.decisions
            if banned is not None:
                decisions = tuple(_banned(decision, banned.revocation_id) for decision in decisions)
            if granted and banned is None:
                await keep(tx, case, judgement)
                await tx.attestations.add(attestation)
            else:
                await note(tx, case, judgement)
            for decision in decisions:
                await tx.decisions.add(decision)
            return decisions

        stored = await self._ledger.once_decided(lambda: self._state.transact(work))
        if stored is None:
            raise used_before()
        for decision in stored:
            self._audit.record(decision)
        first = judgement.first
        if stored[0].verdict is Reason.BANNED:
            raise Denied(Reason.BANNED, stored[0].detail, decision_id=first.decision_id)
        if not judgement.granted and not dry_run:
            raise Denied(
                first.reason, refusal_text(first), decision_id=first.decision_id, count=first.findings
            )
        if granted:
            await self._outcome.fence(attestation, case, new=True)
        return self._outcome.answer(case, judgement, attestation if granted else None)


def _attestation(attestation_id: str, case: Case, judgement: Judgement) -> Attestation:
    return Attestation(
        id=attestation_id,
        identity=case.identity,
        key=case.key,
        assurance=case.assurance,
        process=case.process,
        results=judgement.results,
        code_set=case.code.digest,
        state=AttestationState.ALIVE,
        created_at=case.now,
        refreshed_at=case.now,
        expires_at=judgement.expires_at,
        as_of=case.as_of,
        decision_id=judgement.first.decision_id,
        unmeasured=unmeasured_names(case.evidence),
    )


def _banned(decision: Decision, revocation_id: str) -> Decision:
    detail = f"it has loaded code that is banned by {revocation_id}, which an operator may lift"
    return replace(decision, verdict=Reason.BANNED, effect=Effect.REFUSED, attestation_id="", detail=detail)
