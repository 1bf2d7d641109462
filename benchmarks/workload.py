"""A workload as the benchmark plays it: the SDK's messages and proofs over grpc.aio, and nothing of its comfort."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc.aio
from google.protobuf.message import Message

from lockstep.formats import NONCE_METADATA, PROOF_METADATA, code_set_digest
from lockstep.v1 import attestation_pb2, credential_pb2, evidence_pb2
from lockstep_client import messages, methods
from lockstep_client.messages import InstanceKey

TIMEOUT = 20.0
EMPTY = code_set_digest(())


def digests(count: int) -> list[bytes]:
    """As many code digests, always the same ones, ascending."""
    return sorted(hashlib.sha256(b"unit %d" % number).digest() for number in range(count))


class Line:
    """One connection, and the rolling nonce that came last."""

    def __init__(self, address: str, ca_file: Path, cluster: str) -> None:
        self._channel = grpc.aio.secure_channel(
            address,
            grpc.ssl_channel_credentials(ca_file.read_bytes()),
            # Channels of one process share a connection unless they are told not to.
            options=[("grpc.use_local_subchannel_pool", 1)],
        )
        self._cluster = cluster
        self._calls: dict[str, Any] = {}
        self.nonce: str | None = None

    async def call(self, path: str, body: bytes, key: InstanceKey | None = None) -> bytes:
        """One call; a proof where there is a key. Raises `grpc.aio.AioRpcError`."""
        call = self._calls.get(path)
        if call is None:
            call = self._calls[path] = self._channel.unary_unary(path)
        metadata: tuple[tuple[str, str], ...] = ()
        if key is not None:
            proof = key.proof(
                method=path, body=body, audience=self._cluster, issued_at=time.time(), nonce=self.nonce
            )
            metadata = ((PROOF_METADATA, proof),)
        answer = call(body, metadata=metadata, timeout=TIMEOUT)
        read: bytes = await answer
        for name, value in await answer.trailing_metadata() or ():
            if name == NONCE_METADATA:
                self.nonce = str(value)
        return read

    def stream(self, path: str, first: bytes, key: InstanceKey) -> Any:
        """A bidirectional stream whose first message is proved and written."""
        proof = key.proof(
            method=path, body=first, audience=self._cluster, issued_at=time.time(), nonce=self.nonce
        )
        return self._channel.stream_stream(path)(metadata=((PROOF_METADATA, proof),))

    async def close(self) -> None:
        """End it."""
        await self._channel.close()


class Workload:
    """One instance: a key, and what it is granted."""

    def __init__(self, line: Line, identity: Callable[[], str], units: list[bytes], role: str) -> None:
        self._line = line
        self._identity = identity
        self._units = units
        self._role = role
        self.key = InstanceKey.generate()
        self.attestation_id = ""
        self.lease_id = ""
        self._code_set = code_set_digest(("python_bytecode", digest) for digest in units)

    async def challenge(self) -> bytes:
        """A nonce."""
        request = messages.challenge(self.key)
        answer = await self._ask(methods.GET_CHALLENGE, request, None)
        nonce: bytes = answer.nonce
        return nonce

    async def attest(self, nonce: bytes) -> attestation_pb2.AttestResponse:
        """With all units."""
        request = messages.attest(
            self.key,
            identity=messages.identity_proof(self._identity()),
            nonce=nonce,
            evidence=[self._sealed(nonce, whole=True)],
            roles=[self._role],
        )
        answer: attestation_pb2.AttestResponse = await self._ask(methods.ATTEST, request, self.key)
        self.attestation_id = answer.attestation_id
        return answer

    async def reattest(self, nonce: bytes) -> None:
        """Nothing was loaded since."""
        request = messages.reattest(
            self.attestation_id,
            identity=messages.identity_proof(self._identity()),
            nonce=nonce,
            evidence=[self._sealed(nonce, whole=False)],
        )
        await self._ask(methods.REATTEST, request, self.key)

    async def issue(self) -> credential_pb2.IssueCredentialResponse:
        """A new lease."""
        request = messages.issue(self.attestation_id, self._role, messages.fresh_id())
        answer: credential_pb2.IssueCredentialResponse = await self._ask(methods.ISSUE, request, self.key)
        self.lease_id = answer.lease.lease_id
        return answer

    async def renew(self) -> None:
        """The last lease, longer."""
        request = credential_pb2.RenewLeaseRequest(attestation_id=self.attestation_id, lease_id=self.lease_id)
        await self._ask(methods.RENEW, request, self.key)

    async def give_back(self) -> None:
        """The last lease, ended."""
        request = credential_pb2.RevokeLeaseRequest(
            attestation_id=self.attestation_id, lease_id=self.lease_id
        )
        await self._ask(methods.REVOKE_LEASE, request, self.key)

    async def _ask(self, method: methods.Method[Any], request: Message, key: InstanceKey | None) -> Any:
        return method.read(await self._line.call(method.path, request.SerializeToString(), key))

    def _sealed(self, nonce: bytes, *, whole: bool) -> evidence_pb2.SealedEvidence:
        statement = evidence_pb2.EvidenceStatement(
            nonce=nonce,
            key_thumbprint=self.key.thumbprint,
            measured_at=time.time(),
            code_set_digest=self._code_set,
            watched_since_exec=True,
            measurer="lockstep benchmarks",
        )
        if whole:
            statement.units.add(kind=evidence_pb2.UNIT_KIND_PYTHON_BYTECODE, digests=self._units)
        else:
            statement.base_digest = self._code_set
        return self.key.seal(statement.SerializeToString(deterministic=True))
