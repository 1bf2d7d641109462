"""Proofs of possession at the door: whose key, checked over the bytes as received, used once."""

from __future__ import annotations

import heapq
from collections import OrderedDict

from broker.crypto.proof import RollingNonce, parse_instance_key, verify_proof
from broker.errors import Denied, InvalidRequest, LimitExceeded, Unauthenticated
from broker.model.attestation import Attestation
from broker.model.caller import ProofUse
from broker.model.evidence import InstanceKey
from broker.ports import StateStore, Transaction
from lockstep.formats import Reason


class KnownKeys:
    """Instance keys by attestation, read once: a key never changes under one id. Bounded."""

    def __init__(self, store: StateStore, size: int) -> None:
        self._store = store
        self._size = size
        self._known: OrderedDict[str, InstanceKey] = OrderedDict()

    async def key_of(self, attestation_id: str) -> InstanceKey:
        """Raises `Denied` (attestation_expired) for an attestation that this broker does not know."""
        key = self._known.get(attestation_id)
        if key is not None:
            self._known.move_to_end(attestation_id)
            return key

        async def find(tx: Transaction) -> Attestation | None:
            return await tx.attestations.get(attestation_id)

        found = await self._store.read(find)
        if found is None:
            raise Denied(Reason.ATTESTATION_EXPIRED, "no such attestation here: attest anew")
        self._known[attestation_id] = found.key
        if len(self._known) > self._size:
            self._known.popitem(last=False)
        return found.key


class UsedProofs:
    """Proofs of reads that were used already, in memory until each expires. Full is a refusal, never a gap."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._used: set[bytes] = set()
        self._ends: list[tuple[float, bytes]] = []

    def claim(self, use: ProofUse, now: float) -> None:
        """Raises `Unauthenticated` for a second use and `LimitExceeded` when the table is full."""
        while self._ends and self._ends[0][0] <= now:
            self._used.discard(heapq.heappop(self._ends)[1])
        if use.replay_key in self._used:
            raise Unauthenticated(Reason.PROOF_REJECTED, "this proof was used before")
        if len(self._used) >= self._size:
            raise LimitExceeded("too many proofs are remembered right now", retry_after=1.0)
        self._used.add(use.replay_key)
        heapq.heappush(self._ends, (use.expires_at, use.replay_key))


class Possession:
    """Steps of a proof of possession, in their order."""

    def __init__(self, cluster: str, nonces: RollingNonce, keys: KnownKeys, used: UsedProofs) -> None:
        """`cluster` is the audience of every proof."""
        self._cluster = cluster
        self._nonces = nonces
        self._keys = keys
        self._used = used

    def nonce(self, now: float) -> str:
        """The rolling nonce, for the trailer of every answer."""
        return self._nonces.current(now)

    async def by_attestation(
        self, token: str, attestation_id: str, method: str, body: bytes, now: float, *, claim: bool
    ) -> ProofUse:
        """The proof of an attested workload; `claim` where the verb does not claim it itself."""
        use = self._verify(token, await self._keys.key_of(attestation_id), method, body, now)
        if claim:
            self._used.claim(use, now)
        return use

    def by_message(self, token: str, spki: bytes, method: str, body: bytes, now: float) -> ProofUse:
        """The proof by the key that the message itself names; the verb claims it."""
        try:
            key = parse_instance_key(spki)
        except ValueError:
            raise InvalidRequest("instance_key.spki: neither P-256 nor Ed25519 in DER") from None
        return self._verify(token, key, method, body, now)

    def _verify(self, token: str, key: InstanceKey, method: str, body: bytes, now: float) -> ProofUse:
        return verify_proof(
            token,
            key=key,
            method=method,
            body=body,
            audience=self._cluster,
            nonces=self._nonces,
            now=now,
        )
