"""Which of the things held does a log entry take away? Pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable

from lockstep.v1 import revocation_pb2
from lockstep_client.holding import Attestation, Held

EVERYTHING = "*"
_OURS_ALONE = frozenset({"attestation_id", "instance_key", "lease_id"})
"""Targets that were ours from the beginning: no entry that names them is older than what we hold."""


def taken_by(
    event: revocation_pb2.RevocationEvent,
    attestation: Attestation,
    thumbprint: bytes,
    held: Iterable[Held],
    *,
    comparable: bool = True,
) -> str:
    """`EVERYTHING`, one role's name, or empty where the entry is about somebody else or the past.

    The broker shows a workload only what is its own, so a selector that cannot
    be compared here (a digest, a package, a place) counts as ours. Where the
    entry is of another log than the attestation (`comparable` is False), nothing
    says which was first: only what names this very instance counts then.
    """
    if event.kind != revocation_pb2.EVENT_KIND_REVOKED or not event.cut:
        # A ban refuses later grants and takes nothing that is held: a quarantine, or another
        # instance of this identity that was revoked.
        return ""
    target = event.selector.WhichOneof("target")
    if target == "lease_id":
        # Whenever that was: an attestation may be refreshed after it, and a lease that has ended is not revived.
        return next((item.role for item in held if item.lease_id == event.selector.lease_id), "")
    if not comparable and target not in _OURS_ALONE:
        return ""
    if comparable and event.position.seq <= attestation.as_of:
        return ""  # known when this attestation was granted
    if target == "token_id":
        return ""  # the lease's own entry names it
    if target == "attestation_id":
        return EVERYTHING if event.selector.attestation_id == attestation.id else ""
    if target == "instance_key":
        return EVERYTHING if event.selector.instance_key == thumbprint else ""
    return EVERYTHING if target is not None else ""


def time_of(event: revocation_pb2.RevocationEvent) -> dt.datetime | None:
    """When it was decided, UTC."""
    return event.at.ToDatetime(tzinfo=dt.UTC) if event.HasField("at") else None
