"""A whole broker behind its real doors: gRPC and HTTP over real TLS, verbs and feed real, state in memory."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import ssl
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import jwt
import structlog
from cryptography.hazmat.primitives.asymmetric import ec
from google.rpc import error_details_pb2, status_pb2

from broker.adapters.feed.local import FeedLimits
from broker.adapters.identity.spiffe import SpiffeIdentity
from broker.adapters.limits import TokenBuckets
from broker.api.answers import Answers
from broker.api.attestation import AttestationRoom
from broker.api.callers import DoorRates, Threshold
from broker.api.credentials import CredentialRoom
from broker.api.decisions import DecisionRoom
from broker.api.detections import DetectionRoom
from broker.api.drain import Drain
from broker.api.http.app import build_app
from broker.api.http.gate import GateRoom
from broker.api.http.introspection import TokenRoom
from broker.api.http.server import HttpDoor
from broker.api.http.status import Readiness, StatusRoom
from broker.api.http.webhooks import WebhookRoom
from broker.api.interceptors import Gate
from broker.api.limits import Limits
from broker.api.manifests import ManifestRoom
from broker.api.metrics import Metrics
from broker.api.oversight import OversightRoom
from broker.api.proofs import KnownKeys, Possession, UsedProofs
from broker.api.revocations import RevocationRoom
from broker.api.routes import Route
from broker.api.seats import Seats
from broker.api.server import DoorConfig, Doors
from broker.api.tasks import Crew
from broker.api.tls import Certificates
from broker.api.watching import WatchRoom
from broker.crypto.keyfiles import public_der
from broker.crypto.proof import RollingNonce, parse_instance_key
from broker.crypto.ring import JwtRing
from broker.model.evidence import InstanceKey
from broker.model.identity import IdentityMatch, IdentityProof, JwtProof, PeerProof, WorkloadIdentity
from broker.model.role import DetectorPolicy, Operator, Rate, ResourceServer, Scope
from broker.ports import Detector
from lockstep.formats import (
    AUTHORIZATION_METADATA,
    GATE_TYPE,
    NONCE_METADATA,
    PROOF_METADATA,
    PROOF_TYPE,
    proof_claims,
)
from lockstep.v1 import attestation_pb2, credential_pb2, evidence_pb2, identity_pb2
from tests.fakes.evidence import FakeEvidence
from tests.fakes.identity import FakeIdentity
from tests.support import pki
from tests.support.house import APPROVED, DAY, START, House, policy

CLUSTER = "lockstep"
ISSUER = "https://broker.example"
AUDIENCE = "https://api.example"
YEAR = 365 * DAY
PLENTY = Rate(100_000, 60.0)

ATTESTATION = "/lockstep.v1.AttestationService/"
CREDENTIAL = "/lockstep.v1.CredentialService/"
REVOCATION = "/lockstep.v1.RevocationService/"


class KeyedEvidence(FakeEvidence):
    """Statements by hand, keys for real: their thumbprints are what real proofs name."""

    def parse_key(self, spki: bytes) -> InstanceKey:
        return parse_instance_key(spki)


class Identities(FakeIdentity):
    """Tokens by hand, certificates for real."""

    certificates: SpiffeIdentity

    async def verify(self, proof: IdentityProof, now: float) -> WorkloadIdentity:
        if isinstance(proof, PeerProof):
            return await self.certificates.verify(proof, now)
        return await super().verify(proof, now)


class Sources:
    """`broker.ports.DetectorSource` by hand."""

    def __init__(self) -> None:
        self.known: dict[str, tuple[Detector, DetectorPolicy]] = {}

    def detector(self, name: str) -> tuple[Detector, DetectorPolicy] | None:
        return self.known.get(name)


@dataclass
class Porch:
    """Use `async with porch(tmp_path) as found`."""

    house: House
    identities: Identities
    folder: Path
    limits: Limits
    rates: dict[str, Rate]
    doors: Doors = field(init=False)
    drain: Drain = field(default_factory=Drain)
    metrics: Metrics = field(default_factory=Metrics)
    sources: Sources = field(default_factory=Sources)
    lines: list[Any] = field(default_factory=list)
    channels: list[grpc.aio.Channel] = field(default_factory=list)
    numbers: itertools.count[int] = field(default_factory=itertools.count)

    async def build(self, *, mtls: bool, http: bool, reflection: bool, local_metrics: bool) -> None:
        """Everything that bootstrap puts together."""
        house = self.house
        now = time.time()
        self.root = pki.authority("porch root", now=now)
        self.certificate, self.key = pki.server(self.root, now=now).write(self.folder, "door")
        # Long enough for the clock of the house, which stands some way ahead.
        self.spiffe_root = pki.authority("spiffe root", now=now, life=YEAR)
        bundle = self.folder / "bundle.pem"
        bundle.write_bytes(self.spiffe_root.pem)
        self.identities.certificates = SpiffeIdentity("spiffe", "example.org", bundle)
        self.signing = ec.generate_private_key(ec.SECP256R1())
        self.ring = JwtRing(self.signing, issuer=ISSUER)
        self.gate_ring = JwtRing(
            ec.generate_private_key(ec.SECP256R1()), issuer=f"{ISSUER}/gate", token_type=GATE_TYPE
        )
        log = structlog.wrap_logger(None, processors=[self._line], wrapper_class=structlog.BoundLogger)
        self.used = UsedProofs(self.limits.known_proofs)
        possession = Possession(
            CLUSTER, RollingNonce(b"n" * 32), KnownKeys(house.state, self.limits.known_keys), self.used
        )
        threshold = Threshold(possession, self.identities, house.people, DoorRates(TokenBuckets(self.rates)))
        self.crew = Crew(10, log)
        watch = WatchRoom(
            house.feed, house.state, house.people, house.clock, self.drain, self.limits, self.metrics
        )
        rooms = (
            AttestationRoom(house.verifier),
            CredentialRoom(house.issuer, self.crew),
            RevocationRoom(house.revoker, house.proposer, watch),
            DetectionRoom(house.reporter, house.people, house.clock, self.metrics),
            ManifestRoom(house.publisher, house.people),
            DecisionRoom(house.explainer),
            OversightRoom(house.overseer, house.approver),
        )
        routes: dict[str, Route] = {}
        for room in rooms:
            routes.update(room.routes())
        self.routes = routes
        self.seats = Seats(self.limits)
        gate = Gate(routes, threshold, house.clock, self.limits, self.seats, Answers(self.metrics, log))
        self.readiness = Readiness(house.feed, self.drain, self.limits)
        answers = {
            **WebhookRoom(self.sources, house.reporter, house.clock, self.limits, self.metrics).answers(),
            **GateRoom(self.gate_ring, f"{ISSUER}/gate").answers(),
            **TokenRoom(house.issuer, house.revoker, self.ring, house.feed, ISSUER, self.limits).answers(),
            **StatusRoom(
                self.readiness,
                self.metrics,
                house.state,
                house.feed,
                house.clock,
                metrics_local_only=local_metrics,
            ).answers(),
        }
        self.answers = answers
        self.certificates = Certificates(
            self.certificate, self.key, (lambda: self.spiffe_root.pem) if mtls else None
        )
        app = build_app(answers, threshold, house.clock, self.limits, self.metrics, log)
        web = HttpDoor("127.0.0.1:0", app, self.certificates.https(), self.limits) if http else None
        config = DoorConfig(
            tls="127.0.0.1:0", mtls="127.0.0.1:0" if mtls else "", reflection=reflection, limits=self.limits
        )
        self.doors = Doors(config, gate, self.certificates, self.crew, self.drain, log, web)
        await self.doors.start()
        self.readiness.loaded()
        await self.doors.ready()

    def _line(self, _: Any, name: str, event: Any) -> Any:
        self.lines.append((name, dict(event)))
        raise structlog.DropEvent

    async def close(self) -> None:
        for channel in self.channels:
            await channel.close()
        await self.doors.stop()

    # --- clients ------------------------------------------------------------------------------------

    def channel(self, **options: Any) -> grpc.aio.Channel:
        """A connection to the `tls` listener."""
        credentials = grpc.ssl_channel_credentials(self.root.pem)
        return self._open(f"127.0.0.1:{self.doors.tls_port}", credentials, **options)

    def svid_channel(self, spiffe_id: str, **changes: Any) -> grpc.aio.Channel:
        """A connection to the `mtls` listener with an SVID; `changes` bend it."""
        issuer = changes.pop("issuer", self.spiffe_root)
        svid = pki.svid(issuer, spiffe_id, now=time.time(), **{"life": YEAR / 2, **changes})
        credentials = grpc.ssl_channel_credentials(self.root.pem, svid.key_pem, svid.pem)
        return self._open(f"127.0.0.1:{self.doors.mtls_port}", credentials)

    def _open(self, address: str, credentials: grpc.ChannelCredentials, **options: Any) -> grpc.aio.Channel:
        # A number of its own keeps each channel on a connection of its own.
        chosen = [("lockstep.test", next(self.numbers)), ("grpc.use_local_subchannel_pool", 1)]
        chosen += options.items()
        channel = grpc.aio.secure_channel(address, credentials, options=chosen)
        self.channels.append(channel)
        return channel

    def http_context(self) -> ssl.SSLContext:
        """What an HTTP client trusts."""
        context = ssl.create_default_context(cadata=self.root.pem.decode())
        context.check_hostname = True
        return context

    # --- people -------------------------------------------------------------------------------------

    def know(self, subject: str, *, not_after: float = START + DAY) -> str:
        """A bearer token that proves an identity."""
        token = f"bearer-{subject}-{next(self.numbers)}"
        identity = WorkloadIdentity("oidc", "https://issuer.example", subject, not_after)
        self.house.identities.know(JwtProof(token), identity)
        return token

    def operator(
        self,
        name: str = "ann",
        *rights: str,
        scope: Scope | None = None,
        quorum: Mapping[str, int] | None = None,
    ) -> str:
        """The token of an operator."""
        match = IdentityMatch("oidc", subject=name)
        self._book(operators={name: Operator(name, match, frozenset(rights), scope, quorum or {})})
        return self.know(name)

    def resource_server(self, name: str = "gateway", *audiences: str) -> str:
        """The token of a resource server."""
        match = IdentityMatch("oidc", subject=name)
        served = frozenset(audiences or (AUDIENCE,))
        self._book(resource_servers={name: ResourceServer(name, match, served)})
        return self.know(name)

    def detector(self, name: str = "sensor") -> str:
        """The token of a detector."""
        found = policy(name, identity=IdentityMatch("oidc", subject=name))
        self._book(detectors={name: found})
        return self.know(name)

    def reload(self, **tables: Any) -> None:
        """Whole tables of the book are replaced, as a reload does."""
        self.house.people.book = replace(self.house.people.book, **tables)

    def _book(self, **tables: Any) -> None:
        book = self.house.people.book
        merged = {name: {**getattr(book, name), **table} for name, table in tables.items()}
        self.house.people.book = replace(book, **merged)

    def guest(self, subject: str = "payments") -> Guest:
        """A workload with a key of its own."""
        return Guest(self, subject)

    async def attested(self, subject: str = "payments") -> Guest:
        """A workload that has attested over the wire."""
        guest = self.guest(subject)
        await guest.attest()
        return guest


@dataclass(frozen=True)
class Reply:
    """How a call ended, as its client sees it."""

    code: grpc.StatusCode
    message: str
    raw: bytes
    trailers: dict[str, str | bytes]

    @property
    def ok(self) -> bool:
        return self.code is grpc.StatusCode.OK

    @property
    def nonce(self) -> str:
        return str(self.trailers.get(NONCE_METADATA, ""))

    @property
    def info(self) -> error_details_pb2.ErrorInfo:
        """The `ErrorInfo` of an error."""
        found = error_details_pb2.ErrorInfo()
        for detail in self.status.details:
            if detail.Unpack(found):
                return found
        raise AssertionError("no ErrorInfo")

    @property
    def status(self) -> status_pb2.Status:
        return status_pb2.Status.FromString(bytes(self.trailers["grpc-status-details-bin"]))  # type: ignore[arg-type]

    @property
    def reason(self) -> str:
        return self.info.reason.lower() if "grpc-status-details-bin" in self.trailers else ""


async def call(
    channel: grpc.aio.Channel,
    method: str,
    raw: bytes,
    metadata: Sequence[tuple[str, str | bytes]] = (),
    *,
    timeout: float | None = 10.0,
) -> Reply:
    """Bytes to a method, whatever they are."""
    pending = channel.unary_unary(method)(raw, metadata=tuple(metadata), timeout=timeout)
    try:
        answer = await pending
    except grpc.aio.AioRpcError as error:
        trailing = error.trailing_metadata() or ()
        return Reply(error.code(), error.details() or "", b"", dict(trailing))
    return Reply(await pending.code(), "", answer, dict(await pending.trailing_metadata()))


def bearer(token: str) -> tuple[tuple[str, str | bytes], ...]:
    """Metadata of an identified caller."""
    return ((AUTHORIZATION_METADATA, f"Bearer {token}"),)


class Guest:
    """A workload at the door: its key, its nonce, its proofs."""

    def __init__(self, porch: Porch, subject: str) -> None:
        self.porch = porch
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.spki = public_der(self.key.public_key())
        self.subject = subject
        self.token = porch.know(subject)
        self.channel = porch.channel()
        self.nonce = ""
        self.id = ""

    def proof(self, method: str, body: bytes, **changes: Any) -> str:
        """A proof of possession; `changes` bend its claims, `key` its signature."""
        key = changes.pop("key", self.key)
        claims: dict[str, Any] = proof_claims(
            method=method,
            body=body,
            audience=CLUSTER,
            jti=secrets.token_urlsafe(16),
            issued_at=int(self.porch.house.now),
            nonce=self.nonce,
        )
        claims.update(changes)
        return jwt.encode(claims, key, algorithm="ES256", headers={"typ": PROOF_TYPE})

    async def call(self, method: str, message: Any, **changes: Any) -> Reply:
        """A call with a fresh proof."""
        raw = message.SerializeToString()
        proof = self.proof(method, raw, **changes)
        return await self.send(method, raw, proof)

    async def send(self, method: str, raw: bytes, proof: str) -> Reply:
        """A call with a proof as it is."""
        reply = await call(self.channel, method, raw, [(PROOF_METADATA, proof)])
        self.nonce = reply.nonce or self.nonce
        return reply

    async def challenge(self) -> bytes:
        """A nonce of a challenge; the answer brings the first rolling nonce."""
        request = attestation_pb2.GetChallengeRequest(instance_key=identity_pb2.InstanceKey(spki=self.spki))
        reply = await call(self.channel, ATTESTATION + "GetChallenge", request.SerializeToString())
        assert reply.ok, reply
        self.nonce = reply.nonce
        return attestation_pb2.GetChallengeResponse.FromString(reply.raw).nonce

    async def order(self, *units: str) -> attestation_pb2.AttestRequest:
        """All that `Attest` sends."""
        nonce = await self.challenge()
        workload = self.porch.house.workload(self.subject)
        thumbprint = parse_instance_key(self.spki).thumbprint
        evidence = replace(workload.evidence(*(units or APPROVED)), key_thumbprint=thumbprint)
        sealed = self.porch.house.evidence.seal(evidence, nonce)
        return attestation_pb2.AttestRequest(
            identity_proof=identity_pb2.IdentityProof(jwt=self.token),
            instance_key=identity_pb2.InstanceKey(spki=self.spki),
            nonce=nonce,
            evidence=[
                evidence_pb2.SealedEvidence(
                    level=sealed.level,  # type: ignore[arg-type]
                    statement=sealed.statement,
                    signature=sealed.signature,
                )
            ],
        )

    async def attest(self, *units: str) -> attestation_pb2.AttestResponse:
        """Attest over the wire."""
        reply = await self.call(ATTESTATION + "Attest", await self.order(*units))
        assert reply.ok, reply
        answer = attestation_pb2.AttestResponse.FromString(reply.raw)
        self.id = answer.attestation_id
        return answer

    async def reorder(self) -> attestation_pb2.ReattestRequest:
        """All that `Reattest` sends, of an instance that loaded nothing more."""
        nonce = await self.challenge()
        attestation = await self.porch.house.attestation(self.id)
        evidence = replace(
            self.porch.house.workload(self.subject).evidence(),
            key_thumbprint=attestation.key.thumbprint,
            base_digest=attestation.code_set,
            code_set_digest=attestation.code_set,
        )
        sealed = self.porch.house.evidence.seal(evidence, nonce)
        return attestation_pb2.ReattestRequest(
            attestation_id=self.id,
            identity_proof=identity_pb2.IdentityProof(jwt=self.token),
            nonce=nonce,
            evidence=[
                evidence_pb2.SealedEvidence(
                    level=sealed.level,  # type: ignore[arg-type]
                    statement=sealed.statement,
                    signature=sealed.signature,
                )
            ],
        )

    def issuing(self, role: str = "api", request: str = "r1") -> credential_pb2.IssueCredentialRequest:
        """All that `IssueCredential` sends."""
        return credential_pb2.IssueCredentialRequest(attestation_id=self.id, role=role, request_id=request)

    async def issue(self, role: str = "api", request: str = "r1") -> credential_pb2.IssueCredentialResponse:
        """A credential."""
        reply = await self.call(CREDENTIAL + "IssueCredential", self.issuing(role, request))
        assert reply.ok, reply
        return credential_pb2.IssueCredentialResponse.FromString(reply.raw)


@asynccontextmanager
async def porch(
    folder: Path,
    *,
    limits: Limits | None = None,
    rates: dict[str, Rate] | None = None,
    mtls: bool = False,
    http: bool = False,
    reflection: bool = False,
    local_metrics: bool = False,
    feed: FeedLimits | None = None,
) -> AsyncIterator[Porch]:
    """Open doors until the block ends; HTTP only where it is asked for, since it takes its time to close."""
    identities = Identities()
    told = {} if feed is None else {"feed_limits": feed}
    house = await House.open(evidence=KeyedEvidence(), identities=identities, **told)
    all_rates = dict.fromkeys(("address", "attest", "identity"), PLENTY) | (rates or {})
    found = Porch(house, identities, folder, limits or Limits(), all_rates)
    await found.build(mtls=mtls, http=http, reflection=reflection, local_metrics=local_metrics)
    try:
        yield found
    finally:
        await found.close()


class Line:
    """One open stream of raw messages, parsed on the way in."""

    def __init__(self, channel: grpc.aio.Channel, method: str, answer: Any) -> None:
        self._stream = channel.stream_stream(method)
        self._answer = answer
        self._pending: Any = None

    def open(self, raw: bytes, metadata: Sequence[tuple[str, str | bytes]] = ()) -> Line:
        """Call, without a message yet where `raw` is empty."""
        self._pending = self._stream(metadata=tuple(metadata))
        self._first = raw
        return self

    async def send(self, message: Any) -> None:
        raw = message if isinstance(message, bytes) else message.SerializeToString()
        await self._pending.write(raw)

    async def begin(self) -> None:
        """Send the first message."""
        await self.send(self._first)

    async def read(self, timeout: float = 10.0) -> Any:
        """The next answer, or None at the end; raises what ended the stream."""
        async with asyncio.timeout(timeout):
            raw = await self._pending.read()
        return None if raw is grpc.aio.EOF else self._answer.FromString(raw)

    async def ended(self, timeout: float = 10.0) -> Reply:
        """How the stream ends; its answers are thrown away."""
        try:
            while await self.read(timeout) is not None:
                pass
        except grpc.aio.AioRpcError:
            pass
        trailing = await self._pending.trailing_metadata() or ()
        return Reply(await self._pending.code(), await self._pending.details() or "", b"", dict(trailing))

    async def done(self) -> None:
        """Nothing more will be sent."""
        await self._pending.done_writing()

    def cancel(self) -> None:
        self._pending.cancel()
