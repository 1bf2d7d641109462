"""What every state plug keeps to alike: bounds, and which selector finds what."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final, TypeVar

from broker.errors import Conflict, InvalidRequest, Misuse
from broker.model.attestation import Attestation
from broker.model.decision import Decision
from broker.model.evidence import UnitHint
from broker.model.manifest import Manifest
from broker.model.revocation import (
    LogEntry,
    LogHead,
    NewEntry,
    Selector,
    SelectorKind,
    attestation_keys,
    chain,
)

Key = TypeVar("Key")

MAX_FINDINGS: Final = 256
"""How many findings of a decision are kept; `Decision.findings_total` counts all."""

MAX_NAMES: Final = 5_000
MAX_NAMES_TEXT: Final = 512 * 1024
"""How many names of one set an identity has at most, and how many characters of text they are."""

LEAST_SIZE: Final = 4_096
"""What anything takes at least in a file, in bytes."""

ATTESTATION_KINDS: Final = frozenset(SelectorKind) - {
    SelectorKind.LEASE,
    SelectorKind.TOKEN,
    SelectorKind.PACKAGE,
}
"""Selectors that find attestations by what the store knows of them."""


def capped(decision: Decision) -> Decision:
    """The decision with as many findings as are kept, and their full count."""
    total = max(decision.findings_total, len(decision.findings))
    if total == decision.findings_total and len(decision.findings) <= MAX_FINDINGS:
        return decision
    return replace(decision, findings=decision.findings[:MAX_FINDINGS], findings_total=total)


def merged_names(known: Iterable[UnitHint], names: Iterable[UnitHint]) -> Sequence[UnitHint]:
    """What is known, and after it what is new, as far as there is room; the first name of a digest stays."""
    found: dict[bytes, UnitHint] = {}
    text = 0
    for hint in (*known, *names):
        text += len(hint.path) + len(hint.name) if hint.digest not in found else 0
        if len(found) >= MAX_NAMES or text > MAX_NAMES_TEXT:
            break
        found.setdefault(hint.digest, hint)
    return tuple(found.values())


def beyond(rows: Iterable[tuple[Key, int]], budget: int, limit: int) -> Sequence[Key]:
    """Of (key, bytes), newest first, those that lie beyond a budget: the oldest, at most `limit`."""
    total = 0
    gone: deque[Key] = deque(maxlen=limit)
    for key, size in rows:
        total += max(size, LEAST_SIZE)
        if total > budget:
            gone.append(key)
    return tuple(gone)


def check_kind(selector: Selector) -> None:
    """Raises `Misuse` where a selector finds no attestations."""
    if selector.kind not in ATTESTATION_KINDS:
        raise Misuse(f"attestations cannot be found by {selector.kind}")


def chained(head: LogHead, entries: Sequence[NewEntry]) -> tuple[LogEntry, ...]:
    """Entries after a head; raises `InvalidRequest` where a text of one has no bytes to hash (a lone surrogate)."""
    try:
        return chain(head, entries)
    except UnicodeEncodeError as error:
        raise InvalidRequest("a text that is not Unicode cannot enter the revocation log") from error


def check_anew(before: LogHead, head: LogHead) -> None:
    """Raises `Conflict` where a log that begins anew would use a sequence again."""
    if head.seq <= before.seq or head.log_id == before.log_id:
        raise Conflict("a log that begins anew has another id and a greater sequence")


def selector_digest(selector: Selector) -> bytes | None:
    """The bytes of a hexadecimal value; None where it is none (and so hits nothing)."""
    try:
        digest = bytes.fromhex(selector.value)
    except ValueError:
        return None
    return digest if digest.hex() == selector.value else None


def single_keys(attestation: Attestation) -> Mapping[SelectorKind, str]:
    """The selectors of an attestation of which it has one of a kind: identity, key and place."""
    return {
        key.kind: key.value
        for key in attestation_keys(attestation)
        if key.kind not in (SelectorKind.ATTESTATION, SelectorKind.MANIFEST)
    }


def refreshed(old: Attestation, new: Attestation) -> Attestation:
    """`old` with the mutable part of `new`."""
    return replace(
        old,
        identity=new.identity,
        process=new.process,
        results=new.results,
        code_set=new.code_set,
        refreshed_at=new.refreshed_at,
        expires_at=new.expires_at,
        as_of=new.as_of,
        unmeasured=new.unmeasured,
    )


def package_digests(manifest: Manifest) -> Mapping[tuple[str, bytes], bool]:
    """(package URL, digest) of everything that a manifest places in a package; True where it is a unit's digest."""
    found: dict[tuple[str, bytes], bool] = {}
    for entry in manifest.units.values():
        if entry.package:
            for digest in entry.file_digests:
                found.setdefault((entry.package, digest), False)
            found[entry.package, entry.unit.digest] = True
    return found
