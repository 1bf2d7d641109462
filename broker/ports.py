"""Every socket of the broker, as Protocols of one to five methods; `Transaction` is a bundle of small stores.

Plugs of a port pass the port's suite in ``tests/contract``. Times are seconds
since the epoch (UTC) unless a name says otherwise; digests are raw bytes.

What every plug keeps to: errors of a driver or vendor never leave it (they
become `broker.errors`), every outside wait has a deadline, and an expected
conflict is a return value.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from broker.model.account import Account, AccountState, Remains, TargetFault
from broker.model.attestation import Attestation, AttestationState
from broker.model.credential import Confirmed, Grant, Issued, Lease, LeaseState
from broker.model.decision import Decision
from broker.model.denials import DenySet
from broker.model.detection import Detection, DetectionRecord, DetectionState
from broker.model.evidence import CodeSet, Evidence, InstanceKey, SealedEvidence, UnitHint
from broker.model.identity import IdentityProof, WorkloadIdentity
from broker.model.manifest import ManifestRecord, ManifestState, ReferenceValues
from broker.model.proposal import Proposal
from broker.model.revocation import LogEntry, LogHead, NewEntry, Revocation, RevocationState, Selector
from broker.model.role import DetectorPolicy, Revocability, Role, RoleBook

T = TypeVar("T")

# --- world ----------------------------------------------------------------------------------------


class Clock(Protocol):
    """Time, injected."""

    def now(self) -> float:
        """Seconds since the epoch, UTC; never decreases within a process."""

    def monotonic(self) -> float:
        """Seconds of CLOCK_BOOTTIME: for ages and deadlines."""


class Entropy(Protocol):
    """Randomness, injected."""

    def token(self, size: int) -> bytes:
        """`size` random bytes fit for keys and nonces."""

    def identifier(self, prefix: str, now: float) -> str:
        """A new id ``PREFIX-…`` that sorts by time (its first 48 bits are milliseconds)."""


class RoleSource(Protocol):
    """What operators configured; a reload swaps the whole book."""

    def current(self) -> RoleBook:
        """The book in force. Read once per use case and passed down."""


# --- who and what ---------------------------------------------------------------------------------


class IdentityVerifier(Protocol):
    """Turns a proof into an identity."""

    async def verify(self, proof: IdentityProof, now: float) -> WorkloadIdentity:
        """Raises `Denied` (identity_rejected) or `Unavailable` (identity_unavailable: keys cannot be had)."""


class EvidenceVerifier(Protocol):
    """Turns sealed evidence into evidence: signature, key, nonce; nothing of the content is judged."""

    def parse_key(self, spki: bytes) -> InstanceKey:
        """The instance key; raises `InvalidRequest` for another type than P-256 or Ed25519."""

    async def verify(self, sealed: SealedEvidence, key: InstanceKey, nonce: bytes, now: float) -> Evidence:
        """Raises `Denied` (evidence_rejected) or `InvalidRequest`."""


class ChallengeMint(Protocol):
    """Nonces that store nothing until they are used."""

    def mint(self, thumbprint: bytes, now: float) -> bytes:
        """A MAC over time, random bytes and the key's thumbprint."""

    def check(self, nonce: bytes, thumbprint: bytes, now: float) -> float:
        """When the nonce ends (for the replay table); raises `Denied` (challenge_rejected)."""

    @property
    def lifetime(self) -> float:
        """Seconds."""


class ManifestSource(Protocol):
    """Reference values in force."""

    async def alternatives(self, application: str, now: float) -> Sequence[ReferenceValues]:
        """Every manifest in force of an application, with its layers; each is one alternative."""

    async def by_digests(self, digests: Sequence[bytes]) -> ReferenceValues | None:
        """The reference values of an earlier result (first digest the manifest, the rest layers),
        in force or not; None where one is unknown."""

    def invalidate(self) -> None:
        """Something was published, retired or withdrawn: read anew."""


class EnvelopeVerifier(Protocol):
    """k-of-n signatures by pinned keys over a DSSE envelope."""

    def verify(self, envelope: bytes, payload_type: str) -> tuple[bytes, frozenset[str]]:
        """(payload, names of the pinned signers that signed it); raises `Denied` (signature_rejected)
        where the envelope is malformed or no pinned key signed."""

    def merge(self, first: bytes, second: bytes) -> bytes:
        """One envelope with the signatures of two over one payload; raises `Denied` (signature_rejected)."""


# --- credentials ----------------------------------------------------------------------------------


class CredentialBackend(Protocol):
    """Makes secrets and takes them back. May block on the outside: never called in a transaction."""

    @property
    def outside(self) -> bool:
        """True where issuing has an effect outside the broker: the lease is PENDING until it is known."""

    @property
    def accounts(self) -> AccountKeeper | None:
        """Where the credentials of an attestation hang together; None where each stands alone."""

    def revocability_of(self, parameters: Mapping[str, Any]) -> Revocability:
        """How soon it can take back a credential of a role with these parameters."""

    async def issue(self, grant: Grant) -> Issued:
        """The secret for a lease that is already in the store. Raises `Unavailable`, `Denied`; an error that is
        `without_effect` says that nothing was made, any other leaves that open."""

    async def renew(self, grant: Grant) -> Issued | None:
        """Extend; a new secret where the kind needs one, else an empty `Credential`; None where the backend
        cannot renew this one."""

    async def revoke(self, lease: Lease) -> None:
        """Take it back; idempotent. Where `handle` is empty the answer to `issue` was lost: by the lease's id,
        as far as that is possible. Raises `Unavailable`: it will be tried again."""

    async def confirm(self, lease: Lease, now: float) -> Confirmed:
        """Look whether it is gone. Without a `handle` it is asked after the last sweep that could find it."""


class AccountKeeper(Protocol):
    """The accounts of one backend. Calls may block on the outside: never in a transaction.

    All of them are idempotent and raise `Unavailable` where the backend does not
    answer (they are tried again), `Denied` where it refuses.
    """

    @property
    def replica(self) -> str:
        """Names this process; new at every start."""

    def holds(self, account: Account) -> bool:
        """True where this process can issue through the account: it opened it, and it was not lost since."""

    async def open(self, account: Account, ttl: float) -> str:
        """Open it for `ttl` seconds (extended by renewals); its accessor."""

    async def freeze(self, attestation_id: str) -> None:
        """From now on nothing is made or used through any account of the attestation, wherever it was opened.
        No error where there never was one."""

    def quiet(self, attestation_id: str) -> bool:
        """True where every call that this process sent for the attestation was answered; one whose answer was
        lost, or not waited for, counts as under way for `longest_call`."""

    async def close(self, account: Account) -> None:
        """Take the account back with whatever hangs on it; where the accessor was never learned, whatever the
        backend finds of the attestation."""

    async def confirm(self, account: Account, now: float) -> Confirmed:
        """Look whether it is gone."""

    @property
    def longest_call(self) -> float:
        """Seconds after which no request that was ever sent can still have an effect."""

    @property
    def sweeps(self) -> bool:
        """True where `strays` lists; False where there is nothing to list, or an operator wants no looking."""

    async def strays(self, before: float) -> Sequence[str]:
        """Handles, or their stems, of all leases under the backend's paths that were made before a time: who calls
        knows which of them have a row."""

    async def attestations(self) -> Sequence[str]:
        """Ids of attestations that the backend could still serve: known by name, not frozen."""

    async def revoke_stray(self, handle: str) -> None:
        """Take back a lease that no row knows."""

    async def given_up(self) -> Sequence[str]:
        """Handles of leases under the backend's paths that it has tried to take back in vain and tries no more; it
        still takes one back that it is asked for."""


class TargetCutter(Protocol):
    """Ends logins and sessions of an attestation at the target itself, without waiting for any backend.

    Raises `Unavailable` where the target does not answer.
    """

    async def cut(self, attestation_id: str) -> Remains:
        """Take the right to log in away, durably, then end the sessions; what a look after that still found, and
        how many logins of it are known there."""

    async def confirm(self, attestation_id: str) -> Remains:
        """What two looks, one after the other, still find."""

    async def faults(self) -> Sequence[TargetFault]:
        """What would keep it from cutting, and what it may too much; empty where all is well."""

    async def close(self) -> None:
        """Give connections back."""


class TokenSigner(Protocol):
    """One key ring for one purpose: an active key, and old ones that still verify."""

    def sign(self, claims: Mapping[str, object]) -> str:
        """A compact JWS with the ring's fixed type and algorithm."""

    def verify(self, token: str, *, audience: str | None, now: float) -> Mapping[str, object]:
        """Claims of a token of this ring; raises `Denied` (identity_rejected)."""

    def jwks(self) -> Mapping[str, object]:
        """The public keys (RFC 7517), old ones included during overlap."""


class ReceiptSigner(Protocol):
    """Seals receipts in DSSE with a key of their own."""

    def seal(self, payload: bytes) -> bytes:
        """The envelope, JSON."""


# --- detectors ------------------------------------------------------------------------------------


class Detector(Protocol):
    """One dialect of reports over HTTP."""

    def parse(self, headers: Mapping[str, str], body: bytes, now: float) -> Sequence[Detection]:
        """Authentic reports in a body. `headers` have lower-case names. Raises `Denied`
        (detection_rejected: signature, age, key) or `InvalidRequest`."""


class DetectorSource(Protocol):
    """Detectors by their name in the path."""

    def detector(self, name: str) -> tuple[Detector, DetectorPolicy] | None:
        """The plug and its policy."""


class RateLimiter(Protocol):
    """Token buckets with a bounded number of keys."""

    def allow(self, scope: str, key: str, now: float) -> float:
        """0.0 and one token spent, or the seconds until the next one."""


# --- state ----------------------------------------------------------------------------------------


class AttestationStore(Protocol):
    """Attestations and their code sets."""

    async def add(self, attestation: Attestation) -> None: ...
    async def get(self, attestation_id: str) -> Attestation | None: ...
    async def refresh(self, attestation: Attestation) -> bool:
        """Replace the mutable part (results, code_set, process, refreshed_at, expires_at, as_of, unmeasured,
        identity) of one that is still ALIVE; False otherwise."""

    async def end(self, ids: Sequence[str], state: AttestationState) -> Sequence[str]:
        """Those of `ids` that were ALIVE and are now in `state`."""

    async def alive_by(self, selector: Selector, limit: int, after: str = "") -> Sequence[Attestation]:
        """ALIVE ones that a selector hits, in id order after an id.

        Kinds: ATTESTATION, IDENTITY, KEY, MANIFEST (affirming results), DIGEST (in
        the recorded code set), and NODE, CONTAINER, POD, PROCESS by
        `Attestation.whereabouts`.
        """

    async def last_of_process(self, process: str) -> Attestation | None:
        """The newest, in any state, whose `whereabouts` are a process (the value of a PROCESS selector)."""

    async def loaded(
        self, digests: Sequence[bytes], since: float, limit: int, after: str = ""
    ) -> Sequence[Attestation]:
        """Any state: those whose recorded code set has one of the digests, refreshed at or after `since`, in id
        order after an id."""

    async def page(
        self, since: float, limit: int, after: str = "", identity: str = ""
    ) -> Sequence[Attestation]:
        """Any state: those refreshed at or after `since`, of one identity or (empty) of all, in id order after an
        id."""

    async def count_alive(self, identity: str = "") -> int:
        """How many there are, of an identity or of all."""

    async def due(self, now: float, limit: int) -> Sequence[str]:
        """Ids of ALIVE ones whose `expires_at` is at or before now."""


class CodeSetStore(Protocol):
    """Content-addressed code sets, and what identities call their units, for people."""

    async def put(self, code: CodeSet) -> None:
        """Idempotent. The set is found by its digest alone: enough for one that was only judged."""

    async def index(self, code: CodeSet, most: int) -> bool:
        """Put it, and let up to `most` more of its units find it; True once all do. For sets of attestations, which
        a digest must find: until then `AttestationStore` finds them by some of their units only."""

    async def indexed(self, digest: bytes) -> bool:
        """True where every unit of a set finds it."""

    async def get(self, digest: bytes) -> CodeSet | None: ...
    async def contains(self, digest: bytes, units: Sequence[bytes]) -> bool:
        """True where the set has a unit with one of the digests."""

    async def put_names(self, digest: bytes, identity: str, names: Iterable[UnitHint]) -> None:
        """Add what an identity calls units of a set that is kept, as far as there is room. Of its names for a digest
        the first stays; nobody names anything for another."""

    async def names(self, digest: bytes, identity: str) -> Sequence[UnitHint]:
        """What an identity calls the units of a set."""

    async def prune(self, sets: int, names: int, limit: int) -> int:
        """Drop the oldest sets that were only judged and no attestation has, with their names, beyond `sets` bytes,
        and the oldest names beyond `names` bytes; at most `limit` of each. How many rows went."""


class LeaseStore(Protocol):
    """Leases: no secret exists without a row."""

    async def open(self, lease: Lease) -> None: ...
    async def get(self, lease_id: str) -> Lease | None: ...
    async def by_request(self, attestation_id: str, request_id: str) -> Lease | None:
        """The latest lease of a request id."""

    async def by_handle(self, handle: str) -> Lease | None:
        """The lease of a handle (`jti`)."""

    async def by_stem(self, stem: str) -> Lease | None:
        """The latest lease whose handle is `stem`, a colon, and more: as a backend spells a handle that also says
        something of its own."""

    async def replace(self, lease: Lease, expected: LeaseState) -> bool:
        """Write the row where its state is still `expected`; False otherwise."""

    async def begin_revoking(self, attestation_ids: Sequence[str]) -> int:
        """PENDING and ACTIVE leases of attestations become REVOKING (due now); how many."""

    async def of_attestation(self, attestation_id: str) -> Sequence[Lease]: ...
    async def page(
        self, states: Sequence[LeaseState], limit: int, after: str = "", attestation_id: str = ""
    ) -> Sequence[Lease]:
        """In id order; empty `states` is all."""

    async def due(self, now: float, limit: int) -> Sequence[Lease]:
        """ACTIVE ones past `expires_at`, PENDING ones past `next_attempt_at`, REVOKING and STUCK ones whose
        `next_attempt_at` is at or before now."""

    async def unsettled(self, attestation_ids: Sequence[str]) -> int:
        """How many leases of some attestations are PENDING, ACTIVE, REVOKING or STUCK."""

    async def drop(self, ids: Sequence[str]) -> None:
        """Forget rows; unknown ids are passed over."""

    async def count(self) -> Mapping[LeaseState, int]:
        """Live states only."""


class AccountStore(Protocol):
    """Accounts at backends: none exists without a row."""

    async def add(self, account: Account) -> None: ...
    async def get(self, account_id: str) -> Account | None: ...
    async def replace(self, account: Account, expected: AccountState) -> bool:
        """Write the row where its state is still `expected`; False otherwise."""

    async def of_attestation(self, attestation_id: str) -> Sequence[Account]:
        """In id order."""

    async def begin_closing(self, attestation_ids: Sequence[str], now: float) -> int:
        """OPENING and OPEN accounts of attestations become CLOSING (due now); how many."""

    async def due(self, now: float, limit: int) -> Sequence[Account]:
        """CLOSING and STUCK ones whose `next_attempt_at` is at or before now, longest due first."""

    async def unsettled(self, attestation_ids: Sequence[str]) -> int:
        """How many accounts of some attestations are not CLOSED."""

    async def page(self, states: Sequence[AccountState], limit: int, after: str = "") -> Sequence[Account]:
        """In id order after an id; empty `states` is all."""


class RevocationStore(Protocol):
    """The log with its one counter, and the acts that wrote it."""

    async def head(self) -> LogHead: ...
    async def append(self, entries: Sequence[NewEntry]) -> Sequence[LogEntry]:
        """Advance the counter and write, chained; entries get consecutive sequences."""

    async def since(self, seq: int, limit: int) -> Sequence[LogEntry]:
        """Entries after a sequence, in order; what was pruned is missing."""

    async def entry(self, seq: int) -> LogEntry | None: ...
    async def live(self) -> Sequence[LogEntry]:
        """Entries that may still deny, in order: not pruned, with the EXPANDED and LIFTED ones after them."""

    async def prune(self, seqs: Sequence[int]) -> None: ...
    async def begin_anew(self, head: LogHead, decision_id: str) -> None:
        """The log goes on as another one, from `head` on: the state was restored from a copy, by a decision.

        Raises `Conflict` where `head` is not beyond the position so far.
        """

    async def restored(self) -> LogHead | None:
        """Where the log began anew last; None where it never did."""

    async def put(self, revocation: Revocation) -> None:
        """Insert or replace by id."""

    async def get(self, revocation_id: str) -> Revocation | None: ...
    async def page(
        self, limit: int, after: str = "", state: RevocationState | None = None
    ) -> Sequence[Revocation]:
        """In id order after an id."""

    async def newest(self, limit: int, state: RevocationState) -> Sequence[Revocation]:
        """The last ones in id order, the last first."""

    async def hit(self, revocation_id: str, attestation_ids: Sequence[str]) -> None:
        """Record which attestations a revocation ended; idempotent."""

    async def hits(self, revocation_id: str, limit: int, after: str = "") -> Sequence[str]: ...


class ProposalStore(Protocol):
    """Revocations that take more than one operator."""

    async def put(self, proposal: Proposal) -> None:
        """Insert or replace by id; of its preview, the instances that are shown are not kept."""

    async def get(self, proposal_id: str) -> Proposal | None: ...
    async def page(self, limit: int, after: str = "") -> Sequence[Proposal]:
        """In id order after an id."""

    async def waiting(self, now: float) -> int:
        """How many are OPEN and not over."""


class DetectionStore(Protocol):
    """Reports and how they ended."""

    async def add(self, record: DetectionRecord) -> None: ...
    async def get(self, detection_id: str) -> DetectionRecord | None: ...
    async def decide(self, record: DetectionRecord) -> bool:
        """Write how a held report ended (state, reason, decision, revocation, instances, siblings, who decided); False
        where it is not HELD any more."""

    async def by_event(self, detector: str, event_id: str) -> DetectionRecord | None: ...
    async def applied_instances(self, detector: str, since: float) -> int:
        """How many distinct instances a detector's APPLIED reports have revoked since a time.

        What a report only put in quarantine is no hit of its revocation, and does not count.
        """

    async def denied_instances(self, detector: str, since: float) -> int:
        """How many distinct instances a detector's reports have revoked or put in quarantine since a time."""

    async def siblings(self, detector: str, since: float, revoked_only: bool) -> int:
        """The sum of what those reports stopped besides; of those that revoked somebody, or of all that denied."""

    async def drop(self, ids: Sequence[str]) -> None:
        """Forget rows; unknown ids are passed over."""

    async def page(
        self, states: Sequence[DetectionState], limit: int, after: str = ""
    ) -> Sequence[DetectionRecord]: ...


class DecisionStore(Protocol):
    """Why."""

    async def add(self, decision: Decision) -> None: ...
    async def get(self, decision_id: str) -> Decision | None: ...
    async def page(self, since: float, limit: int, after: str = "") -> Sequence[Decision]: ...
    async def following(self, after: str, limit: int) -> Sequence[Decision]:
        """In the order in which they were committed, after the one of an id (empty: from the first); none where
        the id is unknown."""

    async def drop(self, ids: Sequence[str]) -> None:
        """Forget rows; unknown ids are passed over."""


class RoleVersionStore(Protocol):
    """Full text of every role version that a decision rests on."""

    async def record(self, role: Role, now: float) -> None:
        """Idempotent by version digest."""

    async def text(self, version: bytes) -> str | None: ...


class ManifestStore(Protocol):
    """Published manifests. (application, version) binds one digest; withdrawn ones are tombstones."""

    async def add(self, record: ManifestRecord) -> bool:
        """False where (application, version) or the digest is there already."""

    async def add_signatures(self, digest: bytes, envelope: bytes, signers: Sequence[str]) -> None: ...
    async def get(self, digest: bytes) -> ManifestRecord | None: ...
    async def by_version(self, application: str, version: int) -> ManifestRecord | None: ...
    async def of_application(
        self, application: str, states: Sequence[ManifestState]
    ) -> Sequence[ManifestRecord]:
        """Newest version first; empty `application` is all."""

    async def digests(self, application: str, states: Sequence[ManifestState], limit: int) -> Sequence[bytes]:
        """Which those are, newest version first, without reading any."""

    async def set_state(self, digest: bytes, state: ManifestState) -> bool: ...
    async def reached(self, application: str) -> int:
        """The greatest version that came into force, and counts; 0 where there is none."""

    async def floor(self, application: str) -> int:
        """The least version that may be published: `min_version`."""

    async def raise_floor(self, application: str, version: int) -> None:
        """Never lowers."""

    async def lower_floor(self, application: str, version: int) -> None:
        """The floor is `version`, and what was reached from there on does not count any more."""

    async def last_index(self, application: str) -> tuple[int, bytes]:
        """(version, SHA-256 of the payload) of the signed folder's index that was taken last; (0, b"") before."""

    async def put_index(self, application: str, version: int, digest: bytes) -> None:
        """Remember the index that was taken."""

    async def digests_of_package(self, purl: str) -> Sequence[bytes]:
        """Unit digests that any manifest lists under a package URL."""

    async def packages_of_digests(self, digests: Sequence[bytes]) -> Mapping[bytes, str]:
        """Package URLs that any manifest gives digests, unit or whole file."""


class ReplayStore(Protocol):
    """Things that count once: nonces, proofs, webhook ids."""

    async def claim(self, scope: str, key: bytes, expires_at: float) -> bool:
        """True for the first claim, False for every later one until it expires."""

    async def prune(self, now: float, limit: int) -> int: ...


class Transaction(Protocol):
    """The stores of one transaction; valid only inside `work`."""

    @property
    def attestations(self) -> AttestationStore: ...
    @property
    def code(self) -> CodeSetStore: ...
    @property
    def leases(self) -> LeaseStore: ...
    @property
    def accounts(self) -> AccountStore: ...
    @property
    def revocations(self) -> RevocationStore: ...
    @property
    def detections(self) -> DetectionStore: ...
    @property
    def decisions(self) -> DecisionStore: ...
    @property
    def roles(self) -> RoleVersionStore: ...
    @property
    def manifests(self) -> ManifestStore: ...
    @property
    def proposals(self) -> ProposalStore: ...
    @property
    def replays(self) -> ReplayStore: ...


class StateStore(Protocol):
    """Durable state. `work` awaits nothing but its transaction, may be run again, and leaves nothing behind
    when it raises; a foreign await is `Misuse`."""

    async def transact(self, work: Callable[[Transaction], Awaitable[T]], *, urgent: bool = False) -> T:
        """Returns only when durable; raises `Unavailable` (state_unavailable) when it cannot be."""

    async def read(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        """One snapshot; writing raises `Misuse`."""

    async def close(self) -> None:
        """Finish what is queued, then close."""


# --- telling --------------------------------------------------------------------------------------


class Subscription(Protocol):
    """One watcher's place in the feed: a bounded queue."""

    async def next(self, timeout: float) -> LogEntry | None:
        """The next entry, or None after `timeout` seconds; `LimitExceeded` once the queue overflowed."""

    def acknowledge(self, seq: int) -> None:
        """The watcher has applied everything up to `seq`."""

    def close(self) -> None: ...


class RevocationFeed(Protocol):
    """The revocation log as this replica knows it, live."""

    @property
    def denials(self) -> DenySet:
        """What is denied now."""

    async def catch_up(self) -> int:
        """Read the head and apply what is new; the sequence applied. Raises `Unavailable`."""

    async def fence(self) -> int:
        """The sequence applied, once nothing is missing that another replica committed before the call.

        What this process is writing itself may be missing: `denials` anticipates it. Raises `Unavailable`.
        """

    def announce(self, entries: Sequence[LogEntry]) -> None:
        """Entries that this replica has just committed: apply them and wake the watchers. Never blocks."""

    def subscribe(self, audience: str, *, verifier: bool = False) -> Subscription:
        """A queue of everything announced from now on. `audience` names the watcher for `told`; a `verifier` takes
        tokens by what it hears, and does so for some seconds after it has gone.
        Raises `LimitExceeded` beyond the configured number."""

    def told(self, seq: int) -> Mapping[str, tuple[int, int]]:
        """Per audience: (watchers, those of them that acknowledged `seq` or later). A verifier that has gone without
        that counts until it has failed closed."""

    def told_at(self, seq: int) -> float | None:
        """When (seconds, UTC) the last of those who watch acknowledged `seq`; None where one has not, or nobody
        watches."""

    @property
    def knows_verifiers(self) -> bool:
        """False for some seconds after the start: those that watched the process before may not be back yet."""

    def age(self) -> float:
        """Seconds since this replica's state was known to be current."""

    async def wait_acknowledged(self, seq: int, timeout: float) -> bool:
        """True once every subscriber has acknowledged `seq`; False after `timeout` seconds."""


class AuditLog(Protocol):
    """Where decisions leave the process as records for people and machines; never a secret."""

    def record(self, decision: Decision) -> None:
        """Called after the decision's transaction has committed: news, of which none is missed for good, since
        whoever writes the records follows the rows."""
