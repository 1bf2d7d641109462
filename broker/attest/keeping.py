"""Code sets on their way into the state: whole where one is only judged, found by every unit where it is attested."""

from __future__ import annotations

from typing import Final

from broker.attest.judge import Judgement
from broker.errors import Unavailable
from broker.model.attestation import Attestation
from broker.model.case import Case
from broker.model.evidence import CodeSet
from broker.ports import StateStore, Transaction
from lockstep.formats import Reason

SLICE: Final = 500
"""Units that are indexed in one transaction: a denial that comes meanwhile waits for that many and no more."""


async def spread(state: StateStore, code: CodeSet) -> None:
    """Index a large set slice by slice, before the transaction that needs it. Raises `Unavailable`."""
    if len(code.units) <= SLICE or await state.read(lambda tx: tx.code.indexed(code.digest)):
        return
    while not await state.transact(lambda tx: tx.code.index(code, SLICE)):
        continue


async def keep(
    tx: Transaction, case: Case, judgement: Judgement, previous: Attestation | None = None
) -> None:
    """The set of an attestation, which a digest must find from now on; what its identity calls its units."""
    if not await tx.code.index(case.code, SLICE):
        raise Unavailable(Reason.STATE_UNAVAILABLE, "its code set is not in the state yet", retry_after=0.5)
    await _name(tx, case, judgement, previous)


async def note(
    tx: Transaction, case: Case, judgement: Judgement, previous: Attestation | None = None
) -> None:
    """A set that was judged and got nothing: enough to explain why, and to approve it."""
    await tx.code.put(case.code)
    await _name(tx, case, judgement, previous)


async def _name(tx: Transaction, case: Case, judgement: Judgement, previous: Attestation | None) -> None:
    if not judgement.failing:
        return
    identity = case.identity.name
    # A delta names only what it adds.
    known = await tx.code.names(previous.code_set, identity) if previous is not None else ()
    await tx.code.put_names(case.code.digest, identity, (*known, *judgement.failing))
