"""Things that count once."""

from __future__ import annotations

from broker.adapters.state.sqlite.session import Session


class SqliteReplays:
    """Plug of `broker.ports.ReplayStore`."""

    __slots__ = ("_db",)

    def __init__(self, session: Session) -> None:
        self._db = session

    async def claim(self, scope: str, key: bytes, expires_at: float) -> bool:
        """True for the first claim. One that has expired counts until it is pruned: late is safe, early is not."""
        return self._db.change("replays.claim", (scope, key, expires_at)) > 0

    async def prune(self, now: float, limit: int) -> int:
        """Forget up to `limit` claims that expired at or before `now`; how many."""
        return self._db.change("replays.prune", (now, limit))
