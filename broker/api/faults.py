"""One table: what every error of the house is on the wire, over gRPC and over HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode

from broker.errors import (
    Conflict,
    Denied,
    InvalidRequest,
    LimitExceeded,
    LockstepError,
    NotFound,
    Unauthenticated,
    Unavailable,
)
from lockstep.formats import ERROR_DOMAIN, Reason

STATUS_METADATA: Final = "grpc-status-details-bin"


@dataclass(frozen=True, slots=True)
class Told:
    """How one kind of error is told."""

    grpc: StatusCode
    http: int


TABLE: Final[Mapping[type[LockstepError], Told]] = {
    Unauthenticated: Told(StatusCode.UNAUTHENTICATED, 401),
    Denied: Told(StatusCode.PERMISSION_DENIED, 403),
    InvalidRequest: Told(StatusCode.INVALID_ARGUMENT, 400),
    NotFound: Told(StatusCode.NOT_FOUND, 404),
    Conflict: Told(StatusCode.ABORTED, 409),
    LimitExceeded: Told(StatusCode.RESOURCE_EXHAUSTED, 429),
    Unavailable: Told(StatusCode.UNAVAILABLE, 503),
}
_ANYTHING_ELSE: Final = Told(StatusCode.INTERNAL, 500)

# Where HTTP has a better word than the class: RFC 9110 section 15.5.14; a report whose signature fails is
# unauthenticated to HTTP, since nobody else stood behind it.
_HTTP_BY_REASON: Final[Mapping[Reason, int]] = {
    Reason.TOO_LARGE: 413,
    Reason.DETECTION_REJECTED: 401,
    Reason.IDENTITY_REJECTED: 401,
}

INTERNAL: Final = LockstepError(Reason.INTERNAL, "the broker failed; its log says more")
"""What a caller learns of an unexpected exception."""


def told(error: LockstepError) -> Told:
    """The row of an error's class, or of its nearest base."""
    for base in type(error).__mro__:
        row = TABLE.get(base)
        if row is not None:
            return row
    return _ANYTHING_ELSE


def http_status(error: LockstepError) -> int:
    """The HTTP status of an error."""
    return _HTTP_BY_REASON.get(error.reason, told(error).http)


def status_details(error: LockstepError, status: StatusCode | None = None) -> bytes:
    """Serialised `google.rpc.Status` with `ErrorInfo`, and `RetryInfo` where it is known when to come back.

    `status` is how the call ends, where that is not the error's own row.
    """
    info = error_details_pb2.ErrorInfo(reason=error.reason.value.upper(), domain=ERROR_DOMAIN)
    if error.decision_id:
        info.metadata["decision"] = error.decision_id
    if error.count:
        info.metadata["count"] = str(error.count)
    details = [_packed(info)]
    if error.retry_after is not None:
        delay = Duration()
        delay.FromNanoseconds(max(0, round(error.retry_after * 1e9)))
        details.append(_packed(error_details_pb2.RetryInfo(retry_delay=delay)))
    code: int = (status or told(error).grpc).value[0]
    found = status_pb2.Status(code=code, message=error.message, details=details)
    return bytes(found.SerializeToString())


def _packed(message: error_details_pb2.ErrorInfo | error_details_pb2.RetryInfo) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed
