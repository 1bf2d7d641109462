"""The gate: every gRPC call passes it, by the access table or not at all."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio

from broker.api import access
from broker.api.answers import Answers
from broker.api.arrival import rate_address
from broker.api.callers import Threshold
from broker.api.duplex import parse
from broker.api.faults import STATUS_METADATA, status_details
from broker.api.limits import Limits
from broker.api.routes import Route, Stream, Unary
from broker.api.seats import Seats
from broker.api.streams import StreamSteps
from broker.api.unary import UnarySteps
from broker.errors import LockstepError, NotFound
from broker.ports import Clock

# In quotes: grpc's classes take no parameters at run time.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Continuation: TypeAlias = "Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]]"
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

_NO_METHOD: Final = NotFound("no such method")


class Gate(grpc.aio.ServerInterceptor):
    """Replaces each method's deserialiser, so that proofs are checked over the bytes as received.

    A method without a row, without a route, or spelled otherwise (``:path``
    reaches here raw) is UNIMPLEMENTED.
    """

    def __init__(
        self,
        routes: Mapping[str, Route],
        threshold: Threshold,
        clock: Clock,
        limits: Limits,
        seats: Seats,
        answers: Answers,
    ) -> None:
        self._threshold = threshold
        self._clock = clock
        self._limits = limits
        self._seats = seats
        self._answers = answers
        self._handlers = {
            method: self._build(method, row, routes[method])
            for method, row in access.GRPC.items()
            if not row.foreign and method in routes
        }

    async def intercept_service(
        self,
        continuation: Continuation,
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """The handler of a known method; a refusal for every other one."""
        method = handler_call_details.method
        handler = self._handlers.get(method)
        if handler is not None:
            return handler
        row = access.GRPC.get(method)
        if row is not None and row.foreign:
            found = await continuation(handler_call_details)
            if found is not None:
                return self._foreign(method, row, found)
        return grpc.stream_stream_rpc_method_handler(self._refuse)

    def _build(self, method: str, row: access.Row, route: Route) -> Handler:
        if isinstance(route, Unary):
            steps = UnarySteps(method, row, route, self._threshold, self._clock, self._limits, self._answers)
            return grpc.unary_unary_rpc_method_handler(steps.serve)
        stream: Stream = route
        return grpc.stream_stream_rpc_method_handler(
            StreamSteps(
                method, row, stream, self._threshold, self._clock, self._limits, self._seats, self._answers
            ).serve
        )

    async def _refuse(self, _: object, context: Context) -> None:
        nonce = self._answers.nonce(self._threshold, self._clock.now())
        self._answers.metrics.refused("other", _NO_METHOD.reason.value)
        details = status_details(_NO_METHOD, grpc.StatusCode.UNIMPLEMENTED)
        await context.abort(
            grpc.StatusCode.UNIMPLEMENTED, _NO_METHOD.message, (*nonce, (STATUS_METADATA, details))
        )

    def _foreign(self, method: str, row: access.Row, handler: Handler) -> Handler:
        """Health and reflection: their own library answers, behind our rate, size and seats."""

        async def count(context: Context) -> str:
            address = rate_address(context.peer())
            self._threshold.count(row, address, self._clock.now())
            return address

        async def unary(raw: bytes, context: Context) -> Any:
            failure: LockstepError | None = None
            request = None
            try:
                await count(context)
                request = _checked(handler, raw, self._limits.small)
            except LockstepError as error:
                failure = error
            if failure is not None:
                await self._answers.abort(context, method, failure, ())
            behaviour: Any = handler.unary_unary
            return await behaviour(request, context)

        async def each(messages: Any, context: Context) -> AsyncIterator[Any]:
            # Each message of a stream asks for an answer, so each counts as a call does.
            async for raw in messages:
                await count(context)
                yield _checked(handler, raw, self._limits.small)

        async def streaming(first: Any, context: Context) -> None:
            failure: LockstepError | None = None
            try:
                address = await count(context)
                whole = isinstance(first, bytes)
                asked = _checked(handler, first, self._limits.small) if whole else each(first, context)
                with self._seats.public(address):
                    behaviour: Any = handler.unary_stream or handler.stream_stream
                    answers = behaviour(asked, context)
                    if inspect.isasyncgen(answers):
                        async for answer in answers:
                            await context.write(answer)
                    else:
                        await answers
            except LockstepError as error:
                failure = error
            if failure is not None:
                await self._answers.abort(context, method, failure, ())

        serialiser = handler.response_serializer
        if handler.request_streaming:
            return grpc.stream_stream_rpc_method_handler(streaming, response_serializer=serialiser)
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(streaming, response_serializer=serialiser)
        return grpc.unary_unary_rpc_method_handler(unary, response_serializer=serialiser)


def _checked(handler: Handler, raw: bytes, limit: int) -> Any:
    deserialise: Any = handler.request_deserializer
    return parse(type(deserialise(b"")), raw, limit)
