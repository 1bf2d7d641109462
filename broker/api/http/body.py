"""Request bodies: bounded in size and time, and forms without second readings."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect, Request

from broker.errors import InvalidRequest, LimitExceeded
from lockstep.formats import Reason

_MAX_FIELDS = 8


async def read_body(request: Request, limit: int, timeout: float) -> bytes:
    """At most `limit` bytes within `timeout` seconds; raises `LimitExceeded` or `InvalidRequest`."""
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(timeout):
            async for part in request.stream():
                size += len(part)
                if size > limit:
                    raise LimitExceeded(f"the body is larger than {limit} bytes", reason=Reason.TOO_LARGE)
                parts.append(part)
    except TimeoutError:
        raise InvalidRequest("the body did not come in time") from None
    except ClientDisconnect:
        raise InvalidRequest("the body ended early") from None
    return b"".join(parts)


async def read_form(request: Request, limit: int, timeout: float) -> Mapping[str, str]:
    """An ``application/x-www-form-urlencoded`` body, each field once (RFC 6749 section 3.1)."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise InvalidRequest("content-type: application/x-www-form-urlencoded is expected")
    body = await read_body(request, limit, timeout)
    try:
        pairs = parse_qsl(
            body.decode("ascii"), keep_blank_values=True, strict_parsing=True, max_num_fields=_MAX_FIELDS
        )
    except ValueError:
        raise InvalidRequest("the form is malformed") from None
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise InvalidRequest("a field is given twice")
    return fields
