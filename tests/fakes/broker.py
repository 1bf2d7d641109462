"""A small broker over real gRPC and TLS for the SDK's tests: strict about proofs, nonces and seals."""

from __future__ import annotations

import hashlib
import queue
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
import jwt
from cryptography.hazmat.primitives.serialization import load_der_public_key
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from lockstep.formats import NONCE_METADATA, PROOF_METADATA, PROOF_TYPE, b64url, evidence_signing_input
from lockstep.v1 import attestation_pb2 as at
from lockstep.v1 import credential_pb2 as cr
from lockstep.v1 import detection_pb2 as de
from lockstep.v1 import evidence_pb2 as ev
from lockstep.v1 import revocation_pb2 as rv
from tests.fakes.tls import ServerFiles

LOG_ID = "log-1"
LARGEST_REPORT = 64 * 1024


class Refused(Exception):
    """How a call of the fake ends otherwise than well."""

    def __init__(self, code: grpc.StatusCode, reason: str, decision: str = "", count: int = 0) -> None:
        super().__init__(reason)
        self.code, self.reason, self.decision, self.count = code, reason, decision, count


def denied(reason: str, decision: str = "D-1", count: int = 0) -> Refused:
    return Refused(grpc.StatusCode.PERMISSION_DENIED, reason, decision, count)


def unavailable(reason: str = "state_unavailable") -> Refused:
    return Refused(grpc.StatusCode.UNAVAILABLE, reason)


@dataclass
class Instance:
    """What it knows of one attestation."""

    spki: bytes
    code_set: bytes
    roles: list[str]
    evidence: int = 1
    """How often it has brought some."""
    statements: list[ev.EvidenceStatement] = field(default_factory=list)


@dataclass
class Policy:
    """What a test turns. Times in seconds. `gate` may raise `Refused` for a method's short name.

    `rotates` gives a new secret with each renewal; `rotation` is (every, overlap)
    of the role, as it is sent. `secret` makes the fields of a lease's credential,
    and `ended` hears of one that was given back.
    """

    attestation_ttl: float = 60.0
    lease_ttl: float = 60.0
    grace: float = 30.0
    then: str = "drop"
    rotates: bool = True
    rotation: tuple[float, float] | None = None
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"audience": "api"})
    secret: Callable[[cr.Lease], Mapping[str, str]] | None = None
    ended: Callable[[str], None] = lambda lease_id: None
    beats: bool = True
    nonce_every_call: bool = False
    mode: int = at.MODE_ENFORCE
    possession: bool = False
    status: int = at.ATTESTATION_STATUS_AFFIRMING
    gate: Callable[[str], None] = lambda method: None
    reads: Callable[[de.Detection], None] = lambda detection: None
    """May raise `Refused` for one report, as a broker that cannot read it."""


class FakeBroker:
    """Starts on a free port; `stop` and `start` again keep port, state and certificate."""

    def __init__(self, tls: ServerFiles, policy: Policy | None = None) -> None:
        self.tls = tls
        self.policy = policy or Policy()
        self.port = 0
        self.calls: list[str] = []
        self.instances: dict[str, Instance] = {}
        self.leases: dict[str, cr.Lease] = {}
        self.requests: dict[str, list[str]] = {}
        self.renewed: list[str] = []
        self.given_back: list[str] = []
        self._granted: dict[str, int] = {}
        self.reports: list[de.Detection] = []
        self.identities: list[str] = []
        self.log: list[rv.RevocationEvent] = []
        self.log_id = LOG_ID
        self.acknowledged: list[int] = []
        self.lost = 0
        self._nonce = secrets.token_hex(8)
        self._challenges: set[bytes] = set()
        self._proofs: set[str] = set()
        self._watchers: list[tuple[str, queue.Queue[rv.WatchRevocationsResponse | None]]] = []
        self._changed = threading.Condition()
        self._server: grpc.Server | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> FakeBroker:
        server = grpc.server(ThreadPoolExecutor(32), options=(("grpc.so_reuseport", 0),))
        server.add_generic_rpc_handlers((_Handlers(self),))
        credentials = grpc.ssl_server_credentials([(self.tls.key, self.tls.certificate)])
        deadline = time.monotonic() + 5
        while True:
            try:
                self.port = server.add_secure_port(f"127.0.0.1:{self.port}", credentials)
                break
            except RuntimeError:  # the port of the last run is let go by the kernel in a moment
                if time.monotonic() > deadline:
                    raise
        server.start()
        self._server = server
        return self

    def stop(self) -> None:
        for _, waiting in list(self._watchers):
            waiting.put(None)
        if self._server is not None:
            self._server.stop(0).wait(5)
            self._server = None

    def wait_until(self, condition: Callable[[], bool], timeout: float = 10.0) -> None:
        """Woken by every call; fails the test after `timeout` seconds."""
        with self._changed:
            assert self._changed.wait_for(condition, timeout), f"never came; calls: {self.calls}"

    def changed(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def new_nonce(self) -> None:
        self._nonce = secrets.token_hex(8)

    def forget(self) -> None:
        """Lose every attestation, as a broker without its state does."""
        self.instances.clear()

    def revoke(
        self, selector: rv.Selector, *, cut: bool = True, ban: bool = True, reason: str = "test"
    ) -> None:
        self.append(
            rv.RevocationEvent(
                kind=rv.EVENT_KIND_REVOKED,
                selector=selector,
                cut=cut,
                ban=ban,
                reason=reason,
                decision_id="D-9",
                revocation_id="V-9",
            )
        )

    def append(self, event: rv.RevocationEvent, *, theirs: bool = True) -> None:
        """One more entry; where it is not `theirs`, the watchers learn of it by the next beat only."""
        seq = len(self.log) + 1
        event.position.CopyFrom(rv.LogPosition(log_id=self.log_id, seq=seq, hash=bytes([seq % 256]) * 32))
        event.at.GetCurrentTime()
        self.log.append(event)
        if theirs:
            self.tell(rv.WatchRevocationsResponse(event=event))

    def restore(self, seq: int, log_id: str) -> None:
        """Go back to an old backup: what came after `seq` is lost, and another log goes on from there."""
        self.log, self.log_id = self.log[:seq], log_id
        for event in self.log:
            event.position.log_id = log_id
        self.tell(rv.WatchRevocationsResponse(resync=rv.Resync(reason="another log")))

    def tell(self, message: rv.WatchRevocationsResponse) -> None:
        for _, waiting in list(self._watchers):
            waiting.put(message)

    @property
    def watched(self) -> list[str]:
        """Attestation ids of the open watches."""
        return [attestation for attestation, _ in self._watchers]

    # --- what a real one does -------------------------------------------------------------------------

    def check_proof(self, context: Any, method: str, body: bytes, spki: bytes) -> None:
        metadata = dict(context.invocation_metadata())
        token = str(metadata.get(PROOF_METADATA, ""))
        try:
            header = jwt.get_unverified_header(token)
            claims = jwt.decode(
                token,
                load_der_public_key(spki),
                algorithms=["ES256"],
                audience="lockstep",  # type: ignore[arg-type]
            )
        except jwt.PyJWTError:
            raise Refused(grpc.StatusCode.UNAUTHENTICATED, "proof_rejected") from None
        held = (
            header.get("typ") == PROOF_TYPE
            and claims["htm"] == method
            and claims["dig"] == b64url(hashlib.sha256(body).digest())
            and claims.get("nonce") == self._nonce
            and claims["jti"] not in self._proofs
        )
        if not held:
            raise Refused(grpc.StatusCode.UNAUTHENTICATED, "proof_rejected")
        self._proofs.add(claims["jti"])
        if self.policy.nonce_every_call:
            self.new_nonce()

    def instance(self, attestation_id: str) -> Instance:
        found = self.instances.get(attestation_id)
        if found is None:
            raise denied("attestation_expired")
        return found

    def open_evidence(self, sealed: Any, spki: bytes, nonce: bytes) -> ev.EvidenceStatement:
        if nonce not in self._challenges:
            raise denied("challenge_rejected")
        self._challenges.discard(nonce)
        (item,) = sealed
        algorithm = jwt.get_algorithm_by_name("ES256")
        if not algorithm.verify(
            evidence_signing_input(item.statement), load_der_public_key(spki), item.signature
        ):
            raise denied("evidence_rejected")
        statement = ev.EvidenceStatement.FromString(item.statement)
        if statement.nonce != nonce:
            raise denied("evidence_rejected")
        return statement

    def challenge(self, request: at.GetChallengeRequest) -> Message:
        nonce = secrets.token_bytes(32)
        self._challenges.add(nonce)
        return at.GetChallengeResponse(nonce=nonce, expires_in=Duration(seconds=30))

    def attest(self, request: at.AttestRequest) -> Message:
        statement = self.open_evidence(request.evidence, request.instance_key.spki, request.nonce)
        self.identities.append(request.identity_proof.jwt)
        attestation_id = f"A-{len(self.identities)}"
        if not request.dry_run:
            self.instances[attestation_id] = Instance(
                request.instance_key.spki,
                statement.code_set_digest,
                list(request.roles),
                statements=[statement],
            )
        return self._standing(
            at.AttestResponse(attestation_id="" if request.dry_run else attestation_id), request.roles
        )

    def reattest(self, request: at.ReattestRequest) -> Message:
        instance = self.instance(request.attestation_id)
        statement = self.open_evidence(request.evidence, instance.spki, request.nonce)
        if statement.base_digest != instance.code_set:
            raise denied("stale_evidence")
        instance.code_set = statement.code_set_digest
        instance.statements.append(statement)
        instance.evidence += 1
        return self._standing(at.ReattestResponse(), instance.roles)

    def _standing(self, answer: Any, roles: Any) -> Message:
        answer.decision_id = f"D-{len(self.calls)}"
        answer.status = self.policy.status
        answer.assurance = ev.ASSURANCE_LEVEL_SELF
        answer.expires_in.FromNanoseconds(int(self.policy.attestation_ttl * 1e9))
        answer.expires_at.FromNanoseconds(int((time.time() + self.policy.attestation_ttl) * 1e9))
        answer.silence.grace.FromNanoseconds(int(self.policy.grace * 1e9))
        answer.silence.then = self.policy.then
        answer.as_of = len(self.log)
        good = answer.status == at.ATTESTATION_STATUS_AFFIRMING
        for role in roles:
            answer.roles.add(
                role=role,
                status=answer.status,
                mode=self.policy.mode,
                granted=good,
                reason="" if good else "appraisal_failed",
                findings=0 if good else 3,
                decision_id="D-4",
            )
        message: Message = answer
        return message

    def issue(self, request: cr.IssueCredentialRequest) -> Message:
        self.instance(request.attestation_id)
        self.requests.setdefault(request.role, []).append(request.request_id)
        lease = cr.Lease(
            lease_id=f"L-{sum(map(len, self.requests.values()))}",
            attestation_id=request.attestation_id,
            role=request.role,
            mode=self.policy.mode,
            decision_id="D-7",
            renewable=True,
            revocability=cr.REVOCABILITY_INSTANT,
            possession_required=self.policy.possession,
        )
        answer = cr.IssueCredentialResponse(
            lease=self._extend(lease), credential=self._secret(lease), rotation=self._rotation()
        )
        answer.parameters.update(dict(self.policy.parameters))
        return answer

    def renew(self, request: cr.RenewLeaseRequest) -> Message:
        lease = self.leases.get(request.lease_id)
        if lease is None or lease.attestation_id != request.attestation_id:
            raise Refused(grpc.StatusCode.NOT_FOUND, "not_found")
        if self.instance(request.attestation_id).evidence <= self._granted[lease.lease_id]:
            raise denied("stale_evidence")
        self.renewed.append(lease.lease_id)
        answer = cr.RenewLeaseResponse(lease=self._extend(lease), rotation=self._rotation())
        if self.policy.rotates:
            answer.credential.CopyFrom(self._secret(lease))
        return answer

    def _rotation(self) -> cr.Rotation | None:
        if self.policy.rotation is None:
            return None
        every, overlap = Duration(), Duration()
        every.FromNanoseconds(int(self.policy.rotation[0] * 1e9))
        overlap.FromNanoseconds(int(self.policy.rotation[1] * 1e9))
        return cr.Rotation(every=every, overlap=overlap)

    def _extend(self, lease: cr.Lease) -> cr.Lease:
        lease.state = cr.LEASE_STATE_ACTIVE
        lease.expires_in.FromNanoseconds(int(self.policy.lease_ttl * 1e9))
        lease.expires_at.FromNanoseconds(int((time.time() + self.policy.lease_ttl) * 1e9))
        self.leases[lease.lease_id] = lease
        self._granted[lease.lease_id] = self.instance(lease.attestation_id).evidence
        return lease

    def _secret(self, lease: cr.Lease) -> cr.Credential:
        if lease.role.endswith("-token"):
            return cr.Credential(token=f"canary-{secrets.token_hex(8)}")
        if self.policy.secret is not None:
            return cr.Credential(fields=cr.SecretFields(values=dict(self.policy.secret(lease))))
        values = {"username": f"u-{secrets.token_hex(4)}", "password": f"canary-{secrets.token_hex(8)}"}
        return cr.Credential(fields=cr.SecretFields(values=values))

    def give_back(self, request: cr.RevokeLeaseRequest) -> Message:
        lease = self.leases.get(request.lease_id)
        if lease is None or lease.attestation_id != request.attestation_id:
            raise Refused(grpc.StatusCode.NOT_FOUND, "not_found")
        del self.leases[lease.lease_id]
        self.given_back.append(lease.lease_id)
        self.policy.ended(lease.lease_id)
        lease.state = cr.LEASE_STATE_REVOKED
        return cr.RevokeLeaseResponse(lease=lease)

    def watch(
        self, first: rv.WatchRevocationsRequest, later: Iterator[bytes], context: Any
    ) -> Iterator[Message]:
        waiting: queue.Queue[rv.WatchRevocationsResponse | None] = queue.Queue()
        seat = (first.open.attestation_id, waiting)
        if first.open.HasField("resume") and first.open.resume.log_id != self.log_id:
            waiting.put(rv.WatchRevocationsResponse(resync=rv.Resync(reason="unknown log")))
        elif first.open.HasField("resume"):
            for event in self.log[first.open.resume.seq :]:
                waiting.put(rv.WatchRevocationsResponse(event=event))
        else:
            waiting.put(
                rv.WatchRevocationsResponse(
                    snapshot=rv.Snapshot(position=self._head(), events=self.log, complete=True)
                )
            )
        self._watchers.append(seat)
        context.add_callback(lambda: waiting.put(None))
        threading.Thread(target=self._read_pings, args=(later, waiting), daemon=True).start()
        self.changed()
        try:
            while (message := waiting.get()) is not None:
                yield message
        finally:
            self._watchers.remove(seat)
            self.changed()

    def _read_pings(self, later: Iterator[bytes], waiting: queue.Queue[Any]) -> None:
        try:
            for body in later:
                ping = rv.WatchRevocationsRequest.FromString(body).ping
                self.acknowledged.append(ping.applied_seq)
                if self.policy.beats:
                    beat = rv.Beat(ping_id=ping.id, position=self._head(), state_age=Duration())
                    waiting.put(rv.WatchRevocationsResponse(beat=beat))
                self.changed()
        except grpc.RpcError:
            pass

    def _head(self) -> rv.LogPosition:
        return self.log[-1].position if self.log else rv.LogPosition(log_id=self.log_id)

    def report(self, first: de.ReportRequest, later: Iterator[bytes], context: Any) -> Iterator[Message]:
        for body in later:
            if len(body) > LARGEST_REPORT:
                raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "too_large")
            request = de.ReportRequest.FromString(body)
            if request.WhichOneof("message") == "heartbeat":
                self.lost += request.heartbeat.lost
                self.changed()
                yield de.ReportResponse(seq=request.heartbeat.seq)
                continue
            self.policy.reads(request.detection)
            self.reports.append(request.detection)
            self.changed()
            yield de.ReportResponse(
                seq=request.detection.seq, state=de.DETECTION_STATE_APPLIED, decision_id="D-8"
            )


class _Handlers(grpc.GenericRpcHandler):
    """Bytes in, bytes out: the digest of a proof is over what was received."""

    def __init__(self, broker: FakeBroker) -> None:
        self._broker = broker
        base = "/lockstep.v1."
        self._unary: dict[str, tuple[type[Any], Callable[[Any], Message], str]] = {
            f"{base}AttestationService/GetChallenge": (at.GetChallengeRequest, broker.challenge, ""),
            f"{base}AttestationService/Attest": (at.AttestRequest, broker.attest, "key"),
            f"{base}AttestationService/Reattest": (at.ReattestRequest, broker.reattest, "id"),
            f"{base}CredentialService/IssueCredential": (cr.IssueCredentialRequest, broker.issue, "id"),
            f"{base}CredentialService/RenewLease": (cr.RenewLeaseRequest, broker.renew, "id"),
            f"{base}CredentialService/RevokeLease": (cr.RevokeLeaseRequest, broker.give_back, "id"),
        }
        self._streams: dict[str, tuple[type[Any], Callable[..., Iterator[Message]]]] = {
            f"{base}RevocationService/WatchRevocations": (rv.WatchRevocationsRequest, broker.watch),
            f"{base}DetectionService/Report": (de.ReportRequest, broker.report),
        }

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        method = str(details.method)
        if method in self._unary:
            return grpc.unary_unary_rpc_method_handler(
                lambda body, context: self._serve(method, body, context)
            )
        if method in self._streams:
            return grpc.stream_stream_rpc_method_handler(
                lambda bodies, context: self._stream(method, bodies, context)
            )
        return None

    def _serve(self, method: str, body: bytes, context: Any) -> bytes:
        kind, answer, proof = self._unary[method]
        try:
            request = kind.FromString(body)
            self._enter(method)
            if proof:
                spki = request.instance_key.spki if proof == "key" else self._spki(request.attestation_id)
                self._broker.check_proof(context, method, body, spki)
            message = answer(request)
            context.set_trailing_metadata(((NONCE_METADATA, self._broker._nonce),))
            return message.SerializeToString()
        except Refused as error:
            self._abort(context, error)
        finally:
            self._broker.changed()
        raise AssertionError("unreachable")

    def _stream(self, method: str, bodies: Iterator[bytes], context: Any) -> Iterator[bytes]:
        kind, serve = self._streams[method]
        try:
            body = next(bodies)
            first = kind.FromString(body)
            self._enter(method)
            if first.open.attestation_id:
                self._broker.check_proof(context, method, body, self._spki(first.open.attestation_id))
            elif dict(context.invocation_metadata()).get("authorization") != "Bearer resource.server.jwt":
                raise Refused(grpc.StatusCode.UNAUTHENTICATED, "no_identity")
            for message in serve(first, bodies, context):
                yield message.SerializeToString()
        except Refused as error:
            self._abort(context, error)
        except (StopIteration, grpc.RpcError):
            return

    def _enter(self, method: str) -> None:
        short = method.rpartition("/")[2]
        self._broker.calls.append(short)
        self._broker.policy.gate(short)

    def _spki(self, attestation_id: str) -> bytes:
        return self._broker.instance(attestation_id).spki

    def _abort(self, context: Any, error: Refused) -> None:
        info = error_details_pb2.ErrorInfo(reason=error.reason.upper(), domain="lockstep.v1")
        info.metadata.update({"decision": error.decision, "count": str(error.count)})
        packed = AnyMessage()
        packed.Pack(info)
        status = status_pb2.Status(code=error.code.value[0], message="no", details=[packed])
        context.set_trailing_metadata(
            (("grpc-status-details-bin", status.SerializeToString()), (NONCE_METADATA, self._broker._nonce))
        )
        context.abort(error.code, "no")
