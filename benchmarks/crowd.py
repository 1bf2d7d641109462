"""Fills a state file with live leases, as a broker would have written them."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Final

from broker.adapters.clock import SystemClock
from broker.adapters.entropy import SystemEntropy
from broker.adapters.state.sqlite import SqliteState
from broker.model.attestation import AttestationState
from broker.model.credential import LeaseState
from broker.model.decision import DecisionKind, Effect
from broker.ports import Transaction
from lockstep.formats import Reason
from tests.contract.state.nouns import attestation, code_set, decision, lease

EACH: Final = 10
"""Leases of one instance."""
BATCH: Final = 100
"""Instances in one transaction."""
LIFE: Final = 6 * 3600.0
"""Seconds that all of it lives on: nothing of it ends while it is measured."""

_GRANT: Final = decision(
    kind=DecisionKind.ISSUE, verdict=Reason.OK, effect=Effect.GRANTED, findings=(), findings_total=0
)


async def fill(path: Path, leases: int) -> None:
    """So many ACTIVE leases of the built-in signer, ten to an instance, each with the decision that granted it."""
    entropy = SystemEntropy()
    state = await SqliteState.open(path, SystemClock(), entropy)
    await state.transact(lambda tx: tx.code.put(code_set("libc", "app")))
    instances = -(-leases // EACH)
    for first in range(0, instances, BATCH):
        now = time.time()

        async def work(tx: Transaction, first: int = first, now: float = now) -> None:
            for number in range(first, min(first + BATCH, instances)):
                one = attestation(number)
                found = replace(
                    one,
                    id=entropy.identifier("A", now),
                    key=replace(one.key, thumbprint=number.to_bytes(32)),
                    state=AttestationState.ALIVE,
                    created_at=now,
                    refreshed_at=now,
                    expires_at=now + LIFE,
                )
                await tx.attestations.add(found)
                for _ in range(min(EACH, leases - number * EACH)):
                    granted = replace(
                        _GRANT, id=entropy.identifier("D", now), at=now, attestation_id=found.id
                    )
                    await tx.decisions.add(granted)
                    await tx.leases.open(
                        replace(
                            lease(number),
                            id=entropy.identifier("L", now),
                            attestation_id=found.id,
                            backend="jwt",
                            state=LeaseState.ACTIVE,
                            decision_id=granted.id,
                            request_id=entropy.token(8).hex(),
                            handle=entropy.identifier("T", now),
                            issued_at=now,
                            expires_at=now + LIFE,
                            max_expires_at=now + LIFE,
                            next_attempt_at=0.0,
                        )
                    )

        await state.transact(work)
    await state.close()
