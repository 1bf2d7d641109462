"""The audit log at start: what was decided and not written, because the process was killed, is written now."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from broker.adapters.audit import AuditLines, last_decisions
from broker.model.decision import Decision
from broker.ports import StateStore, Transaction

LATEST: Final = 20_000
"""Decisions that a file without any begins with: more than can have waited to be written."""
_PAGE: Final = 500


async def complete(state: StateStore, audit: AuditLines, path: Path) -> int:
    """Write the decisions that the state has and the file has not; how many. Raises `Unavailable`.

    A line follows its commit within a moment, so what is missing was added after the first of the file's last lines. A
    file that was moved away begins anew, with the latest that the state has.
    """
    written = last_decisions(path)
    after = await state.read(_FirstKnown(written))
    if not after:
        latest = await state.read(lambda tx: tx.decisions.last_added(LATEST))
        await asyncio.to_thread(audit.extend, latest)
        return len(latest)
    known, missing = set(written), 0
    while page := await state.read(_After(after)):
        after = page[-1].id
        new = [decision for decision in page if decision.id not in known]
        missing += len(new)
        await asyncio.to_thread(audit.extend, new)
    return missing


class _FirstKnown:
    """The first of some decisions that the state still has, since it forgets what is old; "" where it has none."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    async def __call__(self, tx: Transaction) -> str:
        for name in self._names:
            if await tx.decisions.get(name) is not None:
                return name
        return ""


class _After:
    """A page of decisions in the order in which they were added."""

    def __init__(self, after: str) -> None:
        self._after = after

    async def __call__(self, tx: Transaction) -> Sequence[Decision]:
        return await tx.decisions.added_after(self._after, _PAGE)
