"""SQLAlchemy on a live credential: connections log in as of now, rotation replaces them, revocation cuts them."""

from __future__ import annotations

import os
from typing import Any

from lockstep_client.errors import LockstepError, Unavailable
from lockstep_client.leases import LiveCredential

_LOGIN = "lockstep_login"
"""Where a pool's record says (process, username) of its connection."""


def bind(engine: Any, credential: LiveCredential) -> None:
    """Let an `Engine` or `AsyncEngine` log in with a live credential.

    Every connection that is taken from the pool is of the login as it is now:
    one that is not is replaced, so that taking one raises `Revoked` after a
    revocation, and `Unavailable` while no broker was heard for too long. After
    a rotation, connections in use finish under the old login, for as long as
    the role's overlap lets them, and are closed when they come back. A
    revocation ends every session at once, idle or in the middle of whatever it
    does: that raises what the driver raises when its server goes away.

    In a forked child, connections of the parent are left alone.
    """
    from sqlalchemy import event, exc

    sync_engine = getattr(engine, "sync_engine", engine)

    def log_in(_dialect: Any, record: Any, _arguments: Any, parameters: dict[str, Any]) -> None:
        user, password = credential.login()
        parameters["user"], parameters["password"] = user, password.reveal()
        if record is not None:
            record.info[_LOGIN] = (os.getpid(), user)

    def opened(_dbapi_connection: Any, record: Any) -> None:
        credential.opened(record.driver_connection)

    def taken(_dbapi_connection: Any, record: Any, proxy: Any) -> None:
        process, user = record.info.get(_LOGIN, (os.getpid(), None))
        if process != os.getpid():
            # Closing it would end the session of the parent, which uses it.
            record.dbapi_connection = proxy.dbapi_connection = None
            raise exc.DisconnectionError("it belongs to another process")
        if credential.login()[0] != user:
            raise exc.DisconnectionError("its login has been replaced")

    def returned(_dbapi_connection: Any, record: Any) -> None:
        process, user = record.info.get(_LOGIN, (os.getpid(), None))
        try:
            stale = process == os.getpid() and credential.login()[0] != user
        except Unavailable:
            return  # it may come back; nobody takes it until then
        except LockstepError:
            stale = True
        if stale:
            record.invalidate()

    def closed(_dbapi_connection: Any, record: Any) -> None:
        if record.driver_connection is not None:
            credential.closed(record.driver_connection)

    def closed_detached(dbapi_connection: Any) -> None:
        credential.closed(getattr(dbapi_connection, "driver_connection", dbapi_connection))

    event.listen(sync_engine, "do_connect", log_in)
    # Before what SQLAlchemy itself asks of a first connection: a server that is slow then is cut as well.
    event.listen(sync_engine, "connect", opened, insert=True)
    event.listen(sync_engine, "checkout", taken)
    event.listen(sync_engine, "checkin", returned)
    event.listen(sync_engine, "close", closed)
    event.listen(sync_engine, "close_detached", closed_detached)
