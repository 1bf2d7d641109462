"""Who stands at the door: a row's permitted callers, tried in one fixed order, default deny."""

from __future__ import annotations

from dataclasses import dataclass

from broker.api.access import Row, Who
from broker.api.arrival import Arrival
from broker.api.proofs import Possession
from broker.errors import Denied, InvalidRequest, LimitExceeded, Unauthenticated
from broker.model.caller import (
    Caller,
    DetectorCaller,
    IdentityCaller,
    OperatorCaller,
    ProofUse,
    ResourceServerCaller,
    WorkloadCaller,
)
from broker.model.identity import IdentityProof, WorkloadIdentity
from broker.model.role import Operator, RoleBook
from broker.ports import IdentityVerifier, RateLimiter, RoleSource
from lockstep.formats import Reason

_MAX_ID = 128
_IDENTIFIED = frozenset({Who.OPERATOR, Who.RESOURCE_SERVER, Who.DETECTOR, Who.IDENTITY})


@dataclass(frozen=True, slots=True)
class Named:
    """What a message says of its sender: an attestation, or the instance key itself (DER SPKI)."""

    attestation_id: str = ""
    spki: bytes = b""


@dataclass(frozen=True, slots=True)
class Admitted:
    """A verified caller; `proof` where one was made; `caller` None on public calls and at `Attest`."""

    caller: Caller | None
    proof: ProofUse | None = None


class DoorRates:
    """Token buckets at the door, by scope.

    ``address`` counts every arrival before anything is parsed, ``attest`` those
    with evidence besides, ``identity`` every call of a caller that is known.
    """

    def __init__(self, limiter: RateLimiter) -> None:
        self._limiter = limiter

    def arrival(self, address: str, now: float, *, costly: bool) -> None:
        """Raises `LimitExceeded`."""
        self._take("address", address, now)
        if costly:
            self._take("attest", address, now)

    def identity(self, name: str, now: float) -> None:
        """Raises `LimitExceeded`."""
        self._take("identity", name, now)

    def _take(self, scope: str, key: str, now: float) -> None:
        wait = self._limiter.allow(scope, key, now)
        if wait > 0:
            raise LimitExceeded("too many calls: slow down", retry_after=wait)


class Threshold:
    """Turns an arrival into a caller that the row admits, or raises."""

    def __init__(
        self,
        possession: Possession,
        identities: IdentityVerifier,
        book: RoleSource,
        rates: DoorRates,
    ) -> None:
        self._possession = possession
        self._identities = identities
        self._book = book
        self._rates = rates

    def nonce(self, now: float) -> str:
        """The rolling nonce, for the trailer of every answer."""
        return self._possession.nonce(now)

    def count(self, row: Row, address: str, now: float) -> None:
        """Count an arrival; raises `LimitExceeded`."""
        self._rates.arrival(address, now, costly=row.costly)

    async def admit(self, row: Row, arrival: Arrival, named: Named, body: bytes, now: float) -> Admitted:
        """Raises `Unauthenticated`, `Denied`, `LimitExceeded`, `Unavailable`.

        1. A proof of possession speaks for a workload, and for nobody else.
        2. A bearer token speaks before the connection's certificate: whoever sends one means it.
        3. A verified identity is a caller only by the role book, and only as what the row admits.
        """
        if row.admits(Who.PUBLIC) or row.admits(Who.SIGNED):
            return Admitted(None)
        if arrival.proof:
            return await self._workload(row, arrival, named, body, now)
        if not row.callers & _IDENTIFIED:
            raise Unauthenticated(Reason.PROOF_REJECTED, "a proof of possession is needed")
        proof: IdentityProof | None = arrival.bearer or arrival.peer
        if proof is None:
            raise Unauthenticated(Reason.NO_IDENTITY, "no identity was offered")
        identity = await self._identities.verify(proof, now)
        self._rates.identity(identity.name, now)
        return Admitted(caller_by(self._book.current(), row, identity))

    async def _workload(self, row: Row, arrival: Arrival, named: Named, body: bytes, now: float) -> Admitted:
        if row.admits(Who.KEY_HOLDER):
            use = self._possession.by_message(arrival.proof, named.spki, arrival.method, body, now)
            return Admitted(None, use)
        if not row.admits(Who.WORKLOAD):
            raise Unauthenticated(Reason.NO_IDENTITY, "this call is not for workloads")
        if not 0 < len(named.attestation_id) <= _MAX_ID:
            raise InvalidRequest("attestation_id: missing or too long")
        use = await self._possession.by_attestation(
            arrival.proof, named.attestation_id, arrival.method, body, now, claim=not row.mutates
        )
        self._rates.identity(named.attestation_id, now)
        return Admitted(WorkloadCaller(named.attestation_id, use), use)


def caller_by(book: RoleBook, row: Row, identity: WorkloadIdentity) -> Caller:
    """What a verified identity is to a row; raises `Denied` (not_entitled) where it is nothing."""
    if row.admits(Who.OPERATOR):
        operators = book.operator_for(identity)
        if operators and any(_permits(operator, row.right) for operator in operators):
            return OperatorCaller(identity, operators)
    if row.admits(Who.RESOURCE_SERVER):
        server = book.resource_server_for(identity)
        if server is not None:
            return ResourceServerCaller(identity, server)
    if row.admits(Who.DETECTOR):
        detector = book.detector_for(identity)
        if detector is not None:
            return DetectorCaller(identity, detector)
    if row.admits(Who.IDENTITY):
        return IdentityCaller(identity)
    raise Denied(Reason.NOT_ENTITLED, "this identity may not make this call")


def _permits(operator: Operator, right: str) -> bool:
    if right.endswith(":"):
        return any(owned.startswith(right) for owned in operator.may)
    return operator.permits(right)
