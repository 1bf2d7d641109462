"""A gRPC status with its ErrorInfo becomes one of the SDK's errors; the only table of that."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, cast

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from lockstep.formats import ERROR_DOMAIN, NONCE_METADATA, Reason
from lockstep_client.errors import Denied, InvalidRequest, LockstepError, Revoked, Unavailable

_DETAILS = "grpc-status-details-bin"
_WEATHER = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    }
)
_NO = frozenset({grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED})

Metadata = Iterable[tuple[str, str | bytes]] | None


class Outcome(Protocol):
    """How a call ended: what gRPC's errors carry, which their type does not say."""

    def code(self) -> grpc.StatusCode | None: ...
    def details(self) -> str | None: ...
    def initial_metadata(self) -> Metadata: ...
    def trailing_metadata(self) -> Metadata: ...


def outcome_of(error: grpc.RpcError) -> Outcome | None:
    """None for the rare error that stands for no call."""
    return cast(Outcome, error) if hasattr(error, "trailing_metadata") else None


def nonce_of(metadata: Metadata) -> str | None:
    """The server's rolling nonce, where an answer carries one."""
    for key, value in metadata or ():
        if key == NONCE_METADATA:
            return value if isinstance(value, str) else value.decode("ascii", "replace")
    return None


def error_of(error: grpc.RpcError) -> LockstepError:
    """What a failed call means to the caller. Texts of the broker are shown, never parsed."""
    outcome = outcome_of(error)
    code = (outcome.code() if outcome else None) or grpc.StatusCode.UNKNOWN
    text = (outcome.details() if outcome else None) or code.name.lower()
    reason, decision, count, retry_after = _facts(outcome.trailing_metadata() if outcome else None)
    if code in _NO:
        kind = Revoked if reason == Reason.REVOKED else Denied
        return kind(text, reason=reason, decision=decision, count=count)
    if code in _WEATHER or (code is grpc.StatusCode.RESOURCE_EXHAUSTED and reason != Reason.TOO_LARGE):
        return Unavailable(text, reason=reason, decision=decision, count=count, retry_after=retry_after)
    return InvalidRequest(text, reason=reason, decision=decision, count=count)


def _facts(metadata: Metadata) -> tuple[str, str, int, float | None]:
    """(reason, decision id, count, retry after) of our own ErrorInfo; empty where there is none."""
    reason, decision, count = "", "", 0
    retry_after: float | None = None
    raw = next((value for key, value in metadata or () if key == _DETAILS), b"")
    try:
        details = status_pb2.Status.FromString(raw if isinstance(raw, bytes) else raw.encode()).details
    except DecodeError:
        return reason, decision, count, retry_after
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    for item in details:
        if item.Unpack(info) and info.domain == ERROR_DOMAIN:
            reason = info.reason.lower()
            decision = info.metadata.get("decision", "")
            number = info.metadata.get("count", "")
            count = int(number) if number.isascii() and number.isdigit() else 0
        elif item.Unpack(retry):
            retry_after = retry.retry_delay.ToTimedelta().total_seconds()
    return reason, decision, count, retry_after
