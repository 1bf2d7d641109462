"""SdkEvidence: what a workload says of itself, signed by its instance key (assurance level self)."""

from __future__ import annotations

import hashlib
import hmac
import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, repeat, starmap
from types import MappingProxyType
from typing import Final

from google.protobuf.message import DecodeError

from broker.adapters.evidence.remembered import RememberedSets
from broker.crypto.proof import parse_instance_key, verification_key
from broker.errors import Denied, InvalidRequest
from broker.model.evidence import (
    AnonymousCode,
    Assurance,
    Evidence,
    InstanceKey,
    ProcessRef,
    SealedEvidence,
    Unit,
    UnitHint,
    UnknownCode,
)
from lockstep.formats import Reason, UnitKind, code_set_digest, evidence_signing_input
from lockstep.v1 import evidence_pb2

DIGEST_SIZE: Final = 32

_KINDS: Final[Mapping[int, UnitKind]] = MappingProxyType(
    {evidence_pb2.UnitKind.Value(f"UNIT_KIND_{kind.name}"): kind for kind in UnitKind}
)


@dataclass(frozen=True, slots=True)
class EvidenceLimits:
    """The most that one statement may hold; `statement` in bytes, `text` in characters.

    `age` is how far (seconds) the time of the measurement may lie from now. It is by the workload's clock, which
    proves nothing: a challenge says that the statement is fresh, this that what it says was not measured long before.
    `remembered` is how many units of sets that were read before are kept.
    """

    statement: int = 8 * 1024 * 1024
    units: int = 50_000
    hints: int = 50_000
    unknown: int = 1_000
    anonymous: int = 1_000
    text: int = 4_096
    age: float = 300.0
    remembered: int = 500_000


class SdkEvidence:
    """An `EvidenceVerifier` for statements of level self.

    A failure is `Denied` (evidence_rejected) where signature or binding do not
    hold, and `InvalidRequest` where the statement is malformed or too large.
    Neither is worth a retry with the same bytes.
    """

    def __init__(self, limits: EvidenceLimits = EvidenceLimits()) -> None:
        self._limits = limits
        self._read_before = RememberedSets(limits.remembered)

    def parse_key(self, spki: bytes) -> InstanceKey:
        """The instance key; raises `InvalidRequest` for another type than P-256 or Ed25519, or another spelling."""
        try:
            return parse_instance_key(spki)
        except ValueError as error:
            raise InvalidRequest(f"instance_key: {error}") from None

    async def verify(self, sealed: SealedEvidence, key: InstanceKey, nonce: bytes, now: float) -> Evidence:
        """Signature, binding, form, age; then, and only then, what the statement says."""
        # 1. Bounds and level: what a workload signs about itself is never more than level self.
        if len(sealed.statement) > self._limits.statement:
            raise InvalidRequest("evidence: the statement is too large", reason=Reason.TOO_LARGE)
        if sealed.level != Assurance.SELF or sealed.key_id:
            raise _rejected("the level is not the signer's")
        # 2. Signed by the instance key, over the very bytes that are parsed below.
        signed = evidence_signing_input(sealed.statement)
        if not verification_key(key.spki).verifies(key.algorithm, signed, sealed.signature):
            raise _rejected("the signature does not hold")
        try:
            statement = evidence_pb2.EvidenceStatement.FromString(sealed.statement)
        except DecodeError:
            raise InvalidRequest("evidence: the statement is malformed") from None
        # 3. Bound to this challenge and this key (RFC 9334 section 10.2).
        if not hmac.compare_digest(statement.nonce, nonce):
            raise _rejected("it is for another challenge")
        if not hmac.compare_digest(statement.key_thumbprint, key.thumbprint):
            raise _rejected("it is for another key")
        # 4. In its one form, within bounds, and consistent with itself.
        evidence = self._read(statement)
        if abs(now - evidence.measured_at) > self._limits.age:
            raise _rejected("it was measured too long ago, or the workload's clock is wrong")
        return evidence

    def _read(self, statement: evidence_pb2.EvidenceStatement) -> Evidence:
        limits = self._limits
        _bounded("hints", len(statement.hints), limits.hints)
        _bounded("unknown", len(statement.unknown), limits.unknown)
        _bounded("anonymous", len(statement.anonymous), limits.anonymous)
        units, digest = self._units(statement)
        base = statement.base_digest
        if len(statement.code_set_digest) != DIGEST_SIZE or len(base) not in (0, DIGEST_SIZE):
            raise InvalidRequest("evidence: a digest of the code set is malformed")
        # With a base, `units` is only what was added, and the whole is known to the state alone.
        if not base and statement.code_set_digest != digest:
            raise _rejected("the code set is not what its digest says")
        if not math.isfinite(statement.measured_at):
            raise InvalidRequest("evidence: measured_at is malformed")
        return Evidence(
            level=Assurance.SELF,
            key_thumbprint=statement.key_thumbprint,
            process=self._process(statement.subject),
            units=units,
            code_set_digest=statement.code_set_digest,
            base_digest=base,
            hints=self._hints(statement),
            unknown=tuple(
                UnknownCode(_kind(item.kind), self._text(item.name), self._text(item.reason))
                for item in statement.unknown
            ),
            anonymous=tuple(
                AnonymousCode(item.size, self._text(item.permissions), item.deleted, self._text(item.name))
                for item in statement.anonymous
            ),
            watched_since_exec=statement.watched_since_exec,
            measured_at=statement.measured_at,
            measurer=self._text(statement.measurer),
        )

    def _units(self, statement: evidence_pb2.EvidenceStatement) -> tuple[frozenset[Unit], bytes]:
        _bounded("kinds", len(statement.units), len(_KINDS))
        _bounded("units", sum(len(each.digests) for each in statement.units), self._limits.units)
        # A fleet runs the same code, and attests it again and again.
        spelled = tuple(hashlib.sha256(each.SerializeToString()).digest() for each in statement.units)
        known = self._read_before.get(spelled)
        if known is not None:
            return known
        by_kind: dict[UnitKind, list[bytes]] = {}
        for each in statement.units:
            kind = _kind(each.kind)
            if kind is None or kind in by_kind:
                raise InvalidRequest("evidence: a kind of unit is unknown or occurs twice")
            by_kind[kind] = digests = list(each.digests)
            if not _canonical(digests):
                raise InvalidRequest(f"evidence: the digests of {kind} are not SHA-256 in ascending order")
        units = frozenset(
            chain.from_iterable(map(Unit, repeat(kind), digests) for kind, digests in by_kind.items())
        )
        pairs = chain.from_iterable(zip(repeat(str(kind)), digests) for kind, digests in by_kind.items())
        return self._read_before.keep(spelled, units, code_set_digest(pairs))

    def _hints(self, statement: evidence_pb2.EvidenceStatement) -> tuple[UnitHint, ...]:
        # In columns: there are as many hints as units, and one check of a column costs less than one of each item.
        rows = [(hint.digest, hint.path, hint.name) for hint in statement.hints]
        if not _all_of_size([row[0] for row in rows]):
            raise InvalidRequest("evidence: the digest of a hint is malformed")
        self._check_texts([text for row in rows for text in row[1:]])
        return tuple(starmap(UnitHint, rows))

    def _process(self, subject: evidence_pb2.Subject) -> ProcessRef:
        if subject.pid < 0:
            raise InvalidRequest("evidence: the process id is malformed")
        return ProcessRef(
            node=self._text(subject.node),
            boot_id=self._text(subject.boot_id),
            pid=subject.pid,
            start_ticks=subject.start_ticks,
            exec_seq=subject.exec_seq,
            container_id=self._text(subject.container_id),
            pod_uid=self._text(subject.pod_uid),
        )

    def _text(self, value: str) -> str:
        self._check_texts((value,))
        return value

    def _check_texts(self, values: Sequence[str]) -> None:
        # NUL: no path or name has one, and not every store can keep it.
        if max(map(len, values), default=0) > self._limits.text or "\x00" in "".join(values):
            raise InvalidRequest("evidence: a text is too long or has a NUL")


def _rejected(why: str) -> Denied:
    return Denied(Reason.EVIDENCE_REJECTED, f"the evidence is refused: {why}")


def _bounded(what: str, count: int, limit: int) -> None:
    if count > limit:
        raise InvalidRequest(f"evidence: more than {limit} {what}", reason=Reason.TOO_LARGE)


def _kind(value: int) -> UnitKind | None:
    return _KINDS.get(value)


def _canonical(digests: list[bytes]) -> bool:
    return _all_of_size(digests) and all(map(operator.lt, digests, digests[1:]))


def _all_of_size(digests: Iterable[bytes]) -> bool:
    return set(map(len, digests)) <= {DIGEST_SIZE}
