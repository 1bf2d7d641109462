"""Restore: a state that was restored from a copy begins anew, since nobody knows what it has forgotten.

The copy lacks what was revoked after it was made, and what was granted. So
everything that was granted before is taken back, what the state knows by its
rows and what it does not by the position that its tokens name; whatever was
banned since has to be said again, by somebody who has the audit log.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from broker.errors import InvalidRequest
from broker.model.attestation import AttestationState
from broker.model.decision import Decision, DecisionKind, Effect
from broker.model.matching import text_problem
from broker.model.revocation import LogHead
from broker.ports import Clock, Entropy, StateStore, Transaction
from lockstep.formats import Reason, canonical_json

STRIDE: Final = 2**32
"""What the log leaves out: more entries than a broker can have written after the copy was made."""
_NAMED: Final = 100


@dataclass(frozen=True, slots=True)
class Restored:
    """What was done: the log before and after, how many instances and leases were taken back, and the decision."""

    before: LogHead
    head: LogHead
    instances: int
    leases: int
    decision: Decision


class Restorer:
    """For a broker that is not running: what it holds in memory would be of the other log."""

    def __init__(self, *, clock: Clock, entropy: Entropy, state: StateStore, batch: int = 500) -> None:
        """`batch`: how many instances are looked up at a time."""
        self._batch = batch
        self._clock = clock
        self._entropy = entropy
        self._state = state

    async def restored(self, actor: str, reason: str, ticket: str) -> Restored:
        """One transaction. Raises `InvalidRequest` (reason, ticket), `Unavailable`.

        1. a new log, whose positions are beyond any that the lost one had,
        2. every living attestation ends, its leases and accounts are taken back,
        3. a decision that says by whom and why.
        """
        problem = text_problem(reason, ticket)
        if problem:
            raise InvalidRequest(problem)
        now = self._clock.now()
        log_id = self._entropy.token(16).hex()
        decision_id = self._entropy.identifier("D", now)

        async def work(tx: Transaction) -> Restored:
            before = await tx.revocations.head()
            head = _anew(before, log_id)
            ended: list[str] = []
            leases = 0
            while ids := await tx.attestations.due(float("inf"), self._batch):
                await tx.attestations.end(ids, AttestationState.REVOKED)
                leases += await tx.leases.begin_revoking(ids)
                await tx.accounts.begin_closing(ids, now)
                ended.extend(ids)
            detail = (
                f"the state was restored from a copy at position {before.seq}: {reason}; "
                f"{len(ended)} instances, {leases} leases; log {before.log_id} goes on as {log_id}"
            )
            decision = Decision(
                id=decision_id,
                kind=DecisionKind.REVOKE,
                at=now,
                verdict=Reason.REVOKED,
                effect=Effect.REVOKED,
                instances=tuple(ended[:_NAMED]),
                actor=actor,
                ticket=ticket,
                detail=detail,
            )
            await tx.revocations.begin_anew(head, decision_id)
            await tx.decisions.add(decision)
            return Restored(before, head, len(ended), leases, decision)

        return await self._state.transact(work)


def _anew(before: LogHead, log_id: str) -> LogHead:
    """The head of the log that follows; its hash holds on to the one before."""
    seq = (before.seq // STRIDE + 1) * STRIDE
    content = canonical_json({"restored": log_id, "previous": before.log_id, "seq": seq})
    return LogHead(log_id, seq, sha256(before.hash + content).digest())
