"""SQLAlchemy on a live credential: new connections log in as of now, rotation drains, revocation cuts."""

from __future__ import annotations

from typing import Any

from lockstep_client.holding import Revocation
from lockstep_client.leases import LiveCredential
from lockstep_client.sessions import Sessions


def bind(engine: Any, credential: LiveCredential) -> None:
    """Let an `Engine` or `AsyncEngine` log in with a live credential.

    Every new connection asks the credential, so it is refused with `Revoked`
    after a revocation. A rotation makes a fresh pool: connections in use finish
    under the old login, for as long as the role's overlap lets them. A
    revocation empties the pool at once, and closes connections that are checked
    out in the middle of whatever they do: they raise what the driver raises
    when its server goes away.
    """
    from sqlalchemy import event

    sync_engine = getattr(engine, "sync_engine", engine)
    sessions = Sessions()

    @event.listens_for(sync_engine, "do_connect")
    def log_in(_dialect: Any, _record: Any, _arguments: Any, parameters: dict[str, Any]) -> None:
        user, password = credential.login()
        parameters["user"], parameters["password"] = user, password.reveal()

    @event.listens_for(sync_engine, "connect")
    def opened(dbapi_connection: Any, record: Any) -> None:
        sessions.opened(record.driver_connection)

    @event.listens_for(sync_engine, "close")
    def closed(dbapi_connection: Any, record: Any) -> None:
        if record.driver_connection is not None:
            sessions.closed(record.driver_connection)

    @credential.on_rotated
    def drain() -> None:
        # Checked-in connections are dropped when they are next asked for, those in use when they come back.
        sync_engine.dispose(close=False)

    def cut(_revocation: Revocation) -> None:
        sessions.cut()
        # Their sockets are shut down: what is left to do in the pool is to forget them.
        sync_engine.dispose(close=False)

    credential.on_lost(cut)
