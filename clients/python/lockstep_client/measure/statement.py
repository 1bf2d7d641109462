"""A measurement as the wire says it: the bytes that the instance key seals."""

from __future__ import annotations

import platform
from typing import Final

from lockstep.formats import UnitKind, code_set_digest
from lockstep.v1 import evidence_pb2
from lockstep_client.measure.model import CodeSetLike, Measurement, ProcessRef

LONGEST_TEXT: Final = 4096
"""Characters."""
MEASURER: Final = f"lockstep-client (Python {platform.python_version()})"

_KINDS: Final = {kind: evidence_pb2.UnitKind.Value(f"UNIT_KIND_{kind.name}") for kind in UnitKind}


def statement(
    measurement: Measurement,
    nonce: bytes,
    thumbprint: bytes,
    base: CodeSetLike | None = None,
    *,
    hints: bool = True,
) -> bytes:
    """The serialised `EvidenceStatement`, to be signed as it is.

    `nonce` is the challenge as received, `thumbprint` that of the instance key
    (RFC 7638, 32 bytes). With a `base` (at Reattest) only the units that are not
    in it are sent, and its digest names it; the whole set's digest is that of
    both together. `hints` for units that are not sent are left out.
    """
    base_units = base.units if base is not None else frozenset()
    whole = measurement.units | base_units
    added = measurement.units - base_units
    sent = {digest for _, digest in added}
    grouped: dict[UnitKind, list[bytes]] = {}
    for kind, digest in added:
        grouped.setdefault(kind, []).append(digest)
    message = evidence_pb2.EvidenceStatement(
        nonce=nonce,
        key_thumbprint=thumbprint,
        measured_at=measurement.measured_at,
        subject=subject(measurement.process),
        units=[
            evidence_pb2.UnitSet(kind=_KINDS[kind], digests=sorted(grouped[kind])) for kind in sorted(grouped)
        ],
        unknown=[
            evidence_pb2.UnknownCode(
                kind=evidence_pb2.UNIT_KIND_UNSPECIFIED if item.kind is None else _KINDS[item.kind],
                name=_text(item.name),
                reason=_text(item.reason),
            )
            for item in measurement.unknown
        ],
        anonymous=[
            evidence_pb2.AnonymousCode(
                size=item.size, permissions=item.permissions, deleted=item.deleted, name=_text(item.name)
            )
            for item in measurement.anonymous
        ],
        code_set_digest=(
            measurement.code_set_digest
            if len(whole) == len(measurement.units)
            else code_set_digest((kind.value, digest) for kind, digest in whole)
        ),
        watched_since_exec=measurement.watched_since_exec,
        measurer=MEASURER,
    )
    if hints:
        message.hints.extend(
            evidence_pb2.UnitHint(digest=hint.digest, path=_text(hint.path), name=_text(hint.name))
            for hint in measurement.hints
            if hint.digest in sent
        )
    if base is not None:
        message.base_digest = code_set_digest((kind.value, digest) for kind, digest in base_units)
    return message.SerializeToString(deterministic=True)


def subject(process: ProcessRef) -> evidence_pb2.Subject:
    """The process as the wire names it."""
    return evidence_pb2.Subject(
        node=process.node,
        boot_id=process.boot_id,
        pid=process.pid,
        start_ticks=process.start_ticks,
        container_id=process.container_id,
        pod_uid=process.pod_uid,
    )


def _text(value: str) -> str:
    """Protobuf text is UTF-8, and the broker reads no more of it; a file or module may be called anything."""
    plain = value[:LONGEST_TEXT].encode("utf-8", "backslashreplace").decode("utf-8")
    return plain.replace("\0", "\\x00")[:LONGEST_TEXT]
