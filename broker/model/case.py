"""One case before the Verifier: everything an appraisal rests on, and the pure rules that judge it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from broker.errors import Denied
from broker.model.appraisal import Appraisal, Status
from broker.model.attestation import ApplicationResult, Attestation
from broker.model.evidence import Assurance, CodeSet, Evidence, InstanceKey, ProcessRef, UnitHint
from broker.model.identity import WorkloadIdentity
from broker.model.manifest import ReferenceValues
from broker.model.requests import RoleVerdict
from broker.model.revocation import Selector, SelectorKind, place_keys, process_value
from broker.model.role import Mode, Role
from lockstep.formats import Reason


@dataclass(frozen=True, slots=True)
class Case:
    """Everything that one appraisal rests on."""

    identity: WorkloadIdentity
    key: InstanceKey
    evidence: tuple[Evidence, ...]
    code: CodeSet
    assurance: Assurance
    process: ProcessRef
    roles: tuple[Role, ...]
    as_of: int
    now: float


def make_case(
    identity: WorkloadIdentity,
    key: InstanceKey,
    evidence: tuple[Evidence, ...],
    code: CodeSet,
    roles: tuple[Role, ...],
    as_of: int,
    now: float,
) -> Case:
    strongest = max(evidence, key=lambda item: item.level)
    return Case(identity, key, evidence, code, strongest.level, strongest.process, roles, as_of, now)


def grown(base: CodeSet, evidence: Sequence[Evidence]) -> CodeSet:
    """The recorded set with what was added; each item must say what it was added to."""
    code = base
    for item in evidence:
        if item.base_digest:
            if item.base_digest != base.digest:
                raise Denied(Reason.EVIDENCE_REJECTED, "the evidence adds to another code set than ours")
            if base.grow(item.units).digest != item.code_set_digest:
                raise Denied(Reason.EVIDENCE_REJECTED, "the evidence's digest is not that of its code set")
        code = code.grow(item.units)
    return code


def binding_conflict(identity: WorkloadIdentity, process: ProcessRef) -> str:
    claims = identity.instance
    for name, claimed, stated in (
        ("pod", claims.pod_uid, process.pod_uid),
        ("node", claims.node, process.node),
        ("container", claims.container_id, process.container_id),
    ):
        if claimed and stated and claimed != stated:
            return name
    return ""


def moved(before: WorkloadIdentity, now: WorkloadIdentity) -> str:
    """What differs where a proof is of another identity, or of another instance of it; empty where nothing does."""
    if (before.provider, before.name) != (now.provider, now.name):
        return "identity"
    for name, was, claimed in (
        ("pod", before.instance.pod_uid, now.instance.pod_uid),
        ("node", before.instance.node, now.instance.node),
        ("container", before.instance.container_id, now.instance.container_id),
    ):
        # What was once proved may not be left out later either.
        if was and was != claimed:
            return name
    return ""


def other_process(before: ProcessRef, now: ProcessRef) -> bool:
    """True where two exact processes differ: an instance key does not move to another."""
    return before.exact() and now.exact() and process_value(before) != process_value(now)


def bearer_keys(case: Case) -> tuple[Selector, ...]:
    claims = case.identity.instance
    process = case.process
    where = ProcessRef(
        node=claims.node or process.node,
        boot_id=process.boot_id,
        pid=process.pid,
        start_ticks=process.start_ticks,
        container_id=claims.container_id or process.container_id,
        pod_uid=claims.pod_uid or process.pod_uid,
    )
    return (
        Selector(SelectorKind.IDENTITY, case.identity.name),
        Selector(SelectorKind.KEY, case.key.thumbprint.hex()),
        *place_keys(where),
    )


def verdict_of(role: Role, case: Case, appraisal: Appraisal) -> Reason:
    if role.ttl_at(case.assurance) is None:
        return Reason.ASSURANCE_TOO_LOW
    if appraisal.status is Status.AFFIRMING:
        return Reason.OK
    return Reason.NO_MANIFEST if appraisal.reference is None else Reason.APPRAISAL_FAILED


def refusal_text(verdict: RoleVerdict) -> str:
    texts = {
        Reason.APPRAISAL_FAILED: f"{verdict.findings} units are not approved for role {verdict.role!r}",
        Reason.NO_MANIFEST: f"no manifest is in force for role {verdict.role!r}",
        Reason.ASSURANCE_TOO_LOW: f"role {verdict.role!r} needs stronger evidence",
    }
    return texts.get(verdict.reason, f"refused for role {verdict.role!r}")


def result_of(application: str, appraisal: Appraisal) -> ApplicationResult:
    digests = appraisal.reference.digests if appraisal.reference else ()
    return ApplicationResult(application, appraisal.status, digests, len(appraisal.findings))


def fell_in_enforce(
    roles: Sequence[Role], verdicts: Sequence[RoleVerdict], previous: Attestation
) -> RoleVerdict | None:
    """The enforcing role that admitted this instance before and whose code check fails now."""
    by_name = {role.name: role for role in roles}
    for verdict in verdicts:
        role = by_name[verdict.role]
        before = previous.result_for(role.manifests)
        admitted = before is not None and before.status is Status.AFFIRMING
        if role.mode is Mode.ENFORCE and admitted and verdict.reason is Reason.APPRAISAL_FAILED:
            return verdict
    return None


def manifest_keys(reference: ReferenceValues) -> tuple[Selector, ...]:
    return tuple(Selector(SelectorKind.MANIFEST, digest.hex()) for digest in reference.digests)


def failing_hints(appraisals: Iterable[Appraisal]) -> tuple[UnitHint, ...]:
    found: dict[bytes, UnitHint] = {}
    for appraisal in appraisals:
        for finding in appraisal.findings:
            if finding.digest and (finding.path or finding.name):
                found.setdefault(finding.digest, UnitHint(finding.digest, finding.path, finding.name))
    return tuple(found.values())


def unmeasured_names(evidence: Sequence[Evidence]) -> tuple[str, ...]:
    names = {code.name for item in evidence for code in item.unknown}
    return tuple(sorted(names))[:100]
