"""Whom a report speaks of, and whom a selector may name: pure rules."""

from __future__ import annotations

from broker.model.attestation import Attestation
from broker.model.detection import DetectionSubject
from broker.model.evidence import ProcessRef
from broker.model.revocation import Selector, SelectorKind, process_value

_HEX_KINDS = (SelectorKind.MANIFEST, SelectorKind.DIGEST, SelectorKind.KEY)
MAX_VALUE = 2048


def subject_selector(subject: DetectionSubject) -> Selector | None:
    """The most exact selector that a subject gives: attestation, process, container, pod, SPIFFE ID.

    None where it is incomplete: it might be one of ours, and no selector says which.
    """
    process = subject.process
    if subject.attestation_id:
        return Selector(SelectorKind.ATTESTATION, subject.attestation_id)
    if process.exact():
        return Selector(SelectorKind.PROCESS, process_value(process))
    if process.container_id:
        return Selector(SelectorKind.CONTAINER, process.container_id)
    if process.pod_uid:
        return Selector(SelectorKind.POD, process.pod_uid)
    if subject.spiffe_id:
        return Selector(SelectorKind.IDENTITY, subject.spiffe_id)
    return None


def may_be(attestation: Attestation, process: ProcessRef) -> bool:
    """True where nothing that both sides say contradicts, and at least one thing beyond the node agrees
    or only the node was said."""
    where = attestation.whereabouts
    said = (
        (process.boot_id, where.boot_id),
        (process.pid, where.pid),
        (process.start_ticks, where.start_ticks),
        (process.container_id, where.container_id),
        (process.pod_uid, where.pod_uid),
    )
    return all(not one or not other or one == other for one, other in said)


def selector_problem(selector: Selector) -> str:
    """What is wrong with a selector's value; empty where it is well formed."""
    value = selector.value
    if not value or len(value) > MAX_VALUE or not value.isprintable():
        return f"1 to {MAX_VALUE} printable characters"
    if selector.kind in _HEX_KINDS and (
        len(value) != 64 or any(character not in "0123456789abcdef" for character in value)
    ):
        return "32 bytes, as 64 lower-case hexadecimal digits"
    if selector.kind is SelectorKind.PACKAGE and not (value.startswith("pkg:") and "@" in value):
        return "a package URL with a version, such as pkg:pypi/name@1.0"
    return ""
