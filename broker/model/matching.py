"""Whom a report speaks of, and whom a selector may name: pure rules."""

from __future__ import annotations

from broker.model.attestation import Attestation
from broker.model.detection import DetectionSubject
from broker.model.evidence import ProcessRef
from broker.model.revocation import Selector, SelectorKind, place_keys, process_value

_HEX_KINDS = (SelectorKind.MANIFEST, SelectorKind.DIGEST, SelectorKind.KEY)
MAX_VALUE = 2048
MAX_TEXT = 1000


def subject_selectors(subject: DetectionSubject) -> tuple[Selector, ...]:
    """The selectors that a subject gives, most exact first: process, container, pod, SPIFFE ID.

    An attestation id stands alone. None where the subject is incomplete: it might be one
    of ours, and no selector says which.
    """
    process = subject.process
    if subject.attestation_id:
        return (Selector(SelectorKind.ATTESTATION, subject.attestation_id),)
    found = []
    if process.exact():
        found.append(Selector(SelectorKind.PROCESS, process_value(process)))
    if process.container_id:
        found.append(Selector(SelectorKind.CONTAINER, process.container_id))
    if process.pod_uid:
        found.append(Selector(SelectorKind.POD, process.pod_uid))
    if subject.spiffe_id:
        found.append(Selector(SelectorKind.IDENTITY, subject.spiffe_id))
    return tuple(found)


def vouched(attestation: Attestation, selector: Selector) -> bool:
    """True where somebody other than the workload says that a selector hits it: the verified identity, or a sensor."""
    if selector.kind is SelectorKind.IDENTITY:
        return attestation.identity.name == selector.value
    return selector in place_keys(attestation.place)


def elsewhere(where: ProcessRef, process: ProcessRef) -> bool:
    """True where a place is another than a process's: a sidecar of its pod, another node.

    The process id is not compared: what a workload starts in its own container is the workload's.
    """
    return _contradict(
        (process.node, where.node),
        (process.boot_id, where.boot_id),
        (process.container_id, where.container_id),
        (process.pod_uid, where.pod_uid),
    )


def another_process(attestation: Attestation, process: ProcessRef) -> bool:
    """True where a sensor says that it is one certain process, and not this one."""
    place = attestation.place
    return place.exact() and process_value(place) != process_value(process)


def may_be(attestation: Attestation, process: ProcessRef) -> bool:
    """True where nothing that both sides say contradicts; the node was compared before.

    What a workload says of itself counts here: half a process is no fact either, and all of a
    node must not be banned for one that is none of ours.
    """
    where = attestation.whereabouts
    return not _contradict(
        (process.boot_id, where.boot_id),
        (process.pid, where.pid),
        (process.start_ticks, where.start_ticks),
        (process.container_id, where.container_id),
        (process.pod_uid, where.pod_uid),
    )


def _contradict(*pairs: tuple[str | int, str | int]) -> bool:
    return any(one and other and one != other for one, other in pairs)


def text_problem(reason: str, ticket: str) -> str:
    """What is wrong with the words that an operator gives an act; empty where nothing is."""
    if not reason.strip() or len(reason) > MAX_TEXT:
        return f"reason: say why, in 1 to {MAX_TEXT} characters"
    if len(ticket) > MAX_TEXT:
        return f"ticket: at most {MAX_TEXT} characters"
    if not (reason + ticket).replace("\n", "").isprintable():
        return "reason and ticket: printable characters only"
    return ""


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
