"""FakeIdentity: an identity source that knows what it is told, and can be down."""

from __future__ import annotations

from broker.errors import Denied, Unavailable
from broker.model.identity import IdentityProof, WorkloadIdentity
from lockstep.formats import Reason


class FakeIdentity:
    """Believes the proofs that a test names, until their identity ends."""

    def __init__(self) -> None:
        self._known: dict[IdentityProof, WorkloadIdentity] = {}
        self.down = False

    def know(self, proof: IdentityProof, identity: WorkloadIdentity) -> None:
        """From now on `proof` proves `identity`."""
        self._known[proof] = identity

    def forget(self, proof: IdentityProof) -> None:
        """From now on `proof` proves nothing."""
        self._known.pop(proof, None)

    async def verify(self, proof: IdentityProof, now: float) -> WorkloadIdentity:
        if self.down:
            raise Unavailable(Reason.IDENTITY_UNAVAILABLE, "the identity source does not answer")
        identity = self._known.get(proof)
        if identity is None or now >= identity.not_after:
            raise Denied(Reason.IDENTITY_REJECTED, "the identity proof is refused")
        return identity
