"""Seals receipts of revocations in DSSE, with a key that signs nothing else."""

from __future__ import annotations

from broker.crypto.dsse import DsseSealer
from broker.crypto.keyfiles import PrivateKey
from lockstep.formats import RECEIPT_PAYLOAD_TYPE


class ReceiptSealer:
    """The receipt key (`broker.ports.ReceiptSigner`); `keyid` names it to whoever verifies."""

    def __init__(self, private_key: PrivateKey) -> None:
        self._sealer = DsseSealer(private_key)

    def __repr__(self) -> str:
        return f"ReceiptSealer(keyid={self.keyid!r})"

    @property
    def keyid(self) -> str:
        """SHA-256, hexadecimal, of the key's DER SubjectPublicKeyInfo."""
        return self._sealer.keyid

    def seal(self, payload: bytes) -> bytes:
        """The envelope, JSON, of payload type ``application/vnd.lockstep.receipt.v1+json``."""
        return self._sealer.seal(payload, RECEIPT_PAYLOAD_TYPE)
