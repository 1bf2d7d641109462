"""The feed for tests is the real one: it lives in memory and has no outside.

`announced` makes what a test wants told both durable and live.
"""

from __future__ import annotations

from collections.abc import Sequence

from broker.adapters.feed.local import LocalFeed
from broker.model.revocation import LogEntry, NewEntry
from broker.ports import StateStore, Transaction

__all__ = ["LocalFeed", "announced", "appended"]


async def appended(state: StateStore, entries: Sequence[NewEntry]) -> Sequence[LogEntry]:
    """Entries written to the log, of which no feed knows yet."""

    async def work(tx: Transaction) -> Sequence[LogEntry]:
        return await tx.revocations.append(entries)

    return await state.transact(work, urgent=True)


async def announced(state: StateStore, feed: LocalFeed, entries: Sequence[NewEntry]) -> Sequence[LogEntry]:
    """Entries written to the log and announced to a feed."""
    written = await appended(state, entries)
    feed.announce(written)
    return written
