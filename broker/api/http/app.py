"""The HTTP application: the access table's paths and nothing else, JSON errors, one catch-all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import structlog
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from broker.api import access
from broker.api.answers import log_unexpected
from broker.api.arrival import MAX_BEARER, Arrival, Call, bearer_of, rate_address
from broker.api.callers import Named, Threshold
from broker.api.faults import INTERNAL, http_status
from broker.api.limits import Limits
from broker.api.metrics import Metrics
from broker.api.refusals import RefusalLog
from broker.errors import LimitExceeded, LockstepError, NotFound, Unauthenticated, Unavailable
from broker.ports import Clock
from lockstep.formats import Reason

HEADERS: Final[Mapping[str, str]] = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
_LATE: Final = Unavailable(Reason.STATE_UNAVAILABLE, "the answer took too long", retry_after=1.0)


@dataclass(frozen=True, slots=True)
class Asked:
    """One HTTP request at a room: its verified caller, and the request to read the body from."""

    request: Request
    call: Call[Any]


Answer = Callable[[Asked], Awaitable[Response]]


def build_app(
    rooms: Mapping[tuple[str, str], Answer],
    threshold: Threshold,
    clock: Clock,
    limits: Limits,
    metrics: Metrics,
    log: structlog.typing.FilteringBoundLogger,
) -> ASGIApp:
    """`rooms` are answers by (method, path template) of the access table; what has no row gets no route."""
    routes = []
    refusals = RefusalLog(log)
    for (method, template), row in access.HTTP.items():
        answer = rooms.get((method, template))
        if answer is not None:
            step = _Step(template, row, answer, threshold, clock, limits, metrics, log, refusals)
            routes.append(Route(template, step.serve, methods=[method]))
    app = Starlette(routes=routes, exception_handlers={HTTPException: _no_route})
    app.router.redirect_slashes = False
    return _Frame(app, log)


class _Step:
    """The steps of one request, in their order."""

    def __init__(
        self,
        template: str,
        row: access.Row,
        answer: Answer,
        threshold: Threshold,
        clock: Clock,
        limits: Limits,
        metrics: Metrics,
        log: structlog.typing.FilteringBoundLogger,
        refusals: RefusalLog,
    ) -> None:
        self._refusals = refusals
        self._template = template
        self._row = row
        self._answer = answer
        self._threshold = threshold
        self._clock = clock
        self._limits = limits
        self._metrics = metrics
        self._log = log

    async def serve(self, request: Request) -> Response:
        started = self._metrics.started()
        deadline = asyncio.timeout(self._limits.call)
        try:
            async with deadline:
                response = await self._run(request)
        except LockstepError as error:
            host = request.client.host if request.client is not None else ""
            self._refusals.refused(self._template, error, rate_address(host))
            response = self._refuse(error)
        except TimeoutError as error:
            response = self._refuse(_LATE if deadline.expired() else self._unexpected(error))
        except Exception as error:  # noqa: BLE001 - the one catch-all of this door
            response = self._refuse(self._unexpected(error))
        self._metrics.call(self._template, str(response.status_code), started)
        return response

    async def _run(self, request: Request) -> Response:
        now = self._clock.now()
        # 1 rate of the address
        address = rate_address(request.client.host if request.client is not None else "")
        self._threshold.count(self._row, address, now)
        # 2 the size that it announces
        length = request.headers.get("content-length", "0")
        if not length.isascii() or not length.isdecimal() or int(length) > self._limits.size(self._row.size):
            raise LimitExceeded("the body is too large", reason=Reason.TOO_LARGE)
        # 3 the caller
        bearer = bearer_of(_authorization(request.headers))
        arrival = Arrival(f"{request.method} {self._template}", address, bearer=bearer)
        admitted = await self._threshold.admit(self._row, arrival, Named(), b"", now)
        # 4 the room
        call = Call(arrival.method, address, now, admitted.caller)
        return await self._answer(Asked(request, call))

    def _refuse(self, error: LockstepError) -> Response:
        self._metrics.refused(self._template, error.reason.value)
        return refusal(error)

    def _unexpected(self, error: Exception) -> LockstepError:
        self._metrics.failed(self._template)
        log_unexpected(self._log, self._template, error)
        return INTERNAL


def refusal(error: LockstepError) -> Response:
    """Reason code, message and decision, as gRPC tells them in `ErrorInfo`."""
    status = http_status(error)
    headers = {}
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    if error.retry_after is not None:
        # RFC 9110 section 10.2.3: whole seconds, never too early.
        headers["retry-after"] = str(int(-(-error.retry_after // 1)))
    body = {"error": error.reason.value, "message": error.message, "decision": error.decision_id}
    return JSONResponse(body, status, headers)


def _authorization(headers: Headers) -> str:
    values = headers.getlist("authorization")
    if len(values) > 1 or (values and len(values[0]) > MAX_BEARER):
        raise Unauthenticated(Reason.NO_IDENTITY, "authorization is doubled or too long")
    return values[0] if values else ""


async def _no_route(_: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 404
    reason = Reason.INVALID_REQUEST if status == 405 else Reason.NOT_FOUND
    message = "no such method here" if status == 405 else "no such path"
    headers = error.headers if isinstance(error, HTTPException) else None
    body = {"error": reason.value, "message": message, "decision": ""}
    return JSONResponse(body, status, dict(headers) if headers else None)


class _Frame:
    """Around everything: only plain paths come in, every answer leaves with the security headers."""

    def __init__(self, app: ASGIApp, log: structlog.typing.FilteringBoundLogger) -> None:
        self._app = app
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        begun = False

        async def framed(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if scope["scheme"] == "https":
                    headers.setdefault("strict-transport-security", "max-age=31536000")
            await send(message)

        try:
            if b"%" in scope.get("raw_path", b""):
                # Ours have nothing to encode; two spellings of one path are how path rules get bypassed.
                await refusal(NotFound("no such path"))(scope, receive, framed)
                return
            await self._app(scope, receive, framed)
        except Exception as error:  # noqa: BLE001 - whatever escaped the steps, above all a closed connection
            log_unexpected(self._log, "http", error)
            if not begun:
                await refusal(INTERNAL)(scope, receive, framed)
