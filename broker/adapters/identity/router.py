"""IdentityRouter: one of the configured identity sources for each proof, chosen by what the proof says of itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from broker.adapters.identity.oidc import OidcIdentity
from broker.adapters.identity.spiffe import SpiffeIdentity
from broker.crypto.jose import JoseError, open_jws
from broker.crypto.x509 import CertificateError, parse_chain, spiffe_id_of
from broker.errors import Denied
from broker.model.identity import IdentityProof, JwtProof, PeerProof, WorkloadIdentity
from lockstep.formats import Reason


class IdentityRouter:
    """An `IdentityVerifier` over all sources. What is unverified only chooses; the source verifies it all.

    A token that two sources could take is refused: which one it is decides what
    its bearer may do.
    """

    def __init__(
        self, tokens: Sequence[OidcIdentity] = (), certificates: Sequence[SpiffeIdentity] = ()
    ) -> None:
        """Raises ``ValueError`` where two sources of certificates have one trust domain."""
        twice = [
            name for name, count in Counter(item.trust_domain for item in certificates).items() if count > 1
        ]
        if twice:
            raise ValueError(f"{twice[0]}: two identity sources have this trust domain")
        self._tokens = tuple(tokens)
        self._certificates = {source.trust_domain: source for source in certificates}

    async def verify(self, proof: IdentityProof, now: float) -> WorkloadIdentity:
        """The identity; raises `Denied` (identity_rejected) or `Unavailable` (identity_unavailable)."""
        try:
            source = self._for_token(proof) if isinstance(proof, JwtProof) else self._for_peer(proof)
        except (JoseError, CertificateError) as error:
            raise Denied(Reason.IDENTITY_REJECTED, f"the identity proof is refused: {error}") from None
        return await source.verify(proof, now)

    def close(self) -> None:
        """Look for keys no more."""
        sources: tuple[OidcIdentity | SpiffeIdentity, ...] = (*self._tokens, *self._certificates.values())
        for source in sources:
            source.close()

    def _for_token(self, proof: JwtProof) -> OidcIdentity:
        claims = open_jws(proof.token).unverified_claims()
        found = [source for source in self._tokens if source.rules.concerns(claims)]
        if not found:
            raise JoseError("no identity source of this issuer and audience")
        if len(found) > 1:
            raise JoseError("more than one identity source could take it")
        return found[0]

    def _for_peer(self, proof: PeerProof) -> SpiffeIdentity:
        leaf, _ = parse_chain(proof.leaf, proof.chain)
        source = self._certificates.get(spiffe_id_of(leaf).trust_domain)
        if source is None:
            raise CertificateError("no identity source of this trust domain")
        return source
