"""How a call ends: the rolling nonce in every trailer, errors by the table, and silence about all else."""

from __future__ import annotations

import traceback
from typing import Any, Final, NoReturn

import grpc
import grpc.aio
import structlog

from broker.api.arrival import rate_address
from broker.api.callers import Threshold
from broker.api.faults import INTERNAL, STATUS_METADATA, status_details, told
from broker.api.metrics import Metrics
from broker.api.refusals import RefusalLog
from broker.errors import LockstepError
from lockstep.formats import NONCE_METADATA

Trailer = tuple[tuple[str, str | bytes], ...]
_FRAMES: Final = 12


class Answers:
    """Shared by every gRPC method."""

    def __init__(self, metrics: Metrics, log: structlog.typing.FilteringBoundLogger) -> None:
        self.metrics = metrics
        self._log = log
        self._refusals = RefusalLog(log)

    def nonce(self, threshold: Threshold, now: float) -> Trailer:
        """The trailer that every answer bears."""
        return ((NONCE_METADATA, threshold.nonce(now)),)

    async def abort(
        self,
        context: grpc.aio.ServicerContext[Any, Any],
        method: str,
        error: LockstepError,
        trailer: Trailer,
    ) -> NoReturn:
        """End the call with an error of the table."""
        self.metrics.refused(method, error.reason.value)
        self._refusals.refused(method, error, rate_address(context.peer()))
        await context.abort(
            told(error).grpc, error.message, (*trailer, (STATUS_METADATA, status_details(error)))
        )

    def unexpected(self, method: str, error: BaseException) -> LockstepError:
        """Log where an unexpected exception came from; not its message, which may quote a secret."""
        self.metrics.failed(method)
        log_unexpected(self._log, method, error)
        return INTERNAL


def log_unexpected(log: structlog.typing.FilteringBoundLogger, method: str, error: BaseException) -> None:
    """Type and place of an exception, without its text and without a value of any frame."""
    frames = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
    log.error(
        "unexpected failure",
        method=method,
        error=type(error).__qualname__,
        at=[f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
    )


def code_name(code: grpc.StatusCode) -> str:
    """For metrics."""
    return code.name
