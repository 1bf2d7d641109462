"""Manifests to the wire."""

from __future__ import annotations

from broker.api.convert.enums import MANIFEST_STATE
from broker.api.convert.scalars import to_timestamp
from broker.model.manifest import ManifestRecord
from lockstep.v1 import manifest_pb2 as pb


def summary(record: ManifestRecord) -> pb.ManifestSummary:
    """What lists and answers show."""
    manifest = record.manifest
    return pb.ManifestSummary(
        digest=manifest.digest,
        application=manifest.application,
        version=manifest.version,
        label=manifest.label,
        state=MANIFEST_STATE.wire(record.state),
        units=len(manifest.units),
        includes=manifest.includes,
        signers=record.signers,
        not_before=to_timestamp(manifest.not_before),
        not_after=to_timestamp(manifest.not_after),
        published_at=to_timestamp(record.published_at),
    )
