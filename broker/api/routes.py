"""How a room offers its calls: one value a method, which the gate turns into a gRPC handler."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from broker.api.arrival import Call
from broker.api.callers import Named
from broker.api.duplex import Duplex


def nobody(_: Message) -> Named:
    """For messages that name no sender."""
    return Named()


def by_attestation(message: Any) -> Named:
    """For messages with an ``attestation_id``."""
    return Named(attestation_id=message.attestation_id)


@dataclass(frozen=True, slots=True)
class Unary:
    """One request, one response. `named` reads from the message whose key the proof must be made with."""

    request: type[Message]
    run: Callable[[Any, Call[Any]], Awaitable[Message]]
    named: Callable[[Any], Named] = nobody


@dataclass(frozen=True, slots=True)
class Stream:
    """Both sides speak; `run` gets the first message, which names the caller, and the rest as a `Duplex`."""

    request: type[Message]
    run: Callable[[Any, Call[Any], Duplex[Any, Any]], Awaitable[None]]
    named: Callable[[Any], Named]


Route = Unary | Stream
