"""A whole broker of verbs, in memory and under a clock that stands: a test tells what happens, in short words.

Real are the verbs, the feed, the challenges, the rates, the manifests and the
signatures; fakes are the state (with weather), the identities, the evidence and
the backends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ed25519

from broker.adapters.challenges import HmacChallenges
from broker.adapters.feed.local import FeedLimits, LocalFeed
from broker.adapters.limits import TokenBuckets
from broker.adapters.manifests.state import StateManifests
from broker.adapters.receipts import ReceiptSealer
from broker.attest import AttestLimits, Verifier
from broker.crypto.dsse import DsseSealer, DsseVerifier
from broker.errors import LockstepError
from broker.explain import Explainer
from broker.issue import IssueLimits, Issuer
from broker.ledger import Ledger
from broker.model.account import Account
from broker.model.attestation import Attestation
from broker.model.caller import OperatorCaller, ProofUse, WorkloadCaller
from broker.model.credential import Lease, LeaseState
from broker.model.decision import Decision
from broker.model.detection import Detection, DetectionKind, DetectionObject, DetectionSubject
from broker.model.evidence import Assurance, CodeSet, Evidence, ProcessRef
from broker.model.identity import IdentityMatch, InstanceClaims, JwtProof, WorkloadIdentity
from broker.model.manifest import ManifestUnit
from broker.model.requests import (
    AttestAnswer,
    AttestOrder,
    Introspection,
    IssueAnswer,
    LiftAnswer,
    PublishAnswer,
    ReattestOrder,
    ReportAnswer,
    RevokeAnswer,
    RevokeOrder,
)
from broker.model.revocation import LogEntry, Revocation, RevocationState, Selector, SelectorKind
from broker.model.role import (
    Action,
    AfterRevocation,
    Application,
    Cap,
    DetectorPolicy,
    Mode,
    Operator,
    Rate,
    Revocability,
    Role,
    RoleBook,
    Scope,
    Silence,
)
from broker.oversee import Overseer
from broker.ports import CredentialBackend, StateStore, TargetCutter, Transaction
from broker.publish import Publisher
from broker.report import Approver, Reporter, ReportLimits
from broker.revoke import ProposeLimits, Proposer, Revoker
from broker.upkeep import Upkeep, UpkeepLimits
from lockstep.formats import MANIFEST_PAYLOAD_TYPE, RECEIPT_PAYLOAD_TYPE
from tests.fakes.clock import FakeClock
from tests.fakes.entropy import CounterEntropy
from tests.fakes.evidence import FakeEvidence
from tests.fakes.identity import FakeIdentity
from tests.fakes.weather import MeddlingBackend, StormyState
from tests.support.manifests import payload, unit

START = 1_800_000_000.0
HOUR = 3600.0
DAY = 86_400.0

SIGNER = ed25519.Ed25519PrivateKey.generate()
SECOND_SIGNER = ed25519.Ed25519PrivateKey.generate()
RECEIPTS = ed25519.Ed25519PrivateKey.generate()

APPROVED = ("app", "lib")
"""What the release that `House.open` publishes approves."""


def role(name: str, **changes: Any) -> Role:
    """An enforcing role of application ``payments`` for the identity ``payments``."""
    found = Role(
        name=name,
        owner="team",
        mode=Mode.ENFORCE,
        identity=IdentityMatch("oidc", subject="payments"),
        manifests=("payments",),
        backend="tokens",
        parameters={"audience": "https://api.example"},
        assurance=Assurance.SELF,
        ttl={Assurance.SELF: 120.0},
        revocability=Revocability.INSTANT,
        silence=Silence(),
        after_revocation=AfterRevocation.HOLD,
        possession_required=False,
        static_accepted=False,
        max_life=600.0,
        version=b"",
        text="",
    )
    whole = replace(found, **changes)
    return replace(whole, version=sha256(repr(whole).encode()).digest())


def policy(name: str = "falco", **changes: Any) -> DetectorPolicy:
    """A detector that revokes, up to three instances an hour."""
    found = DetectorPolicy(
        name=name,
        kind="standard",
        actions={},
        default_action=Action.REVOKE,
        roles=(),
        nodes=(),
        rate=Rate(1000, 60.0),
        cap=Cap(instances=3, share=1.0, period=HOUR),
    )
    return replace(found, **changes)


ROLES = (
    role("api"),
    role("db", backend="db", revocability=Revocability.AT_TARGET, parameters={}),
    role("watched", mode=Mode.OBSERVE, identity=IdentityMatch("oidc", subject="watched")),
)


def book(*roles: Role, threshold: int = 1, **applications: Application) -> RoleBook:
    """What an operator configured."""
    known = {"payments": Application("payments", ("alice", "bob"), threshold, ("base",))}
    known["base"] = Application("base", ("alice",), 1)
    return RoleBook({item.name: item for item in roles or ROLES}, {}, {}, {}, {**known, **applications})


class Ceremony:
    """`broker.ports.RoleSource` and audit in one: what operators change, and what they read."""

    def __init__(self, first: RoleBook) -> None:
        self.book = first
        self.audit: list[Decision] = []

    def current(self) -> RoleBook:
        return self.book

    def record(self, decision: Decision) -> None:
        self.audit.append(decision)


class House:
    """Use `await House.open()`."""

    def __init__(self, state: StormyState, clock: FakeClock, entropy: CounterEntropy) -> None:
        self.state = state
        self.clock = clock
        self.entropy = entropy
        self.people = Ceremony(book())
        self.identities = FakeIdentity()
        self.evidence = FakeEvidence()
        self.tokens = MeddlingBackend(Revocability.INSTANT, outside=False)
        self.db = MeddlingBackend(Revocability.AT_TARGET, outside=True)
        self.backends: dict[str, CredentialBackend] = {"tokens": self.tokens, "db": self.db}
        self.cutters: dict[str, TargetCutter] = {}
        self.signers = DsseVerifier({"alice": SIGNER.public_key(), "bob": SECOND_SIGNER.public_key()})
        self.errors: list[LockstepError] = []
        self.erred = asyncio.Event()
        self.stuck: list[Lease | Account] = []
        self.alarms: list[str] = []
        self.faults: list[tuple[str, Exception]] = []
        self.rates = {
            "refused": Rate(1000, 60.0),
            "self": Rate(1000, 60.0),
            "detector": Rate(1000, 60.0),
        }
        self.attest_limits = AttestLimits()
        self.propose_limits = ProposeLimits()
        self.issue_limits = IssueLimits()
        self.upkeep_limits = UpkeepLimits(look_again=0.0)
        # As if it had run for a while: nobody who watched an earlier process is still to come.
        self.feed_limits = FeedLimits(patience=0.0)
        self.alone = False
        """As where a lock on the state says that nobody else can write the log."""
        self._jti = 0
        self._workloads = 0

    @classmethod
    async def open(cls, *roles: Role, publish: bool = True, **changes: Any) -> House:
        """A broker with the release 1 of ``payments`` in force: units ``app`` and ``lib``."""
        house = cls(StormyState(), FakeClock(START), CounterEntropy())
        if roles:
            house.people.book = book(*roles)
        for name, value in changes.items():
            getattr(house, name)
            setattr(house, name, value)
        await house.start()
        if publish:
            await house.publish(1, *APPROVED)
        return house

    async def start(self) -> None:
        """Make everything that lives in memory; called again, it is a restart on the same state."""
        self.feed = await LocalFeed.load(self.state, self.clock, self.feed_limits, alone=self.alone)
        await self.assemble(self.state)

    async def assemble(self, state: StateStore) -> None:
        """The verbs over a state and `feed`."""
        world: dict[str, Any] = {"clock": self.clock, "entropy": self.entropy, "state": state}
        people: dict[str, Any] = {"roles": self.people, "audit": self.people}
        rates = TokenBuckets(self.rates)
        self.manifests = StateManifests(state)
        self.ledger = Ledger(state, self.feed, self.people)
        feed: dict[str, Any] = {"feed": self.feed}
        ledger: dict[str, Any] = {"ledger": self.ledger}
        self.verifier = Verifier(
            **world,
            **people,
            **feed,
            **ledger,
            challenges=HmacChallenges(b"c" * 32, random=self.entropy.token),
            identities=self.identities,
            evidence=self.evidence,
            manifests=self.manifests,
            rates=rates,
            limits=self.attest_limits,
        )
        self.issuer = Issuer(
            **world, **people, **feed, **ledger, backends=self.backends, limits=self.issue_limits
        )
        self.reporter = Reporter(
            **world,
            **people,
            **feed,
            **ledger,
            manifests=self.manifests,
            rates=rates,
            limits=ReportLimits(),
        )
        self.approver = Approver(**world, **people, **feed, **ledger, limits=ReportLimits())
        self.proposer = Proposer(**world, **people, **feed, **ledger, limits=self.propose_limits)
        self.revoker = Revoker(**world, **people, **feed, **ledger)
        self.publisher = Publisher(
            **world, **people, **ledger, envelopes=self.signers, manifests=self.manifests
        )
        self.explainer = Explainer(state=state, roles=self.people)
        self.overseer = Overseer(state=state, roles=self.people)
        self.upkeep = Upkeep(
            clock=self.clock,
            state=state,
            feed=self.feed,
            backends=self.backends,
            cutters=self.cutters,
            receipts=ReceiptSealer(RECEIPTS),
            on_error=self._on_error,
            on_stuck=self.stuck.append,
            on_alarm=self.alarms.append,
            on_fault=lambda what, error: self.faults.append((what, error)),
            limits=self.upkeep_limits,
            audited=lambda: self.people.audit[-1].id if self.people.audit else "",
        )

    def _on_error(self, error: LockstepError) -> None:
        self.errors.append(error)
        self.erred.set()

    # --- operators --------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        return self.clock.now()

    def envelope(
        self,
        version: int,
        *units: str | ManifestUnit,
        by: Sequence[ed25519.Ed25519PrivateKey] = (SIGNER,),
        **changes: Any,
    ) -> bytes:
        """A signed manifest of ``payments``, in force for a year unless `changes` say otherwise."""
        window = {"not_before": START - DAY, "not_after": START + 365 * DAY}
        listed = [unit(item) if isinstance(item, str) else item for item in units]
        content = payload(listed, version=version, **{**window, **changes})
        sealed = [DsseSealer(key).seal(content, MANIFEST_PAYLOAD_TYPE) for key in by]
        whole = sealed[0]
        for other in sealed[1:]:
            whole = self.signers.merge(whole, other)
        return whole

    async def publish(self, version: int, *units: str | ManifestUnit, **changes: Any) -> PublishAnswer:
        """Publish a manifest."""
        return await self.publisher.publish(self.envelope(version, *units, **changes), "pipeline")

    async def revoke(self, kind: SelectorKind, value: str, **changes: Any) -> RevokeAnswer:
        """An operator's revocation."""
        order = RevokeOrder(Selector(kind, value), "operator:ann", "because", **changes)
        return await self.revoker.revoke(order)

    async def lift(self, revocation_id: str) -> LiftAnswer:
        """An operator's lift."""
        return await self.revoker.lift(revocation_id, "operator:ann", "it was nothing", "")

    def operator(
        self,
        *rights: str,
        name: str = "ann",
        scope: Scope | None = None,
        quorum: Mapping[str, int] | None = None,
    ) -> OperatorCaller:
        """An operator at the door."""
        match = IdentityMatch("oidc", subject=name)
        identity = WorkloadIdentity("oidc", "https://issuer.example", name, START + DAY)
        return OperatorCaller(identity, (Operator(name, match, frozenset(rights), scope, quorum or {}),))

    async def report(
        self, *, detector: DetectorPolicy | None = None, attestation: str = "", **changes: Any
    ) -> ReportAnswer:
        """A detector's report; see `detection`."""
        chosen = detector or policy()
        found = self.detection(detector=chosen.name, attestation=attestation, **changes)
        return await self.reporter.report(found, chosen)

    def detection(
        self,
        *,
        detector: str = "falco",
        attestation: str = "",
        spiffe: str = "",
        kind: DetectionKind = DetectionKind.LIBRARY,
        code: str = "evil",
        event: str = "",
        **process: Any,
    ) -> Detection:
        """A report of `code`; `process` are fields of a `ProcessRef`."""
        self._jti += 1
        return Detection(
            detector=detector,
            event_id=event or f"event-{self._jti}",
            kind=kind,
            subject=DetectionSubject(attestation, ProcessRef(**process), spiffe),
            object=DetectionObject(digest=unit(code).digest if code else b"", path=f"/tmp/{code}", name=code),
            sent_at=self.now,
            observed_at=self.now,
        )

    # --- upkeep -----------------------------------------------------------------------------------

    async def tick(self, seconds: float = 0.0) -> None:
        """Time goes on; then rounds of upkeep until nothing of the moment is left."""
        self.clock.advance(seconds)
        for _ in range(200):
            if not await self.upkeep.tick():
                return
        raise AssertionError("upkeep is never through")

    async def until(self, condition: Callable[[], Awaitable[bool]], timeout: float = 5.0) -> None:
        """Wait, from write to write, for what others do; `timeout` in real seconds."""
        async with asyncio.timeout(timeout):
            while not await condition():
                await self.state.next_write()

    # --- refusals ---------------------------------------------------------------------------------

    async def issue_refusal(self, workload: Workload, role: str = "api") -> LockstepError:
        """Why a workload gets no credential."""
        try:
            await workload.issue(role)
        except LockstepError as error:
            return error
        raise AssertionError("it was granted")

    async def attest_refusal(self, workload: Workload, *units: str) -> LockstepError:
        """Why a workload may not attest."""
        try:
            await workload.attest(*(units or APPROVED))
        except LockstepError as error:
            return error
        raise AssertionError("it was admitted")

    # --- looking ----------------------------------------------------------------------------------

    async def look(self, question: Callable[[Transaction], Any]) -> Any:
        """What the state says."""
        return await self.state.read(question)

    async def attestation(self, attestation_id: str) -> Attestation:
        found = await self.look(lambda tx: tx.attestations.get(attestation_id))
        assert isinstance(found, Attestation)
        return found

    async def lease(self, lease_id: str) -> Lease:
        found = await self.look(lambda tx: tx.leases.get(lease_id))
        assert isinstance(found, Lease)
        return found

    async def leases(self, *states: LeaseState) -> Sequence[Lease]:
        found: Sequence[Lease] = await self.look(lambda tx: tx.leases.page(states, 10_000))
        return found

    async def revocation(self, revocation_id: str) -> Revocation:
        found = await self.look(lambda tx: tx.revocations.get(revocation_id))
        assert isinstance(found, Revocation)
        return found

    async def only_revocation(self) -> Revocation:
        """The one that there is."""
        [found] = await self.look(lambda tx: tx.revocations.page(10))
        assert isinstance(found, Revocation)
        return found

    async def log(self) -> Sequence[LogEntry]:
        found: Sequence[LogEntry] = await self.look(lambda tx: tx.revocations.live())
        return found

    async def decisions(self) -> Sequence[Decision]:
        found: Sequence[Decision] = await self.look(lambda tx: tx.decisions.page(0.0, 10_000))
        return found

    async def receipt(self, revocation_id: str) -> bytes:
        """The payload of a receipt, its signature checked."""
        envelope, complete = await self.revoker.receipt(revocation_id)
        assert complete
        verifier = DsseVerifier({"receipts": RECEIPTS.public_key()})
        content, signers = verifier.verify(envelope, RECEIPT_PAYLOAD_TYPE)
        assert signers == {"receipts"}
        return content

    async def settled(self, revocation_id: str) -> bool:
        return (await self.revocation(revocation_id)).state is RevocationState.SETTLED

    # --- workloads --------------------------------------------------------------------------------

    def proof(self, thumbprint: bytes) -> ProofUse:
        """A proof of possession that was never used."""
        self._jti += 1
        return ProofUse(thumbprint, f"jti-{self._jti}", self.now + 60)

    def workload(self, subject: str = "payments", **changes: Any) -> Workload:
        """An instance with a key and an identity of its own; it has not attested."""
        self._workloads += 1
        number = self._workloads
        found = Workload(self, number, subject, **changes)
        found.know()
        return found

    async def attested(self, *units: str, subject: str = "payments", **changes: Any) -> Workload:
        """An instance that runs `units`, approved ones by default, and has attested."""
        found = self.workload(subject, **changes)
        await found.attest(*(units or APPROVED))
        return found


@dataclass
class Workload:
    """One instance: it knows its key and identity, and what it last attested."""

    house: House
    number: int
    subject: str
    issuer: str | None = "https://issuer.example"
    place: InstanceClaims = InstanceClaims()
    process: ProcessRef = ProcessRef()
    level: Assurance = Assurance.SELF
    not_after: float = START + 10 * DAY
    id: str = ""
    code: CodeSet = field(default_factory=lambda: CodeSet.of(()))
    answer: AttestAnswer | None = None

    @property
    def spki(self) -> bytes:
        return f"spki {self.number}".encode()

    @property
    def thumbprint(self) -> bytes:
        return sha256(self.spki).digest()

    @property
    def token(self) -> JwtProof:
        return JwtProof(f"token {self.number}")

    @property
    def identity(self) -> WorkloadIdentity:
        return WorkloadIdentity("oidc", self.issuer, self.subject, self.not_after, instance=self.place)

    def know(self) -> None:
        """Tell the identity source what this instance's token proves now."""
        self.house.identities.know(self.token, self.identity)

    def caller(self) -> WorkloadCaller:
        """At the door, with a fresh proof."""
        return WorkloadCaller(self.id, self.house.proof(self.thumbprint))

    def challenge(self) -> bytes:
        nonce, _ = self.house.verifier.challenge(self.spki)
        return nonce

    def evidence(self, *units: str, **changes: Any) -> Evidence:
        """What its measurer says."""
        code = CodeSet.of(unit(name) for name in units)
        found = Evidence(self.level, self.thumbprint, self.process, code.units, code.digest)
        return replace(found, **changes)

    def order(self, *units: str, **changes: Any) -> AttestOrder:
        """All that `attest` sends."""
        nonce = changes.pop("nonce", None) or self.challenge()
        said = changes.pop("evidence", None) or (self.evidence(*units),)
        sealed = tuple(self.house.evidence.seal(item, nonce) for item in said)
        return AttestOrder(
            **{"identity_proof": self.token, "spki": self.spki, "nonce": nonce, "evidence": sealed, **changes}
        )

    async def attest(self, *units: str, **changes: Any) -> AttestAnswer:
        """A first attestation."""
        return await self.send(self.order(*units, **changes))

    async def send(self, order: AttestOrder) -> AttestAnswer:
        """An order as it is."""
        answer = await self.house.verifier.attest(order, self.house.proof(self.thumbprint))
        if answer.attestation is not None:
            self.id = answer.attestation.id
            found = await self.house.look(lambda tx: tx.code.get(answer.attestation.code_set))
            self.code = found
            self.answer = answer
        return answer

    def later(self, *added: str, **changes: Any) -> ReattestOrder:
        """All that `reattest` sends: what was added, and to what."""
        nonce = changes.pop("nonce", None) or self.challenge()
        grown = self.code.grow(unit(name) for name in added)
        delta = self.evidence(*added, base_digest=self.code.digest, code_set_digest=grown.digest)
        said = changes.pop("evidence", None) or (delta,)
        sealed = tuple(self.house.evidence.seal(item, nonce) for item in said)
        return ReattestOrder(
            **{
                "attestation_id": self.id,
                "identity_proof": self.token,
                "nonce": nonce,
                "evidence": sealed,
                **changes,
            }
        )

    async def reattest(self, *added: str, **changes: Any) -> AttestAnswer:
        """A later attestation."""
        order = self.later(*added, **changes)
        answer = await self.house.verifier.reattest(order, self.house.proof(self.thumbprint))
        current = await self.house.attestation(self.id)
        self.code = await self.house.look(lambda tx: tx.code.get(current.code_set))
        return answer

    async def issue(self, role: str = "api", request: str = "") -> IssueAnswer:
        """A credential."""
        self.house._jti += 1
        return await self.house.issuer.issue(self.caller(), role, request or f"request-{self.house._jti}")

    async def renew(self, lease_id: str) -> IssueAnswer:
        return await self.house.issuer.renew(self.caller(), lease_id)

    async def introspect(self, answer: IssueAnswer) -> Introspection:
        """What a resource server hears of a credential."""
        return await self.house.issuer.introspect(answer.lease.handle, None)

    async def good(self, answer: IssueAnswer) -> bool:
        return (await self.introspect(answer)).active

    async def report_self(self, **changes: Any) -> ReportAnswer:
        """Its own hook saw code run."""
        return await self.house.reporter.report_self(
            self.caller(), self.house.detection(detector="self", **changes)
        )

    async def row(self) -> Attestation:
        """Its attestation as the broker keeps it."""
        return await self.house.attestation(self.id)
