"""Decisions as JSON lines, each chained to the one before by its hash."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Final

from broker.errors import Unavailable
from broker.model.appraisal import Finding
from broker.model.decision import Decision, Effect
from lockstep.formats import Reason, audit_content_digest, audit_json, audit_line_hash, audit_line_whole

GENESIS: Final = "0" * 64
_TAIL: Final = 256 * 1024
_TAKEN_BACK: Final = tuple(
    f'"effect":"{effect}"'.encode() for effect in (Effect.REVOKED, Effect.QUARANTINED, Effect.LIFTED)
)


class AuditLines:
    """A file of lines, for one thread at a time.

    Each line is canonical JSON with `chain` (whose line), `n` (counts from 1 in
    the chain), `prev`, `digest` of its content (a `decision` or a `checkpoint`)
    and `hash` (`lockstep.formats.audit_line_hash`). What a disk refused is raised
    to who writes, and is written again: a chain has no holes.
    """

    def __init__(self, out: BinaryIO, chain: str, *, previous: str = GENESIS, last: str = "") -> None:
        """`chain` names this process's run; `previous` is the hash of the line that `out` ends with, `last` the id
        of its last decision."""
        self._out = out
        self._chain = chain
        self._previous = previous
        self._last = last
        self._count = 0
        self._torn = False
        self._owned = False

    @classmethod
    def append_to(cls, path: Path, chain: str) -> AuditLines:
        """Go on with a file (mode 0600), chained to its last line. Raises `Unavailable` where it cannot be opened."""
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            out = os.fdopen(handle, "r+b", buffering=0)
            end, decision, torn = _ending(out)
            if (
                torn
            ):  # a crash cut the last line short: it stays, as a line of its own that verifies as nothing
                out.write(b"\n")
        except OSError as error:
            message = f"the audit log cannot be opened ({error.strerror})"
            raise Unavailable(Reason.STATE_UNAVAILABLE, message) from error
        previous = GENESIS if end is None else end["hash"]
        found = cls(out, chain, previous=previous, last=_named(decision)[0])
        found._owned = True
        return found

    @property
    def last(self) -> str:
        """The id of the last decision that was written; empty where there is none."""
        return self._last

    @property
    def head(self) -> tuple[str, int, str]:
        """(chain, lines of it, hash of the last line): what a checkpoint signs."""
        return self._chain, self._count, self._previous

    def append(self, decision: Decision) -> None:
        """Write a decision. Raises `Unavailable`; then nothing of it counts."""
        self._append("decision", audit_record(decision))
        self._last = decision.id

    def checkpoint(self, token: str) -> None:
        """Write a signed head, a compact JWS. Raises `Unavailable`."""
        self._append("checkpoint", token)

    def sync(self) -> None:
        """What was written is on the disk. Raises `Unavailable`."""
        try:
            os.fsync(self._out.fileno())
        except OSError as error:
            raise _unwritten(error) from error

    def close(self) -> None:
        """A file that was opened here is closed."""
        if self._owned:
            self._out.close()

    def _append(self, name: str, content: object) -> None:
        line = {
            "chain": self._chain,
            "n": self._count + 1,
            "prev": self._previous,
            "digest": audit_content_digest(content),
        }
        found = audit_line_hash(line)
        self._emit(audit_json({**line, name: content, "hash": found}) + b"\n")
        self._count += 1
        self._previous = found

    def _emit(self, line: bytes) -> None:
        # A line that was cut short is ended first, so that it spoils no other.
        data = b"\n" + line if self._torn else line
        rest = memoryview(data)
        try:
            while rest:
                written = self._out.write(rest)
                if not written:
                    raise BlockingIOError
                rest = rest[written:]
            self._out.flush()
        except OSError as error:
            # All but its end: the line stands, and the next one ends it first. Written again, it would be there twice.
            if len(rest) == 1:
                self._torn = True
                return
            self._torn = self._torn or len(rest) < len(data)
            raise _unwritten(error) from error
        self._torn = False


def _unwritten(error: OSError) -> Unavailable:
    return Unavailable(Reason.STATE_UNAVAILABLE, f"the audit log cannot be written ({error.strerror})")


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What a file of audit lines holds: lines, chains, decisions that chains say were lost, lines cut short."""

    lines: int
    chains: int
    lost: int
    torn: int
    head: str


def verify_lines(lines: Iterable[bytes]) -> AuditReport:
    """Follow every hash. Raises ``ValueError`` with the number of the line where the chain breaks.

    A file that was cut at its end verifies: compare `head` with a checkpoint.
    """
    counts: dict[str, int] = {}
    good = lost = torn = 0
    previous = GENESIS
    for number, line in enumerate(lines, 1):
        content = parsed(line)
        if content is None:
            torn += 1
            continue
        claimed = content["hash"]
        chain = str(content.get("chain"))
        expected = counts.get(chain, 0) + 1
        if content.get("prev") != previous or content.get("n") != expected or not audit_line_whole(content):
            raise ValueError(f"line {number} does not follow the one before it")
        counts[chain] = expected
        previous = claimed
        good += 1
        lost += content.get("lost", 0)
    return AuditReport(good, len(counts), lost, torn, previous)


def audit_record(decision: Decision) -> dict[str, Any]:
    """A decision for people and machines; what is empty is left out. Times are RFC 3339, digests hexadecimal."""
    content: dict[str, Any] = {
        "id": decision.id,
        "kind": decision.kind,
        "at": datetime.fromtimestamp(decision.at, UTC).isoformat(timespec="microseconds"),
        "verdict": decision.verdict,
        "effect": decision.effect,
        "mode": decision.mode,
        "identity": decision.identity,
        "attestation": decision.attestation_id,
        "role": decision.role,
        "role_version": decision.role_version.hex(),
        "application": decision.application,
        "manifests": [digest.hex() for digest in decision.manifests],
        "code_set": decision.code_set.hex(),
        "findings": [_finding(finding) for finding in decision.findings],
        "findings_total": decision.findings_total,
        "detection": decision.detection_id,
        "revocation": decision.revocation_id,
        "instances": list(decision.instances),
        "actor": decision.actor,
        "ticket": decision.ticket,
        "detail": decision.detail,
    }
    return {name: value for name, value in content.items() if value}


def _finding(finding: Finding) -> dict[str, str]:
    content = {
        "reason": str(finding.reason),
        "kind": str(finding.kind or ""),
        "digest": finding.digest.hex(),
        "path": finding.path,
        "name": finding.name,
    }
    return {name: value for name, value in content.items() if value}


def parsed(line: bytes) -> dict[str, Any] | None:
    """A line of the log; None for what is none, or was cut short."""
    try:
        content = json.loads(line)
    except ValueError:
        return None
    return content if isinstance(content, dict) and isinstance(content.get("hash"), str) else None


def last_decision(path: Path) -> tuple[str, str]:
    """(id, time) of the last decision of a file; two empty texts where there is none.

    Raises `Unavailable` where it cannot be read.
    """
    try:
        with path.open("rb") as file:
            decision = _ending(file)[1]
    except FileNotFoundError:
        return "", ""
    except OSError as error:
        message = f"the audit log cannot be read ({error.strerror})"
        raise Unavailable(Reason.STATE_UNAVAILABLE, message) from error
    return _named(decision)


def taken_back(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """The decisions that revoked, banned or lifted something, as `audit_record` writes them."""
    for line in lines:
        # Most lines are grants, and a file may have millions of them.
        if any(effect in line for effect in _TAKEN_BACK):
            content = parsed(line)
            if content is not None and isinstance(content.get("decision"), dict):
                yield content["decision"]


def _named(decision: Mapping[str, Any] | None) -> tuple[str, str]:
    return ("", "") if decision is None else (str(decision.get("id", "")), str(decision.get("at", "")))


def _ending(out: BinaryIO) -> tuple[dict[str, Any] | None, dict[str, Any] | None, bool]:
    """(the last whole line, the last decision, whether something follows the last line feed)."""
    size = out.seek(0, os.SEEK_END)
    span = _TAIL
    while True:
        start = max(0, size - span)
        out.seek(start)
        tail = out.read(size - start)
        # The first piece may be the end of a line that begins before it; it is looked at again with more.
        pieces = tail.split(b"\n")[1 if start else 0 :]
        whole = [found for piece in pieces if (found := parsed(piece)) is not None]
        decisions = (line["decision"] for line in reversed(whole) if isinstance(line.get("decision"), dict))
        decision = next(decisions, None)
        if decision is not None or not start:
            return whole[-1] if whole else None, decision, bool(tail) and not tail.endswith(b"\n")
        span *= 4
