"""The wire itself: raw calls over TLS, and a workload whose every byte the test chooses."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from broker.crypto.dsse import DsseSealer
from broker.crypto.keyfiles import load_private_key
from lockstep.formats import (
    AUTHORIZATION_METADATA,
    MANIFEST_PAYLOAD_TYPE,
    NONCE_METADATA,
    PROOF_METADATA,
    code_set_digest,
)
from lockstep.v1 import attestation_pb2, credential_pb2, evidence_pb2, identity_pb2, manifest_pb2
from lockstep_client.messages import InstanceKey, fresh_id
from tests.support import canaries
from tests.support.brokers import CLUSTER, Broker
from tests.support.manifests import payload, unit

DAY = 86_400.0
ATTEST = "/lockstep.v1.AttestationService/Attest"
REATTEST = "/lockstep.v1.AttestationService/Reattest"
ISSUE = "/lockstep.v1.CredentialService/IssueCredential"
RENEW = "/lockstep.v1.CredentialService/RenewLease"
PUBLISH = "/lockstep.v1.ManifestService/PublishManifest"


class Refused(Exception):
    """A call that failed, as the wire says it; `reason` in lower case, empty where the broker gave none."""

    def __init__(self, code: grpc.StatusCode, text: str, reason: str, facts: Mapping[str, str]) -> None:
        super().__init__(f"{code.name} {reason}: {text}")
        self.code = code
        self.text = text
        self.reason = reason
        self.decision = facts.get("decision", "")
        self.count = int(facts.get("count", "0"))


class Wire:
    """One connection. `certificate` and `key` are files of a client certificate."""

    def __init__(
        self, address: str, ca: Path, certificate: Path | None = None, key: Path | None = None
    ) -> None:
        credentials = grpc.ssl_channel_credentials(
            root_certificates=ca.read_bytes(),
            private_key=key.read_bytes() if key else None,
            certificate_chain=certificate.read_bytes() if certificate else None,
        )
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)]
        self.channel = grpc.secure_channel(address, credentials, options=options)
        self.nonce = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.channel.close()

    def call(
        self,
        path: str,
        body: Message | bytes,
        answer: type[Any],
        metadata: Iterable[tuple[str, str]] = (),
        timeout: float = 15.0,
    ) -> Any:
        """One call of one message; raises `Refused`."""
        raw = body if isinstance(body, bytes) else body.SerializeToString()
        ask = self.channel.unary_unary(path, request_serializer=None, response_deserializer=answer.FromString)
        try:
            found, outcome = ask.with_call(raw, metadata=tuple(metadata), timeout=timeout)
        except grpc.RpcError as error:
            self._learn(error.trailing_metadata())  # type: ignore[attr-defined]
            raise refusal(error) from None
        self._learn(outcome.initial_metadata())
        self._learn(outcome.trailing_metadata())
        return found

    def _learn(self, metadata: Iterable[tuple[str, str | bytes]] | None) -> None:
        for name, value in metadata or ():
            if name == NONCE_METADATA:
                self.nonce = str(value)

    def as_bearer(self, token: str, path: str, body: Message | bytes, answer: type[Any]) -> Any:
        """A call of somebody with an identity token."""
        return self.call(path, body, answer, [(AUTHORIZATION_METADATA, f"Bearer {token}")])


def refusal(error: grpc.RpcError) -> Refused:
    """What an error of gRPC says."""
    outcome: Any = error
    raw = dict(outcome.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
    info = error_details_pb2.ErrorInfo()
    for item in status_pb2.Status.FromString(raw).details:
        item.Unpack(info)
    return Refused(outcome.code(), outcome.details() or "", info.reason.lower(), dict(info.metadata))


class Workload:
    """An instance as the broker sees it. `identity` is a token, or None for the connection's certificate."""

    def __init__(self, wire: Wire, identity: Callable[[], str] | str | None) -> None:
        self.wire = wire
        self.key = InstanceKey.generate()
        self._identity = identity
        self.attestation_id = ""
        self.code: frozenset[str] = frozenset()

    def proof(self, path: str, body: bytes, nonce: str | None = None) -> tuple[str, str]:
        """Metadata with a proof of possession."""
        proof = self.key.proof(
            method=path,
            body=body,
            audience=CLUSTER,
            issued_at=time.time(),
            nonce=self.wire.nonce if nonce is None else nonce,
        )
        return PROOF_METADATA, proof

    def call(self, path: str, body: Message | bytes, answer: type[Any]) -> Any:
        """One proven call."""
        raw = body if isinstance(body, bytes) else body.SerializeToString()
        if not self.wire.nonce:
            self.challenge()  # its answer carries the first rolling nonce
        return self.wire.call(path, raw, answer, [self.proof(path, raw)])

    def identity(self) -> identity_pb2.IdentityProof:
        """As configured."""
        if self._identity is None:
            return identity_pb2.IdentityProof(peer_certificate=identity_pb2.PeerCertificate())
        token = self._identity if isinstance(self._identity, str) else self._identity()
        return identity_pb2.IdentityProof(jwt=token)

    def challenge(self) -> bytes:
        """A nonce for the key."""
        request = attestation_pb2.GetChallengeRequest(instance_key=self.key.message())
        answer = self.wire.call(
            "/lockstep.v1.AttestationService/GetChallenge", request, attestation_pb2.GetChallengeResponse
        )
        return bytes(answer.nonce)

    def statement(self, nonce: bytes, code: Iterable[str], **changes: Any) -> evidence_pb2.EvidenceStatement:
        """Evidence that says it runs units of Python source by these texts."""
        digests = sorted(unit(text).digest for text in code)
        return evidence_pb2.EvidenceStatement(
            **{
                "nonce": nonce,
                "key_thumbprint": self.key.thumbprint,
                "measured_at": time.time(),
                "units": [evidence_pb2.UnitSet(kind=evidence_pb2.UNIT_KIND_PYTHON_SOURCE, digests=digests)],
                "code_set_digest": code_set_digest(("python_source", item) for item in digests),
                "measurer": "test",
                **changes,
            }
        )

    def order(self, code: Iterable[str], *roles: str, **changes: Any) -> attestation_pb2.AttestRequest:
        """A request to attest with a fresh challenge; `changes` are of the request."""
        nonce = self.challenge()
        sealed = self.key.seal(self.statement(nonce, code).SerializeToString())
        return attestation_pb2.AttestRequest(
            **{
                "identity_proof": self.identity(),
                "instance_key": self.key.message(),
                "nonce": nonce,
                "evidence": [sealed],
                "roles": roles,
                **changes,
            }
        )

    def attest(self, *code: str, roles: Sequence[str] = ()) -> attestation_pb2.AttestResponse:
        """Attest; raises `Refused`."""
        answer = self.call(ATTEST, self.order(code, *roles), attestation_pb2.AttestResponse)
        self.attestation_id = answer.attestation_id
        self.code = frozenset(code)
        return answer  # type: ignore[no-any-return]

    def reattest(self, *more: str) -> attestation_pb2.ReattestResponse:
        """Fresh evidence, with `more` units than before; raises `Refused`."""
        nonce = self.challenge()
        statement = self.statement(nonce, [*self.code, *more])
        request = attestation_pb2.ReattestRequest(
            attestation_id=self.attestation_id,
            identity_proof=self.identity(),
            nonce=nonce,
            evidence=[self.key.seal(statement.SerializeToString())],
        )
        answer = self.call(REATTEST, request, attestation_pb2.ReattestResponse)
        self.code |= set(more)
        return answer  # type: ignore[no-any-return]

    def issue(self, role: str) -> credential_pb2.IssueCredentialResponse:
        """A credential; raises `Refused`."""
        request = credential_pb2.IssueCredentialRequest(
            attestation_id=self.attestation_id, role=role, request_id=fresh_id()
        )
        return _kept(self.call(ISSUE, request, credential_pb2.IssueCredentialResponse))

    def renew(self, lease_id: str) -> credential_pb2.RenewLeaseResponse:
        """The lease, longer; raises `Refused`."""
        request = credential_pb2.RenewLeaseRequest(attestation_id=self.attestation_id, lease_id=lease_id)
        return _kept(self.call(RENEW, request, credential_pb2.RenewLeaseResponse))


def _kept(answer: Any) -> Any:
    """The answer, whose secret nothing else may show from now on."""
    secret = answer.credential
    if secret.token:
        canaries.keep_token(secret.token, f"the token of {answer.lease.role}")
    for name, value in secret.fields.values.items():
        if name != "username":
            canaries.keep(value, f"the {name} of {answer.lease.role}")
    return answer


def envelope(broker: Broker, *code: str, key_file: str = "signer.key", **predicate: Any) -> bytes:
    """A manifest that approves units by text, signed with a key of the folder."""
    window = {"not_before": time.time() - DAY, "not_after": time.time() + 30 * DAY}
    content = payload([unit(text) for text in code], **{"application": "app", **window, **predicate})
    key = load_private_key(broker.folder / key_file)
    return DsseSealer(key).seal(content, MANIFEST_PAYLOAD_TYPE)


def publish(broker: Broker, sealed: bytes) -> manifest_pb2.PublishManifestResponse:
    """As the folder's operator; raises `Refused`."""
    with Wire(broker.address, broker.ca) as wire:
        return wire.as_bearer(  # type: ignore[no-any-return]
            broker.token("dev-operator"),
            PUBLISH,
            manifest_pb2.PublishManifestRequest(envelope=sealed),
            manifest_pb2.PublishManifestResponse,
        )
