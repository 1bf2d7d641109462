"""What every attestation ends in: a refusal that is recorded, or a grant that passes the fence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from broker.attest.judge import Judgement
from broker.attest.nonces import SpentNonce
from broker.errors import Denied, LimitExceeded, LockstepError
from broker.ledger import Ledger, Undecided, loaded_hit, refuse_undecided
from broker.model.attestation import Attestation, AttestationState
from broker.model.case import Case, bearer_keys
from broker.model.decision import Decision, DecisionKind, Effect
from broker.model.denials import DenySet
from broker.model.identity import WorkloadIdentity
from broker.model.requests import AttestAnswer
from broker.model.revocation import LogEntry, NewEntry, Selector, SelectorKind, attestation_keys
from broker.model.role import Silence
from broker.ports import AuditLog, Clock, Entropy, RevocationFeed, StateStore, Transaction
from lockstep.formats import Reason


class Outcome:
    """Shared by first and later attestations."""

    def __init__(
        self,
        *,
        clock: Clock,
        entropy: Entropy,
        state: StateStore,
        feed: RevocationFeed,
        ledger: Ledger,
        audit: AuditLog,
    ) -> None:
        self._clock = clock
        self._entropy = entropy
        self._state = state
        self._feed = feed
        self._ledger = ledger
        self._audit = audit

    async def refused(
        self,
        error: LockstepError,
        nonce: SpentNonce,
        identity: WorkloadIdentity | None,
        kind: DecisionKind,
        now: float,
        attestation_id: str = "",
    ) -> None:
        """A refused attempt spends its nonce; a denial of somebody is a decision with an id. Raises `Unavailable`.

        Of somebody: whoever proved no identity would write rows and audit lines that are kept, at the cost of a
        token that is none. Its refusal is counted by the door.
        """
        if error.decision_id or isinstance(error, LimitExceeded):
            return
        decision = None
        if isinstance(error, Denied) and identity is not None:
            decision = Decision(
                id=self._entropy.identifier("D", now),
                kind=kind,
                at=now,
                verdict=error.reason,
                effect=Effect.REFUSED,
                identity=identity.name,
                attestation_id=attestation_id,
                detail=error.message,
            )

        async def work(tx: Transaction) -> None:
            await nonce.claim(tx)
            if decision is not None:
                await tx.decisions.add(decision)

        await self._state.transact(work)
        if decision is not None:
            error.decision_id = decision.id
            self._audit.record(decision)

    async def ended(self, error: Denied, attestation_id: str, now: float) -> None:
        """The key of an attestation that is over asks again: that is a decision too. Raises `Unavailable`."""
        made = Decision(
            id=self._entropy.identifier("D", now),
            kind=DecisionKind.REATTEST,
            at=now,
            verdict=error.reason,
            effect=Effect.REFUSED,
            attestation_id=attestation_id,
            detail=error.message,
        )

        async def work(tx: Transaction) -> Decision:
            attestation = await tx.attestations.get(attestation_id)
            decision = replace(made, identity=attestation.identity.name) if attestation else made
            await tx.decisions.add(decision)
            return decision

        decision = await self._state.transact(work)
        error.decision_id = decision.id
        self._audit.record(decision)

    async def fence(self, attestation: Attestation, case: Case, *, new: bool) -> None:
        """After the commit: whatever was revoked since `as_of` counts, or a grant could slip past a deny.

        A cut ends the attestation with its leases. So does a ban that of a `new`
        one; an older one only gets nothing more. What is not durable yet ends
        nothing, it is waited for. Raises `Denied`, `Unavailable`.
        """
        await self._ledger.once_decided(lambda: self._fence(attestation, case, new=new))

    async def _fence(self, attestation: Attestation, case: Case, *, new: bool) -> None:
        seq = await self._feed.fence()
        denials = self._feed.denials
        if seq == case.as_of and not denials.anticipating:
            return
        keys = tuple(attestation_keys(attestation))
        cut = denials.cut(keys, case.as_of)
        ban = denials.banned(keys, case.now)

        async def work(tx: Transaction) -> tuple[Decision | None, Sequence[LogEntry]]:
            hit = cut or await loaded_hit(tx, denials.wide_after(case.as_of), case.code)
            refused = ban or await loaded_hit(tx, denials.wide_bans(case.now), case.code)
            deadly = hit or (refused if new else None)
            if deadly is None and refused is None:
                await refuse_undecided_case(tx, case, keys, denials)
                return None, ()
            decision = self._fenced(attestation, new=new, deadly=deadly)
            await tx.decisions.add(decision)
            if deadly is None:
                return decision, ()
            return decision, await self._end(tx, attestation, deadly, tell=not new)

        decision, entries = await self._state.transact(work, urgent=True)
        if decision is None:
            return
        self._feed.announce(entries)
        self._audit.record(decision)
        raise Denied(decision.verdict, decision.detail, decision_id=decision.id)

    def _fenced(self, attestation: Attestation, *, new: bool, deadly: NewEntry | None) -> Decision:
        now = self._clock.now()
        reason = Reason.BANNED if deadly is None else Reason.REVOKED
        return Decision(
            id=self._entropy.identifier("D", now),
            kind=DecisionKind.ATTEST if new else DecisionKind.REATTEST,
            at=now,
            verdict=reason,
            effect=Effect.REFUSED if new or deadly is None else Effect.REVOKED,
            identity=attestation.identity.name,
            attestation_id=attestation.id,
            code_set=attestation.code_set,
            revocation_id="" if deadly is None else deadly.revocation_id,
            detail=f"{reason} while it attested",
        )

    async def _end(
        self, tx: Transaction, attestation: Attestation, deadly: NewEntry, *, tell: bool
    ) -> Sequence[LogEntry]:
        """End it as a part of what hit it. Whoever holds tokens of an older one is told by name: an expansion
        that is over, or that finds only the living, will not."""
        if not await tx.attestations.end([attestation.id], AttestationState.REVOKED):
            return ()
        await tx.leases.begin_revoking([attestation.id])
        await tx.accounts.begin_closing([attestation.id], self._clock.now())
        if await tx.revocations.get(deadly.revocation_id) is not None:
            await tx.revocations.hit(deadly.revocation_id, [attestation.id])
        if not tell:
            return ()
        own = Selector(SelectorKind.ATTESTATION, attestation.id)
        named = replace(
            deadly, selector=own, cut=True, ban=False, until=None, at=self._clock.now(), audience=""
        )
        return await tx.revocations.append([named])

    def record(self, judgement: Judgement) -> None:
        """Tell the audit, after the commit."""
        for decision in judgement.decisions:
            self._audit.record(decision)

    @staticmethod
    def answer(case: Case, judgement: Judgement, attestation: Attestation | None) -> AttestAnswer:
        """What the workload learns."""
        granted = {verdict.role for verdict in judgement.verdicts if verdict.granted}
        silences = [role.silence for role in case.roles if role.name in granted]
        return AttestAnswer(
            attestation=attestation,
            decision_id=judgement.first.decision_id,
            status=max(verdict.status for verdict in judgement.verdicts),
            assurance=case.assurance,
            expires_at=judgement.expires_at,
            roles=judgement.verdicts,
            silence=min(silences, key=lambda silence: silence.grace, default=Silence()),
            as_of=case.as_of,
            now=case.now,
        )


async def refuse_banned(case: Case, denials: DenySet) -> None:
    """Raises `Denied` (banned) for an identity, a key or a place that gets nothing; says what to lift. `Undecided`."""
    keys = bearer_keys(case)
    ban = denials.banned(keys, case.now)
    if ban is not None:
        what = f"this identity, key or place is banned by {ban.revocation_id}"
        raise Denied(Reason.BANNED, f"{what}, which an operator may lift")
    refuse_undecided(denials.early, keys, case.now)


async def refuse_undecided_case(
    tx: Transaction, case: Case, keys: Sequence[Selector], denials: DenySet
) -> None:
    """Raises `Undecided` where something that is not durable yet hits one of the keys, or code of the case."""
    refuse_undecided(denials.early, keys, case.now)
    wide = (*denials.early.wide_cuts(), *denials.early.wide_bans(case.now))
    if await loaded_hit(tx, wide, case.code) is not None:
        raise Undecided
