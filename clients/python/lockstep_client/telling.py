"""The user's callbacks: who is told of what, and in which event loop an answer that can be awaited is awaited."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from lockstep_client.holding import Revocation
from lockstep_client.leaving import LEAVE_WITHIN

log = logging.getLogger("lockstep")

Loop = asyncio.AbstractEventLoop
Deliver = Callable[[Callable[..., object], tuple[object, ...], Loop | None], None]
"""Runs a callback; the loop is the one that it was registered in."""


def call(callback: Callable[..., object], arguments: tuple[object, ...], loop: Loop | None) -> None:
    """How the sync face delivers: on the callback thread itself; what is awaitable, in its loop.

    Raises `RuntimeError` where there is no loop for it.
    """
    answer = callback(*arguments)
    if not inspect.isawaitable(answer):
        return
    if loop is None or loop.is_closed():
        if inspect.iscoroutine(answer):
            answer.close()
        raise RuntimeError("it returned an awaitable, and was not registered in an event loop that runs")
    asyncio.run_coroutine_threadsafe(_awaited(answer), loop).result(LEAVE_WITHIN)


def into(loop: Loop) -> Deliver:
    """How the asyncio face delivers: in its loop; waits for the end there, as long as a leaving process has."""

    async def run(callback: Callable[..., object], arguments: tuple[object, ...]) -> None:
        answer = callback(*arguments)
        if inspect.isawaitable(answer):
            await _awaited(answer)

    def deliver(callback: Callable[..., object], arguments: tuple[object, ...], _: Loop | None) -> None:
        if loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(run(callback, arguments), loop).result(LEAVE_WITHIN)

    return deliver


async def _awaited(answer: Awaitable[object]) -> None:
    await answer


@dataclass(frozen=True, slots=True)
class _Listener:
    """`role` is empty for one that hears of all."""

    callback: Callable[..., object]
    role: str
    loop: Loop | None


class Telling:
    """Registered from any thread; told one after another. `home` is the loop of a role's connections, if any."""

    def __init__(self, deliver: Deliver, home: Callable[[str], Loop | None]) -> None:
        self._deliver = deliver
        self._home = home
        self._on_revoked: list[_Listener] = []
        self._on_rotated: list[_Listener] = []

    def on_revoked(self, callback: Callable[[Revocation], object], role: str = "") -> None:
        """With a `role`, only where that one's secret is gone."""
        self._on_revoked.append(_Listener(callback, role, _running_loop()))

    def on_rotated(self, role: str, callback: Callable[[], object]) -> None:
        """Whenever a role's secret is a new one."""
        self._on_rotated.append(_Listener(callback, role, _running_loop()))

    def revoked(self, revocation: Revocation) -> None:
        """Tell of it; a callback that raises is logged."""
        for listener in tuple(self._on_revoked):
            if not listener.role or revocation.role in ("", listener.role):
                self._tell(listener, (revocation,))

    def rotated(self, role: str) -> None:
        """The same."""
        for listener in tuple(self._on_rotated):
            if listener.role == role:
                self._tell(listener, ())

    def _tell(self, listener: _Listener, arguments: tuple[object, ...]) -> None:
        try:
            self._deliver(listener.callback, arguments, listener.loop or self._home(listener.role))
        except Exception:  # a door: the user's code may raise anything
            log.exception("a callback failed: %r", listener.callback)


def _running_loop() -> Loop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
