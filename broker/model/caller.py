"""Who stands at a door, after the door has verified it."""

from __future__ import annotations

from dataclasses import dataclass

from broker.model.identity import WorkloadIdentity
from broker.model.reach import EVERYTHING, Reach
from broker.model.role import DetectorPolicy, Operator, ResourceServer


@dataclass(frozen=True, slots=True)
class ProofUse:
    """A verified proof of possession, to be claimed once until `expires_at` (seconds, UTC).

    A mutating verb claims it in the transaction that it writes anyway.
    """

    thumbprint: bytes
    jti: str
    expires_at: float

    @property
    def replay_key(self) -> bytes:
        """What the replay table stores."""
        return self.thumbprint + self.jti.encode("ascii")


@dataclass(frozen=True, slots=True)
class WorkloadCaller:
    """An attested workload: the proof was made by the instance key of the attestation."""

    attestation_id: str
    proof: ProofUse


@dataclass(frozen=True, slots=True)
class OperatorCaller:
    """A verified identity that is one or more configured operators."""

    identity: WorkloadIdentity
    operators: tuple[Operator, ...]

    @property
    def actor(self) -> str:
        """How the audit names it."""
        return f"operator:{self.operators[0].name}:{self.identity.name}"

    def permits(self, right: str) -> bool:
        """True where one of its operators has the right."""
        return any(operator.permits(right) for operator in self.operators)

    def reach(self, right: str) -> Reach:
        """How far a right reaches: as far as all of its operators that have it, together; nowhere without one."""
        having = [operator for operator in self.operators if operator.permits(right)]
        if any(operator.scope is None for operator in having):
            return EVERYTHING
        return Reach(tuple(operator.scope for operator in having if operator.scope is not None))

    def needs(self, right: str) -> int:
        """How many different people a right takes: as many as the strictest of its operators that have it says."""
        return max((item.needs(right) for item in self.operators if item.permits(right)), default=1)


@dataclass(frozen=True, slots=True)
class ResourceServerCaller:
    """Somebody who checks tokens."""

    identity: WorkloadIdentity
    server: ResourceServer


@dataclass(frozen=True, slots=True)
class DetectorCaller:
    """A detector with an identity, on a stream."""

    identity: WorkloadIdentity
    policy: DetectorPolicy


@dataclass(frozen=True, slots=True)
class IdentityCaller:
    """A verified identity that is none of the others: it may ask about itself."""

    identity: WorkloadIdentity


Caller = IdentityCaller | WorkloadCaller | OperatorCaller | ResourceServerCaller | DetectorCaller
