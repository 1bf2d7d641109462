"""SQLAlchemy on a live credential: new connections log in as of now, rotation drains, revocation cuts."""

from __future__ import annotations

from typing import Any

from lockstep_client.holding import Revocation
from lockstep_client.leases import LiveCredential


def bind(engine: Any, credential: LiveCredential) -> None:
    """Let an `Engine` or `AsyncEngine` log in with a live credential.

    Every new connection asks the credential, so it is refused with `Revoked`
    after a revocation. A rotation makes a fresh pool: connections in use finish
    under the old login. A revocation empties the pool at once.
    """
    from sqlalchemy import event  # type: ignore[import-not-found,unused-ignore]

    sync_engine = getattr(engine, "sync_engine", engine)

    @event.listens_for(sync_engine, "do_connect")  # type: ignore[untyped-decorator,unused-ignore]
    def log_in(_dialect: Any, _record: Any, _arguments: Any, parameters: dict[str, Any]) -> None:
        user, password = credential.login()
        parameters["user"], parameters["password"] = user, password.reveal()

    @credential.on_rotated
    def drain() -> None:
        # Checked-in connections are dropped when they are next asked for, those in use when they come back.
        sync_engine.dispose(close=False)

    def cut(_revocation: Revocation) -> None:
        sync_engine.dispose()

    credential.on_lost(cut)
