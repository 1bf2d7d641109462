"""Explain: why something was granted, refused or revoked, for those whom it concerns."""

from __future__ import annotations

from dataclasses import replace

from broker.belonging import Belonging, outside
from broker.errors import NotFound
from broker.model.attestation import Attestation
from broker.model.caller import IdentityCaller, OperatorCaller, WorkloadCaller
from broker.model.decision import Decision
from broker.model.evidence import CodeSet, UnitHint
from broker.model.requests import Explanation
from broker.ports import RoleSource, StateStore, Transaction


class Explainer:
    """Answers the identity concerned and operators who may; to all others a decision does not exist. An operator hears
    that one is outside the scope of its right."""

    def __init__(self, *, state: StateStore, roles: RoleSource) -> None:
        self._state = state
        self._roles = roles

    async def explain(
        self,
        caller: WorkloadCaller | OperatorCaller | IdentityCaller,
        wanted_id: str,
        include_code_set: bool,
    ) -> Explanation:
        """The decision; with its code set and its own measurer's names for it where asked. Raises `NotFound`,
        `Denied` (not_entitled).

        `wanted_id` is a decision's, or that of what a decision made: an attestation,
        a lease, its token, a revocation, a report.
        """

        async def work(tx: Transaction) -> Explanation | None:
            decision = await tx.decisions.get(await _decision_of(tx, wanted_id))
            if decision is None:
                return None
            if isinstance(caller, WorkloadCaller):
                attestation = await _own(tx, caller)
                if attestation is None:
                    return None
                if not _is_about(decision, attestation):
                    return _as_one_of_many(decision, attestation)
            elif not _may_see(caller, decision):
                return None
            if isinstance(caller, OperatorCaller):
                belonging = Belonging(tx, self._roles.current(), caller.reach("explain"))
                decision = await belonging.told(decision)
                if decision is None:
                    raise outside()
            own = _own_names(decision)
            digests = [finding.digest for finding in decision.findings if finding.digest]
            packages = await tx.manifests.packages_of_digests(digests) if digests else {}
            code: CodeSet | None = None
            hints: tuple[UnitHint, ...] = ()
            if include_code_set and decision.code_set:
                code = await tx.code.get(decision.code_set)
                # What this decision's own evidence said, then what its identity said of the same set before.
                said = await tx.code.names(decision.code_set, decision.identity)
                hints = tuple({**{hint.digest: hint for hint in said}, **own}.values())
            return Explanation(decision, code, hints, tuple(sorted(set(packages.values()))))

        explanation = await self._state.read(work)
        if explanation is None:
            raise NotFound("no such decision, or it is not yours")
        return explanation


async def _decision_of(tx: Transaction, wanted_id: str) -> str:
    """The decision that made what an id names; the id itself where it names a decision, or nothing."""
    made = {
        "A": tx.attestations.get,
        "L": tx.leases.get,
        "V": tx.revocations.get,
        "R": tx.detections.get,
        "T": tx.leases.by_handle,
    }
    look = made.get(wanted_id.partition("-")[0])
    found = None if look is None else await look(wanted_id)
    if found is None and wanted_id.startswith("V-"):
        proposed = await tx.proposals.get(wanted_id)
        return wanted_id if proposed is None else proposed.decision_id
    return wanted_id if found is None else found.decision_id


def _own_names(decision: Decision) -> dict[bytes, UnitHint]:
    return {
        finding.digest: UnitHint(finding.digest, finding.path, finding.name)
        for finding in decision.findings
        if finding.digest and (finding.path or finding.name)
    }


def _may_see(caller: OperatorCaller | IdentityCaller, decision: Decision) -> bool:
    if isinstance(caller, OperatorCaller):
        return caller.permits("explain")
    return bool(decision.identity) and decision.identity == caller.identity.name


async def _own(tx: Transaction, caller: WorkloadCaller) -> Attestation | None:
    """The caller's attestation, where its key is the one that proves it."""
    found = await tx.attestations.get(caller.attestation_id)
    return found if found is not None and found.key.thumbprint == caller.proof.thumbprint else None


def _is_about(decision: Decision, attestation: Attestation) -> bool:
    """About this instance or its identity, and nobody else."""
    return decision.attestation_id == attestation.id or (
        bool(decision.identity) and decision.identity == attestation.identity.name
    )


def _as_one_of_many(decision: Decision, attestation: Attestation) -> Explanation | None:
    """What a decision that hit several says to one of them: what was seen and done, and nothing of the others, of their
    code, or of who acted. None for somebody whom it did not hit."""
    if attestation.id not in decision.instances:
        return None
    told = replace(decision.part((attestation.id,)), actor="", ticket="")
    return Explanation(told, None, (), ())
