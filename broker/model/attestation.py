"""The attestation result that the broker keeps: who, with what code, as of when."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, replace

from broker.model.appraisal import Status
from broker.model.evidence import Assurance, InstanceKey, ProcessRef
from broker.model.identity import InstanceClaims, WorkloadIdentity


class AttestationState(enum.StrEnum):
    """ALIVE → REVOKED | EXPIRED | LAPSED; REVOKED is terminal."""

    ALIVE = "alive"
    REVOKED = "revoked"
    EXPIRED = "expired"
    LAPSED = "lapsed"


@dataclass(frozen=True, slots=True)
class ApplicationResult:
    """How the code set fared against one application's reference values.

    `manifests` are the digests of the alternative that was matched (or came
    nearest) with its layers; empty where none is in force.
    """

    application: str
    status: Status
    manifests: tuple[bytes, ...]
    findings: int


@dataclass(frozen=True, slots=True)
class Attestation:
    """One attested workload instance. All times are seconds since the epoch, UTC.

    `as_of` is the sequence of the revocation log that the last appraisal saw;
    `refreshed_at` the time of the last evidence; `place` what a match may use:
    facts of the verified identity, or of a sensor above level self.
    """

    id: str
    identity: WorkloadIdentity
    key: InstanceKey
    assurance: Assurance
    process: ProcessRef
    results: tuple[ApplicationResult, ...]
    code_set: bytes
    state: AttestationState
    created_at: float
    refreshed_at: float
    expires_at: float
    as_of: int
    decision_id: str
    unmeasured: tuple[str, ...] = ()

    @property
    def place(self) -> ProcessRef:
        """Where it runs, as far as somebody other than the workload says so: a sensor, or the verified identity."""
        claims: InstanceClaims = self.identity.instance
        if self.assurance <= Assurance.SELF:
            return ProcessRef(node=claims.node, container_id=claims.container_id, pod_uid=claims.pod_uid)
        seen = self.process
        return replace(
            seen,
            node=seen.node or claims.node,
            container_id=seen.container_id or claims.container_id,
            pod_uid=seen.pod_uid or claims.pod_uid,
        )

    @property
    def whereabouts(self) -> ProcessRef:
        """`place`, filled in with what the workload says of itself: may be used against it, never for it.

        It may find an attestation and may not excuse one: a lie brings a denial upon the liar, or is of no use.
        """
        place, stated = self.place, self.process
        return ProcessRef(
            node=place.node or stated.node,
            boot_id=place.boot_id or stated.boot_id,
            pid=place.pid or stated.pid,
            start_ticks=place.start_ticks or stated.start_ticks,
            exec_seq=place.exec_seq or stated.exec_seq,
            container_id=place.container_id or stated.container_id,
            pod_uid=place.pod_uid or stated.pod_uid,
        )

    def result_for(self, applications: Iterable[str]) -> ApplicationResult | None:
        """The best result among some applications."""
        wanted = set(applications)
        fitting = [result for result in self.results if result.application in wanted]
        return min(fitting, key=lambda result: (result.status, result.findings), default=None)

    def manifest_digests(self) -> frozenset[bytes]:
        """Digests of every manifest and layer that an affirming result rests on."""
        return frozenset(
            digest
            for result in self.results
            if result.status is Status.AFFIRMING
            for digest in result.manifests
        )
