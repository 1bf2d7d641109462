"""A receipt: what a revocation did, when, how it was confirmed, and what could not be."""

from __future__ import annotations

from datetime import UTC, datetime

from broker.model.revocation import Revocation
from lockstep.formats import canonical_json


def _time(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def receipt_payload(revocation: Revocation) -> bytes:
    """Canonical JSON of a settled revocation; times are RFC 3339 in UTC."""
    return canonical_json(
        {
            "revocation": revocation.id,
            "decision": revocation.decision_id,
            "detection": revocation.detection_id,
            "selector": {"kind": revocation.selector.kind.value, "value": revocation.selector.value},
            "cut": revocation.cut,
            "ban": revocation.ban,
            "until": None if revocation.until is None else _time(revocation.until),
            "actor": revocation.actor,
            "reason": revocation.reason,
            "ticket": revocation.ticket,
            "log": {"first": revocation.first_seq, "last": revocation.last_seq},
            "at": _time(revocation.at),
            "attestations": revocation.attestations,
            "leases": revocation.leases,
            "steps": [
                {"name": step.name, "at": _time(step.at), "detail": step.detail} for step in revocation.steps
            ],
            "unconfirmed": [
                {"lease": item.lease_id, "what": item.what, "until": _time(item.until)}
                for item in revocation.unconfirmed
            ],
        }
    )
