"""State in one SQLite file: group commit, synced, for one broker."""

from broker.adapters.state.sqlite.schema import migrate, schema_version
from broker.adapters.state.sqlite.store import SqliteLimits, SqliteState

__all__ = ["SqliteLimits", "SqliteState", "migrate", "schema_version"]
