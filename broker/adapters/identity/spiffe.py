"""SpiffeIdentity: the client certificate of a connection as an X.509-SVID of one trust domain, judged on every call."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass

from broker.adapters.identity.recent import Recent
from broker.adapters.identity.watched import Warn, WatchedFile, no_warning
from broker.crypto.x509 import (
    MAX_BUNDLE,
    CertificateError,
    TrustBundle,
    VerifiedSvid,
    parse_bundle,
    parse_chain,
    verify_svid,
)
from broker.errors import Denied
from broker.model.identity import IdentityProof, PeerProof, WorkloadIdentity
from lockstep.formats import Reason


@dataclass(frozen=True, slots=True)
class _Seen:
    """A chain that was verified against one content of the bundle."""

    svid: VerifiedSvid
    identity: WorkloadIdentity
    bundle: TrustBundle


class SpiffeIdentity:
    """An `IdentityVerifier` for one trust domain. Raises `Denied` (identity_rejected) and `Unavailable`
    (identity_unavailable: the trust bundle cannot be read).

    The TLS layer's own check is not enough: it trusts the union of all bundles
    and accepts a certificate that ended since, on a resumed session. A chain
    that was verified is remembered for as long as the bundle file is the same;
    its times are compared on every call.
    """

    def __init__(
        self,
        name: str,
        trust_domain: str,
        bundle: str | os.PathLike[str],
        *,
        stale: float = 300.0,
        warn: Warn = no_warning,
    ) -> None:
        """`name` is the configured name of the source; `stale` (seconds) as for `WatchedFile`.

        Raises ``ValueError`` where the bundle cannot be read.
        """
        self._name = name
        self._domain = trust_domain
        self._bundle = WatchedFile(bundle, parse_bundle, limit=MAX_BUNDLE, stale=stale, warn=warn)
        self._seen: Recent[_Seen] = Recent()

    @property
    def trust_domain(self) -> str:
        """The domain whose SPIFFE IDs this source verifies."""
        return self._domain

    def close(self) -> None:
        """Nothing is open: as every identity source, it can be closed."""

    async def verify(self, proof: IdentityProof, now: float) -> WorkloadIdentity:
        """The identity that a certificate proves at `now`."""
        if not isinstance(proof, PeerProof):
            raise Denied(Reason.IDENTITY_REJECTED, "this identity source takes certificates, not tokens")
        bundle = self._bundle.current(now)
        name = _digest(proof)
        seen = self._seen.get(name)
        if seen is None or seen.bundle is not bundle:
            seen = self._judge(proof, bundle, now)
            self._seen.put(name, seen)
        if not seen.svid.not_before <= now < seen.svid.not_after:
            raise Denied(Reason.IDENTITY_REJECTED, "the certificate is refused: it is not valid now")
        return seen.identity

    def _judge(self, proof: PeerProof, bundle: TrustBundle, now: float) -> _Seen:
        try:
            leaf, intermediates = parse_chain(proof.leaf, proof.chain)
            svid = verify_svid(leaf, intermediates, bundle, self._domain, now)
        except CertificateError as error:
            raise Denied(Reason.IDENTITY_REJECTED, f"the certificate is refused: {error}") from None
        identity = WorkloadIdentity(self._name, None, str(svid.spiffe_id), svid.not_after)
        return _Seen(svid, identity, bundle)


def _digest(proof: PeerProof) -> bytes:
    digest = hashlib.sha256()
    for part in (proof.leaf, *proof.chain):
        # With its length, so that no two ways to cut the same bytes are one chain.
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.digest()
