"""Both halves of one stream: parsed and bounded on the way in, never waiting forever on the way out."""

from __future__ import annotations

import asyncio
from typing import Any, Generic, TypeVar

import grpc.aio
from google.protobuf.message import DecodeError, Message

from broker.errors import InvalidRequest, LimitExceeded
from lockstep.formats import Reason

In = TypeVar("In", bound=Message)
Out = TypeVar("Out", bound=Message)
M = TypeVar("M", bound=Message)

_AHEAD = 16


def parse(kind: type[M], raw: bytes, limit: int) -> M:
    """Raises `LimitExceeded` (too_large) or `InvalidRequest`, neither of which quotes the bytes."""
    if len(raw) > limit:
        raise LimitExceeded(f"the message is larger than {limit} bytes", reason=Reason.TOO_LARGE)
    message = kind()
    try:
        message.ParseFromString(raw)
    except DecodeError:
        raise InvalidRequest("the message is malformed") from None
    return message


class Unread(LimitExceeded):
    """The caller does not read: nothing more can be sent to it."""


class Duplex(Generic[In, Out]):
    """A stream in a room's hands. One task reads ahead, since a read must never be cancelled half-way."""

    def __init__(
        self, context: grpc.aio.ServicerContext[Any, Any], kind: type[In], limit: int, write_timeout: float
    ) -> None:
        self._context = context
        self._kind = kind
        self._limit = limit
        self._write_timeout = write_timeout
        self._incoming: asyncio.Queue[bytes | Exception | None] = asyncio.Queue(_AHEAD)
        self._reader: asyncio.Task[None] | None = None
        self._ended = False

    def open(self) -> None:
        """Start to read."""
        self._reader = asyncio.create_task(self._read())

    async def close(self) -> None:
        """Stop to read."""
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)

    async def _read(self) -> None:
        while True:
            try:
                raw = await self._context.read()
            except (grpc.aio.BaseError, asyncio.InvalidStateError, RuntimeError) as error:
                # The call is over in the core before this side has heard of it.
                await self._incoming.put(error)
                return
            if raw is grpc.aio.EOF:
                await self._incoming.put(None)
                return
            await self._incoming.put(raw)

    async def receive_raw(self) -> bytes | None:
        """The next message as received, or None after the caller's last one."""
        if self._ended:
            return None
        item = await self._incoming.get()
        if item is None or isinstance(item, Exception):
            self._ended = True
            return None
        return item

    async def receive(self) -> In | None:
        """The next message, or None after the caller's last one. Raises `InvalidRequest`, `LimitExceeded`."""
        raw = await self.receive_raw()
        return None if raw is None else parse(self._kind, raw, self._limit)

    async def send(self, message: Out) -> None:
        """Raises `Unread`."""
        try:
            async with asyncio.timeout(self._write_timeout):
                await self._context.write(message.SerializeToString())
        except TimeoutError:
            raise Unread("the stream is not read") from None
