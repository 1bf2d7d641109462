"""Leases and credentials to the wire. A secret passes here once, on its way to its caller."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf.struct_pb2 import Struct

from broker.api.convert.enums import LEASE_STATE, MODE, REVOCABILITY
from broker.api.convert.scalars import to_duration, to_timestamp
from broker.model.credential import Credential, Lease, LeaseState
from broker.model.requests import IssueAnswer
from broker.model.role import Rotate
from lockstep.v1 import credential_pb2


def lease(noun: Lease, now: float, *, operator: bool = False) -> credential_pb2.Lease:
    """A lease; `now` (seconds, UTC) is what `expires_in` counts from. An operator also learns how its cleaning goes."""
    return credential_pb2.Lease(
        lease_id=noun.id,
        attestation_id=noun.attestation_id,
        role=noun.role,
        state=LEASE_STATE.wire(noun.state),
        mode=MODE.wire(noun.mode),
        decision_id=noun.decision_id,
        issued_at=to_timestamp(noun.issued_at),
        expires_at=to_timestamp(noun.expires_at),
        expires_in=to_duration(noun.expires_at - now),
        renewable=noun.renewable,
        revocability=REVOCABILITY.wire(noun.revocability),
        identity=noun.identity,
        possession_required=noun.possession_required,
        cleaning=_cleaning(noun) if operator else None,
    )


def _cleaning(noun: Lease) -> credential_pb2.LeaseCleaning:
    waiting = noun.state in (LeaseState.REVOKING, LeaseState.STUCK)
    return credential_pb2.LeaseCleaning(
        backend=noun.backend,
        attempts=noun.attempts,
        next_attempt_at=to_timestamp(noun.next_attempt_at) if waiting else None,
        detail=noun.detail,
    )


def credential(noun: Credential | None) -> credential_pb2.Credential | None:
    """None where nothing new was made."""
    if noun is None:
        return None
    if noun.token:
        return credential_pb2.Credential(token=noun.token)
    return credential_pb2.Credential(fields=credential_pb2.SecretFields(values=dict(noun.fields)))


def parameters(noun: Mapping[str, Any]) -> Struct:
    """What a role tells of its target; numbers become doubles, as a Struct has no others."""
    found = Struct()
    found.update(_plain(noun))
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | str | int | float):
        return value
    return str(value)


def issue_response(answer: IssueAnswer) -> credential_pb2.IssueCredentialResponse:
    """The answer to IssueCredential."""
    return credential_pb2.IssueCredentialResponse(
        lease=lease(answer.lease, answer.now),
        credential=credential(answer.credential),
        parameters=parameters(answer.parameters),
        rotation=_rotation(answer.rotate),
    )


def renew_response(answer: IssueAnswer) -> credential_pb2.RenewLeaseResponse:
    """The answer to RenewLease."""
    return credential_pb2.RenewLeaseResponse(
        lease=lease(answer.lease, answer.now),
        credential=credential(answer.credential),
        rotation=_rotation(answer.rotate),
    )


def _rotation(noun: Rotate | None) -> credential_pb2.Rotation | None:
    if noun is None:
        return None
    return credential_pb2.Rotation(every=to_duration(noun.every), overlap=to_duration(noun.overlap))
