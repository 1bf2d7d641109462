"""AttestationService: challenge, attest, reattest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from broker.api.arrival import Call
from broker.api.callers import Named
from broker.api.convert import attestations as convert
from broker.api.convert.scalars import to_duration
from broker.api.routes import Route, Unary, by_attestation
from broker.errors import InvalidRequest, Unauthenticated
from broker.model.caller import ProofUse, WorkloadCaller
from broker.model.requests import AttestAnswer, AttestOrder, ReattestOrder
from lockstep.formats import Reason
from lockstep.v1 import attestation_pb2 as pb

_SERVICE = "/lockstep.v1.AttestationService/"
_MAX_KEY = 512


class Verifier(Protocol):
    """What this room needs of `broker.attest.Verifier`."""

    def challenge(self, spki: bytes) -> tuple[bytes, float]: ...
    async def attest(self, order: AttestOrder, proof: ProofUse) -> AttestAnswer: ...
    async def reattest(self, order: ReattestOrder, proof: ProofUse) -> AttestAnswer: ...


class AttestationRoom:
    """One verb a method; nothing is decided here."""

    def __init__(self, verifier: Verifier) -> None:
        self._verifier = verifier

    def routes(self) -> Mapping[str, Route]:
        """Full method to route."""
        return {
            _SERVICE + "GetChallenge": Unary(pb.GetChallengeRequest, self.challenge),
            _SERVICE + "Attest": Unary(pb.AttestRequest, self.attest, _by_key),
            _SERVICE + "Reattest": Unary(pb.ReattestRequest, self.reattest, by_attestation),
        }

    async def challenge(self, request: pb.GetChallengeRequest, call: Call[None]) -> pb.GetChallengeResponse:
        """A nonce for a key; nothing is stored."""
        spki = request.instance_key.spki
        if not 0 < len(spki) <= _MAX_KEY:
            raise InvalidRequest("instance_key.spki: missing or too long")
        nonce, lifetime = self._verifier.challenge(spki)
        return pb.GetChallengeResponse(nonce=nonce, expires_in=to_duration(lifetime))

    async def attest(self, request: pb.AttestRequest, call: Call[None]) -> pb.AttestResponse:
        """Identity and evidence for a new attestation."""
        if call.proof is None:
            raise Unauthenticated(Reason.PROOF_REJECTED, "a proof of possession is needed")
        answer = await self._verifier.attest(convert.attest_order(request, call.peer), call.proof)
        return convert.attest_response(answer)

    async def reattest(self, request: pb.ReattestRequest, call: Call[WorkloadCaller]) -> pb.ReattestResponse:
        """Fresh evidence for a living attestation."""
        order = convert.reattest_order(request, call.peer)
        return convert.reattest_response(await self._verifier.reattest(order, call.caller.proof))


def _by_key(request: pb.AttestRequest) -> Named:
    return Named(spki=request.instance_key.spki)
