"""The steps of one unary call, in their order."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import grpc
import grpc.aio

from broker.api.access import Row
from broker.api.answers import Answers
from broker.api.arrival import Call, peer_of, read_metadata
from broker.api.callers import Threshold
from broker.api.duplex import parse
from broker.api.faults import told
from broker.api.limits import Limits
from broker.api.routes import Unary
from broker.errors import InvalidRequest, LimitExceeded, LockstepError
from broker.ports import Clock
from lockstep.formats import Reason

_LATE: Final = LimitExceeded("the deadline has passed")


class UnarySteps:
    """Serves one method; what it holds is of the broker, never of a call."""

    def __init__(
        self,
        method: str,
        row: Row,
        route: Unary,
        threshold: Threshold,
        clock: Clock,
        limits: Limits,
        answers: Answers,
    ) -> None:
        self._method = method
        self._row = row
        self._route = route
        self._threshold = threshold
        self._clock = clock
        self._limits = limits
        self._size = limits.size(row.size)
        self._answers = answers

    async def serve(self, raw: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes | None:
        """The whole call, from bytes to bytes; an error ends it by `abort`, which raises."""
        started = self._answers.metrics.started()
        now = self._clock.now()
        trailer = self._answers.nonce(self._threshold, now)
        failure: LockstepError
        deadline = asyncio.timeout(self._deadline(context))
        try:
            async with deadline:
                answer = await self._run(raw, context, now)
        except LockstepError as error:
            failure = error
        except TimeoutError as error:
            failure = _LATE if deadline.expired() else self._answers.unexpected(self._method, error)
        except Exception as error:  # noqa: BLE001 - the one catch-all of this door
            failure = self._answers.unexpected(self._method, error)
        else:
            context.set_trailing_metadata(trailer)
            self._answers.metrics.call(self._method, "OK", started)
            return answer
        if failure is _LATE:
            self._answers.metrics.call(self._method, "DEADLINE_EXCEEDED", started)
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, _LATE.message, trailer)
        self._answers.metrics.call(self._method, told(failure).grpc.name, started)
        return await self._answers.abort(context, self._method, failure, trailer)

    def _deadline(self, context: grpc.aio.ServicerContext[Any, Any]) -> float:
        remaining: float | None = context.time_remaining()
        if remaining is None:
            return self._limits.call
        return min(remaining, self._limits.call)

    async def _run(self, raw: bytes, context: grpc.aio.ServicerContext[Any, Any], now: float) -> bytes:
        # 1 size
        if len(raw) > self._size:
            raise LimitExceeded(f"the message is larger than {self._size} bytes", reason=Reason.TOO_LARGE)
        # 2 rate of the address
        arrival = read_metadata(
            self._method, context.peer(), context.invocation_metadata() or (), peer_of(context.auth_context())
        )
        self._threshold.count(self._row, arrival.address, now)
        # 3 a deadline: whoever waits forever holds what it waits for
        if context.time_remaining() is None:
            raise InvalidRequest("a deadline is required")
        # 4 the message, whose bytes stay what the proof is checked over
        request = parse(self._route.request, raw, self._size)
        # 5 the caller
        admitted = await self._threshold.admit(self._row, arrival, self._route.named(request), raw, now)
        # 6 the room
        call = Call(self._method, arrival.address, now, admitted.caller, admitted.proof, arrival.peer)
        response = await self._route.run(request, call)
        return response.SerializeToString()
