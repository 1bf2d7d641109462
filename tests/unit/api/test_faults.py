"""Every error of the house has a row, over gRPC and over HTTP, and tells its reason and nothing else."""

from __future__ import annotations

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from broker import errors
from broker.api.faults import INTERNAL, TABLE, http_status, status_details, told
from broker.errors import Denied, InvalidRequest, LimitExceeded, LockstepError, NotFound, Unavailable
from lockstep.formats import Reason

KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, LockstepError) and kind is not LockstepError
]


def details(error: LockstepError) -> list[Message]:
    status = status_pb2.Status.FromString(status_details(error))
    found: list[Message] = []
    for item in status.details:
        kind = {"ErrorInfo": error_details_pb2.ErrorInfo, "RetryInfo": error_details_pb2.RetryInfo}
        message = kind[item.type_url.rpartition(".")[2]]()
        assert item.Unpack(message)
        found.append(message)
    return found


def test_the_table_is_total_and_each_row_is_another() -> None:
    assert set(TABLE) == set(KINDS)
    assert len({row.grpc for row in TABLE.values()}) == len(TABLE)
    assert len({row.http for row in TABLE.values()}) == len(TABLE)


def test_an_error_of_tomorrow_takes_its_bases_row() -> None:
    class Narrower(Denied):
        pass

    assert told(Narrower(Reason.BANNED, "")) == TABLE[Denied]
    assert told(LockstepError(Reason.INTERNAL, "")).grpc is grpc.StatusCode.INTERNAL
    assert http_status(INTERNAL) == 500


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_reaches_the_caller_in_upper_case(reason: Reason) -> None:
    error = Denied(reason, "no", decision_id="D-1", count=3)
    [info] = details(error)
    assert isinstance(info, error_details_pb2.ErrorInfo)
    assert (info.reason, info.domain) == (reason.value.upper(), "lockstep.v1")
    assert dict(info.metadata) == {"decision": "D-1", "count": "3"}
    assert 400 <= http_status(error) < 600


def test_retry_is_told_where_it_is_known() -> None:
    _, retry = details(LimitExceeded("slow down", retry_after=1.25))
    assert isinstance(retry, error_details_pb2.RetryInfo)
    assert (retry.retry_delay.seconds, retry.retry_delay.nanos) == (1, 250_000_000)
    assert len(details(Unavailable(Reason.BACKEND_UNAVAILABLE, "down"))) == 1
    assert len(details(LimitExceeded("slow down", retry_after=-1.0))) == 2


def test_http_has_its_own_word_for_some_reasons() -> None:
    assert http_status(LimitExceeded("large", reason=Reason.TOO_LARGE)) == 413
    assert http_status(InvalidRequest("large", reason=Reason.TOO_LARGE)) == 413
    assert http_status(Denied(Reason.DETECTION_REJECTED, "signature")) == 401
    assert http_status(Denied(Reason.NOT_ENTITLED, "no")) == 403
    assert http_status(NotFound("no")) == 404
