"""The steps of one stream, in their order."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc.aio

from broker.api.access import Row
from broker.api.answers import Answers
from broker.api.arrival import Arrival, Call, peer_of, read_metadata
from broker.api.callers import Admitted, Threshold
from broker.api.duplex import Duplex, parse
from broker.api.faults import told
from broker.api.limits import Limits
from broker.api.routes import Stream
from broker.api.seats import Seats
from broker.errors import InvalidRequest, LockstepError
from broker.model.caller import Caller, WorkloadCaller
from broker.ports import Clock


class StreamSteps:
    """Serves one streaming method. The proof is made over the first message and checked once."""

    def __init__(
        self,
        method: str,
        row: Row,
        route: Stream,
        threshold: Threshold,
        clock: Clock,
        limits: Limits,
        seats: Seats,
        answers: Answers,
    ) -> None:
        self._method = method
        self._row = row
        self._route = route
        self._threshold = threshold
        self._clock = clock
        self._limits = limits
        self._size = limits.size(row.size)
        self._seats = seats
        self._answers = answers

    async def serve(self, _: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        """The whole stream."""
        started = self._answers.metrics.started()
        trailer = self._answers.nonce(self._threshold, self._clock.now())
        failure: LockstepError | None = None
        duplex: Duplex[Any, Any] = Duplex(context, self._route.request, self._size, self._limits.write)
        self._answers.metrics.stream(self._method, 1)
        try:
            await self._run(duplex, context)
        except LockstepError as error:
            failure = error
        except Exception as error:  # noqa: BLE001 - the one catch-all of this door
            failure = self._answers.unexpected(self._method, error)
        finally:
            self._answers.metrics.stream(self._method, -1)
            await duplex.close()
        # A stream may have lived for hours: the nonce that helps is the one of now.
        trailer = self._answers.nonce(self._threshold, self._clock.now())
        if failure is None:
            context.set_trailing_metadata(trailer)
            self._answers.metrics.call(self._method, "OK", started)
            return
        self._answers.metrics.call(self._method, told(failure).grpc.name, started)
        await self._answers.abort(context, self._method, failure, trailer)

    async def _run(self, duplex: Duplex[Any, Any], context: grpc.aio.ServicerContext[Any, Any]) -> None:
        # 1 rate of the address, and a seat for it: streams that say nothing are bounded too
        arrival = read_metadata(
            self._method, context.peer(), context.invocation_metadata() or (), peer_of(context.auth_context())
        )
        self._threshold.count(self._row, arrival.address, self._clock.now())
        with self._seats.opening(arrival.address):
            duplex.open()
            first, admitted, now = await self._opened(duplex, arrival)
        # 2 a seat for the caller
        with self._seats.take(seat_of(admitted.caller)):
            call = Call(self._method, arrival.address, now, admitted.caller, admitted.proof, arrival.peer)
            await self._route.run(first, call, duplex)

    async def _opened(self, duplex: Duplex[Any, Any], arrival: Arrival) -> tuple[Any, Admitted, float]:
        try:
            async with asyncio.timeout(self._limits.opening):
                raw = await duplex.receive_raw()
        except TimeoutError:
            raise InvalidRequest("the first message did not come") from None
        if raw is None:
            raise InvalidRequest("the stream ended before its first message")
        first = parse(self._route.request, raw, self._size)
        now = self._clock.now()
        return first, await self._threshold.admit(self._row, arrival, self._route.named(first), raw, now), now


def seat_of(caller: Caller | None) -> str:
    """Whose seats a stream takes."""
    if isinstance(caller, WorkloadCaller):
        return f"attestation:{caller.attestation_id}"
    return f"identity:{caller.identity.name}" if caller is not None else "nobody"
