"""The canonical event of detectors, read strictly: what decides must fit, what people read is only cleaned.

An unknown key is refused everywhere but in ``vendor``. Paths and names are
chosen by whoever wrote the code that was found, so a path that does not print
or is too long must not get its report refused: it is cut and cleaned instead.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from broker.model.detection import Detection, DetectionKind, DetectionObject, DetectionSubject
from broker.model.evidence import ProcessRef
from broker.model.identity import SpiffeId
from broker.model.strict import (
    Malformed,
    read_number,
    read_object,
    read_sha256,
    read_text,
    read_time,
    strict_json,
)

EVENT_TYPE: Final = "lockstep.detector.code_load"
MAX_BODY: Final = 256 * 1024
MAX_EVENTS: Final = 100
MAX_DEPTH: Final = 12

_MAX_INT: Final = 2**63 - 1
_KINDS: Final = {kind.value: kind for kind in DetectionKind}
_PLACELESS: Final = frozenset((DetectionKind.HEARTBEAT, DetectionKind.SENSOR_BLIND))
# No slash: places are joined with slashes where they become one value.
_PLACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]*")
_RUNTIME_PREFIX = re.compile(r"[a-z][a-z0-9+.-]*://")


def parse_events(body: bytes, *, detector: str, event_id: str, sent_at: float) -> tuple[Detection, ...]:
    """The event of a body, or those of a batch ``{"events": […]}`` (at most `MAX_EVENTS`).

    `event_id` names the message; in a batch, each event is ``event_id/index``.
    `sent_at` is in seconds since the epoch, UTC. Raises `Malformed`.
    """
    value = strict_json(body, limit=MAX_BODY, depth=MAX_DEPTH)
    if not isinstance(value, dict) or "events" not in value:
        return (parse_event(value, detector=detector, event_id=event_id, sent_at=sent_at),)
    events = read_object(value, "body", ("events",))["events"]
    if not isinstance(events, list) or not 1 <= len(events) <= MAX_EVENTS:
        raise Malformed(f"events: not a list of one to {MAX_EVENTS}")
    return tuple(
        parse_event(event, detector=detector, event_id=f"{event_id}/{index}", sent_at=sent_at)
        for index, event in enumerate(events)
    )


def parse_event(value: object, *, detector: str, event_id: str, sent_at: float) -> Detection:
    """One event, already read by `strict_json`. Raises `Malformed`."""
    event = read_object(value, "event", ("type", "timestamp", "data"), ("type", "timestamp", "data"))
    if event["type"] != EVENT_TYPE:
        raise Malformed(f"type: not {EVENT_TYPE}")
    data = read_object(
        event["data"],
        "data",
        ("detector", "kind", "phase", "subject", "object", "verdict", "vendor"),
        ("kind", "subject"),
    )
    kind = _KINDS.get(data["kind"]) if isinstance(data["kind"], str) else None
    if kind is None:
        raise Malformed("data.kind: unknown")
    if data.get("phase") not in (None, "pre", "post"):
        raise Malformed("data.phase: neither pre nor post")
    _read_detector(_section(data, "detector", ("name", "version", "instance", "boot_id", "seq")))
    _shown(data, "verdict", 64)
    subject = _subject(data)
    if kind in _PLACELESS and not subject.process.node:
        raise Malformed(f"data.subject.node: a {kind} names its node")
    vendor = data.get("vendor")
    return Detection(
        detector=detector,
        event_id=event_id,
        kind=kind,
        subject=subject,
        object=_object(data),
        sent_at=sent_at,
        observed_at=read_time(event["timestamp"], "timestamp"),
        rule=_shown(read_object(vendor, "data.vendor", None), "rule", 256) if vendor is not None else "",
    )


def _read_detector(section: Mapping[str, Any]) -> None:
    for name in ("name", "version"):
        _shown(section, name, 128)
    _place(section, "instance", 253)
    _place(section, "boot_id", 64)
    _number(section, "seq")


def _subject(data: Mapping[str, Any]) -> DetectionSubject:
    keys = (
        "attestation_id",
        "node",
        "boot_id",
        "pid",
        "start_ticks",
        "exec_seq",
        "cgroup_id",
        "container_id",
        "pod_uid",
        "namespace",
        "spiffe_id",
    )
    section = read_object(data["subject"], "data.subject", keys)
    _number(section, "cgroup_id")
    spiffe_id = section.get("spiffe_id")
    if spiffe_id is not None:
        try:
            SpiffeId.parse(read_text(spiffe_id, "data.subject.spiffe_id", limit=2048))
        except Malformed:
            raise
        except ValueError as error:
            raise Malformed(f"data.subject.spiffe_id: {error}") from None
    return DetectionSubject(
        attestation_id=_place(section, "attestation_id", 128),
        process=ProcessRef(
            node=_place(section, "node", 253),
            boot_id=_place(section, "boot_id", 64),
            pid=_number(section, "pid", most=2**31 - 1),
            start_ticks=_number(section, "start_ticks"),
            exec_seq=_number(section, "exec_seq"),
            container_id=_place(section, "container_id", 128),
            pod_uid=_place(section, "pod_uid", 128),
        ),
        spiffe_id=spiffe_id or "",
        namespace=_place(section, "namespace", 128),
    )


def _object(data: Mapping[str, Any]) -> DetectionObject:
    section = _section(
        data, "object", ("sha256", "path", "name", "dev", "inode", "nlink", "fs", "size", "build_id")
    )
    for name, limit in (("dev", 64), ("fs", 64), ("build_id", 256)):
        _shown(section, name, limit)
    for name in ("inode", "nlink"):
        _number(section, name, most=2**64 - 1)
    digest = section.get("sha256")
    return DetectionObject(
        digest=b"" if digest is None else read_sha256(digest, "data.object.sha256"),
        path=_shown(section, "path", 4096),
        size=_number(section, "size"),
        name=_shown(section, "name", 256),
    )


def _section(data: Mapping[str, Any], name: str, keys: tuple[str, ...]) -> Mapping[str, Any]:
    value = data.get(name)
    return {} if value is None else read_object(value, f"data.{name}", keys)


def _number(section: Mapping[str, Any], name: str, *, most: int = _MAX_INT) -> int:
    value = section.get(name)
    return 0 if value is None else read_number(value, name, most=most)


def _place(section: Mapping[str, Any], name: str, limit: int) -> str:
    value = section.get(name)
    if value is None or value == "":
        return ""
    text = read_text(value, name, limit=limit + 32)
    text = _RUNTIME_PREFIX.sub("", text, count=1) if name == "container_id" else text
    if len(text) > limit or not _PLACE.fullmatch(text):
        raise Malformed(f"{name}: not 1 to {limit} of A-Z a-z 0-9 . _ : -")
    return text


def _shown(section: Mapping[str, Any], name: str, limit: int) -> str:
    value = section.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise Malformed(f"{name}: not a text")
    return "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in value[:limit]
    )
