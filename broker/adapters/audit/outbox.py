"""The audit log follows the decisions that were committed: none is missed, whenever the process is killed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from broker.adapters.audit.lines import AuditLines
from broker.errors import LockstepError
from broker.model.decision import Decision
from broker.ports import Clock, StateStore

BATCH: Final = 256
"""Decisions that one read takes."""
FIRST: Final = 40
"""Batches that a start waits for."""
GATHER: Final = 0.02
"""Seconds in which news gathers, so that a busy broker reads rarely and much."""
LOOK: Final = 1.0
"""Seconds after which the rows are looked at without news, too."""

Signer = Callable[[Mapping[str, object]], str]


class AuditOutbox:
    """Plug of `broker.ports.AuditLog`.

    A decision's row is its own outbox entry, and the last decision of the file is
    the mark: whatever was committed after it is written next. Grants pay nothing
    for it, and a crash between a commit and its line, or a disk that was full,
    only delays the line.
    """

    def __init__(
        self,
        state: StateStore,
        lines: AuditLines,
        clock: Clock,
        *,
        sign: Signer,
        every: float,
        on_error: Callable[[LockstepError], None],
    ) -> None:
        """`sign` makes a compact JWS of a checkpoint's claims, at most once in `every` seconds; `on_error` hears once
        of trouble that lasts."""
        self._state = state
        self._lines = lines
        self._clock = clock
        self._sign = sign
        self._every = every
        self._on_error = on_error
        self._news = asyncio.Event()
        self._writing = asyncio.Lock()
        self._signed = lines.head
        self._safe = ""
        self._sign_after = clock.monotonic() + every

    def record(self, decision: Decision) -> None:
        """There is news; never blocks, never raises."""
        self._news.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Follow until `stop` is set."""
        troubled = False
        while not stop.is_set():
            self._news.clear()
            try:
                await self.catch_up()
                if self._clock.monotonic() >= self._sign_after:
                    await self.checkpoint()
            except LockstepError as error:
                if not troubled:
                    self._on_error(error)
                troubled = True
            else:
                troubled = False
            await _first_of(LOOK if troubled else GATHER, stop)
            await _first_of(LOOK, stop, self._news)

    @property
    def safe(self) -> str:
        """The id of a decision that is on the disk with all before it; empty for none yet."""
        return self._safe

    async def begin(self) -> None:
        """Write what a crash left unwritten. Raises `Unavailable`.

        A file that was lost is written anew from all that the state has; nobody waits at start for the whole of it.
        """
        await self.catch_up(most=FIRST)
        last = self._lines.last
        await asyncio.to_thread(self._lines.sync)
        self._safe = last

    async def catch_up(self, *, most: int | None = None) -> None:
        """Write everything that is committed and not yet written, or `most` batches of it. Raises `Unavailable`."""
        async with self._writing:
            while most is None or most > 0:
                most = None if most is None else most - 1
                last = self._lines.last
                found = await self._state.read(lambda tx, last=last: tx.decisions.following(last, BATCH))  # type: ignore[misc]
                await asyncio.to_thread(self._write, found)
                if len(found) < BATCH:
                    return

    async def checkpoint(self) -> None:
        """Sign where the chain has come to, if it has come further. Raises `Unavailable`."""
        async with self._writing:
            self._sign_after = self._clock.monotonic() + self._every
            chain, count, found = self._lines.head
            if (chain, count, found) == self._signed:
                return
            claims = {"iat": int(self._clock.now()), "chain": chain, "count": count, "hash": found}
            last = self._lines.last
            await asyncio.to_thread(self._seal, self._sign(claims))
            self._safe = last
            self._signed = self._lines.head

    async def close(self) -> None:
        """Write what is left, sign it, close the file; what cannot be written now is written after the next start."""
        try:
            await self.catch_up()
            await self.checkpoint()
        except LockstepError as error:
            self._on_error(error)
        finally:
            self._lines.close()

    def _write(self, decisions: Sequence[Decision]) -> None:
        for decision in decisions:
            self._lines.append(decision)

    def _seal(self, token: str) -> None:
        self._lines.checkpoint(token)
        self._lines.sync()


async def _first_of(timeout: float, *events: asyncio.Event) -> None:
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
