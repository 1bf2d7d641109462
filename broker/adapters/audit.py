"""Decisions as JSON lines, each chained to the one before by its hash."""

from __future__ import annotations

import json
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Final

from broker.errors import Unavailable
from broker.model.appraisal import Finding
from broker.model.decision import Decision, Effect
from lockstep.formats import Reason, audit_line, audit_line_hash

GENESIS: Final = "0" * 64
_TAIL: Final = 4 * 1024 * 1024
_QUEUE: Final = 16_384
_TAKEN_BACK: Final = tuple(
    f'"effect":"{effect}"'.encode() for effect in (Effect.REVOKED, Effect.QUARANTINED, Effect.LIFTED)
)


class AuditLines:
    """Plug of `broker.ports.AuditLog`: writes on a thread of its own, since a slow disk or pipe must not stop the loop.

    Each line is canonical JSON with `chain` (whose line), `n` (counts from 1 in
    the chain), `prev` and `hash`; `hash` is the SHA-256 of the line without it.
    Decisions are durable in the state before they come here. What could not be
    written, because the disk was full or the queue was, is counted in `lost` of
    the next line: a chain never hides a hole.
    """

    def __init__(self, out: BinaryIO, chain: str, *, previous: str = GENESIS, queue: int = _QUEUE) -> None:
        """`chain` names this process's run; `previous` is the hash of the line that `out` ends with."""
        self._out = out
        self._chain = chain
        self._previous = previous
        self._count = 0
        self._bound = queue
        self._queue: deque[Decision] = deque()
        self._lost = 0
        self._torn = False
        self._owned = False
        self._closed = False
        self._change = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self._thread.start()

    @classmethod
    def append_to(cls, path: Path, chain: str) -> AuditLines:
        """Go on with a file (mode 0600), chained to its last line. Raises `Unavailable` where it cannot be opened."""
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            out = os.fdopen(handle, "r+b", buffering=0)
            previous, torn = _last_hash(out)
            if (
                torn
            ):  # a crash cut the last line short: it stays, as a line of its own that verifies as nothing
                out.write(b"\n")
        except OSError as error:
            message = f"the audit log cannot be opened ({error.strerror})"
            raise Unavailable(Reason.STATE_UNAVAILABLE, message) from error
        found = cls(out, chain, previous=previous)
        found._owned = True
        return found

    def record(self, decision: Decision) -> None:
        """Queue a decision; never blocks, never raises."""
        with self._change:
            if self._closed or len(self._queue) >= self._bound:
                self._lost += 1
                return
            self._queue.append(decision)
            self._change.notify()

    def extend(self, decisions: Iterable[Decision]) -> None:
        """Queue decisions that must not be lost, waiting for room: not for the loop's thread."""
        for decision in decisions:
            with self._change:
                self._change.wait_for(lambda: len(self._queue) < self._bound or self._closed)
                if self._closed:
                    return
                self._queue.append(decision)
                self._change.notify_all()

    @property
    def head(self) -> tuple[str, int, str]:
        """(chain, lines, hash of the last): what a checkpoint signs."""
        with self._change:
            return self._chain, self._count, self._previous

    def close(self, timeout: float = 5.0) -> None:
        """Write what is queued, for at most `timeout` seconds; a file that was opened here is closed."""
        with self._change:
            self._closed = True
            self._change.notify()
        self._thread.join(timeout)
        if self._owned and not self._thread.is_alive():
            self._out.close()

    def _run(self) -> None:
        while True:
            with self._change:
                while not (self._queue or self._closed):
                    self._change.wait()
                if not self._queue:
                    return
                decision = self._queue.popleft()
                if len(self._queue) == self._bound - 1:
                    self._change.notify_all()  # who waits for room
                lost = self._lost
            self._write(decision, lost)

    def _write(self, decision: Decision, lost: int) -> None:
        content = {
            "chain": self._chain,
            "n": self._count + 1,
            "prev": self._previous,
            **({"lost": lost} if lost else {}),
            "decision": audit_record(decision),
        }
        found = audit_line_hash(content)
        if not self._emit(audit_line({**content, "hash": found}) + b"\n"):
            with self._change:
                self._lost += 1
            return
        with self._change:
            self._lost -= lost
            self._count += 1
            self._previous = found

    def _emit(self, line: bytes) -> bool:
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
        except OSError:
            self._torn = self._torn or len(rest) < len(data)
            return False
        self._torn = False
        return True


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
        content = _parsed(line)
        if content is None:
            torn += 1
            continue
        claimed = content.pop("hash")
        chain = str(content.get("chain"))
        expected = counts.get(chain, 0) + 1
        if (
            content.get("prev") != previous
            or content.get("n") != expected
            or audit_line_hash(content) != claimed
        ):
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


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        content = json.loads(line)
    except ValueError:
        return None
    return content if isinstance(content, dict) and isinstance(content.get("hash"), str) else None


def last_decision(path: Path) -> tuple[str, str]:
    """(id, time) of the decision on the last whole line of a file; two empty texts where there is none.

    Raises `Unavailable` where it cannot be read.
    """
    try:
        with path.open("rb") as file:
            found = _last_line(file)[0]
    except FileNotFoundError:
        return "", ""
    except OSError as error:
        message = f"the audit log cannot be read ({error.strerror})"
        raise Unavailable(Reason.STATE_UNAVAILABLE, message) from error
    decision = found.get("decision") if found else None
    return _named(decision) if isinstance(decision, dict) else ("", "")


def last_decisions(path: Path) -> list[str]:
    """Ids of the decisions on the last lines of a file (4 MiB of them), in their order; none where there is no file.

    Raises `Unavailable` where it cannot be read.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL))
            parsed = [_parsed(line) for line in file.read(_TAIL).split(b"\n")]
    except FileNotFoundError:
        return []
    except OSError as error:
        message = f"the audit log cannot be read ({error.strerror})"
        raise Unavailable(Reason.STATE_UNAVAILABLE, message) from error
    decisions = [found.get("decision") for found in parsed if found]
    return [str(each.get("id", "")) for each in decisions if isinstance(each, dict)]


def taken_back(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """The decisions that revoked, banned or lifted something, as `audit_record` writes them."""
    for line in lines:
        # Most lines are grants, and a file may have millions of them.
        if any(effect in line for effect in _TAKEN_BACK):
            content = _parsed(line)
            if content is not None and isinstance(content.get("decision"), dict):
                yield content["decision"]


def _named(decision: Mapping[str, Any]) -> tuple[str, str]:
    return str(decision.get("id", "")), str(decision.get("at", ""))


def _last_hash(out: BinaryIO) -> tuple[str, bool]:
    """(hash of the last whole line, whether something follows it)."""
    found, torn = _last_line(out)
    return GENESIS if found is None else found["hash"], torn


def _last_line(out: BinaryIO) -> tuple[dict[str, Any] | None, bool]:
    """(the last whole line, whether something follows it)."""
    size = out.seek(0, os.SEEK_END)
    out.seek(max(0, size - _TAIL))
    tail = out.read(_TAIL)
    torn = bool(tail) and not tail.endswith(b"\n")
    return next((found for line in reversed(tail.split(b"\n")) if (found := _parsed(line))), None), torn
