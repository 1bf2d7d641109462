"""The only list of plugs: a configuration becomes a broker here, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from broker.adapters.audit import Wanted, excerpt
from broker.adapters.clock import SystemClock
from broker.adapters.state.sqlite import migrate as migrate_sqlite
from broker.adapters.state.sqlite import schema_version
from broker.bootstrap.broker import Broker, Log
from broker.bootstrap.restoring import audit_path, restored
from broker.settings import Settings

__all__ = ["Broker", "audit_excerpt", "build", "migrate", "restored", "schema"]


async def build(settings: Settings, again: Callable[[], Settings], log: Log) -> Broker:
    """A broker that is not started; `again` reads the configuration anew at a reload."""
    return Broker(settings, again, log)


def schema(settings: Settings) -> tuple[int, int]:
    """(schema of the state as it is, newest one that this version has). Raises `Unavailable`, `Conflict`."""
    return schema_version(settings.server.state.path)


def migrate(settings: Settings) -> int:
    """Bring the state to the newest schema, and give its number. Raises `Unavailable`, `Conflict`."""
    return migrate_sqlite(settings.server.state.path, SystemClock().now())


def audit_excerpt(
    settings: Settings, since: float | None, until: float | None, ticket: str
) -> Iterator[bytes]:
    """Lines of an excerpt of the audit log; times in seconds, UTC. Raises ``OSError``."""
    return excerpt(audit_path(settings.server), Wanted(since, until, ticket))
