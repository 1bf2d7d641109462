"""A credential that stays valid: every look at it gives what may be used now, or says why nothing may."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Never, TypeVar

from lockstep.formats import b64url
from lockstep_client.databases import data_source
from lockstep_client.errors import InvalidRequest, LockstepError
from lockstep_client.secrets import Secret

if TYPE_CHECKING:
    from lockstep_client.connection import Connection
    from lockstep_client.holding import Revocation

F = TypeVar("F", bound=Callable[[], object])
R = TypeVar("R", bound="Callable[[Revocation], object]")
C = TypeVar("C")


class LiveCredential:
    """Thread-safe; renews itself; shows nothing of the secret in repr, str or pickle.

    Every property raises `Revoked` once it has been taken back, `Denied` where
    its renewal was refused, `Unavailable` where no broker was heard for too
    long (it comes back by itself).
    """

    __slots__ = ("_connection", "_role")

    def __init__(self, connection: Connection, role: str) -> None:
        self._connection = connection
        self._role = role

    @property
    def role(self) -> str:
        """The role that it was asked for."""
        return self._role

    @property
    def token(self) -> Secret:
        """The signed token, for roles whose credential is one."""
        token = self._connection.held(self._role).token
        if token is None:
            raise InvalidRequest(f"{self._role!r} gives named fields, not a token: see .fields")
        return token

    @property
    def fields(self) -> Mapping[str, Secret]:
        """The named fields of a dynamic secret, as they are now."""
        return self._connection.held(self._role).fields

    @property
    def username(self) -> str:
        """The field ``username``, in the clear: it is no secret. Read it together with `password` by :meth:`login`."""
        return self._field("username").reveal()

    @property
    def password(self) -> Secret:
        """The field ``password``."""
        return self._field("password")

    def login(self) -> tuple[str, Secret]:
        """(username, password) of one moment: two properties may straddle a rotation."""
        fields = self._connection.held(self._role).fields
        try:
            return fields["username"].reveal(), fields["password"]
        except KeyError as error:
            raise self._missing(str(error.args[0]), fields) from None

    @property
    def parameters(self) -> Mapping[str, Any]:
        """What the role tells about the target: audience, host, database."""
        return self._connection.held(self._role).parameters

    @property
    def expires_at(self) -> dt.datetime:
        """UTC; moves with every renewal."""
        return self._connection.held(self._role).expires_at

    @property
    def lease_id(self) -> str:
        """For ``lockstep leases`` and ``lockstep revoke``."""
        return self._connection.held(self._role).lease_id

    @property
    def decision(self) -> str:
        """For ``lockstep explain``."""
        return self._connection.held(self._role).decision

    @property
    def mode(self) -> str:
        """``observe`` or ``enforce``."""
        return self._connection.held(self._role).mode

    @property
    def revocability(self) -> str:
        """How soon it can be taken back: ``instant``, ``at_target``, ``until_expiry`` or ``never``."""
        return self._connection.held(self._role).revocability

    @property
    def rotate_every(self) -> float:
        """Seconds after which a new secret takes the place of this one; 0 where the role does not rotate."""
        return self._connection.held(self._role).rotate_every

    @property
    def overlap(self) -> float:
        """Seconds that a secret lives on after a rotation, beside the new one."""
        return self._connection.held(self._role).overlap

    def http_headers(self, method: str, url: str, *, nonce: str | None = None) -> dict[str, str]:
        """Headers for one HTTP request with the token (RFC 6750; with a DPoP proof, RFC 9449, where it is bound).

        `method` in upper case, `url` as requested; `nonce` is the resource
        server's ``DPoP-Nonce``, where it asked for one.
        """
        parts = self._connection.parts()
        held = self._connection.held(self._role)
        if held.token is None:
            raise InvalidRequest(f"{self._role!r} gives named fields, not a token")
        token = held.token.reveal()
        if not held.possession_required:
            return {"Authorization": f"Bearer {token}"}
        proof = parts.exchange.key.dpop(
            method=method,
            url=url.partition("#")[0].partition("?")[0],
            token_hash=b64url(hashlib.sha256(token.encode("ascii")).digest()),
            issued_at=self._connection.wall(),
            nonce=nonce,
        )
        return {"Authorization": f"DPoP {token}", "DPoP": proof}

    def on_rotated(self, callback: F) -> F:
        """Call back, without arguments, whenever the secret is a new one. Usable as a decorator.

        What it returns is awaited where it can be: in the loop that was running
        when it was registered, else in the one that `asyncpg_connect` was last
        used in. With the asyncio face, in the loop of the connection.
        """
        self._connection.on_rotated(self._role, callback)
        return callback

    def on_lost(self, callback: R) -> R:
        """Call back with the `Revocation` once it was taken back; the secret is gone by then."""
        self._connection.on_revoked(callback, self._role)
        return callback

    async def asyncpg_connect(self, *arguments: Any, **options: Any) -> Any:
        """``asyncpg.create_pool(connect=db.asyncpg_connect)``: every new connection logs in as who we are now.

        A revocation ends the connections that it made, also those in use. After
        a rotation, let the pool take new ones, with either face of the SDK:
        ``db.on_rotated(pool.expire_connections)``. Raises `Revoked`, `Denied`,
        `Unavailable`, and what asyncpg raises.
        """
        import asyncpg  # type: ignore[import-not-found,import-untyped,unused-ignore]

        user, password = self.login()
        made = await asyncpg.connect(*arguments, **{**options, "user": user, "password": password.reveal()})
        return self.opened(made)

    def opened(self, connection: C) -> C:
        """Let a revocation end this session of a database driver too: ``db.opened(psycopg.connect(…))``.

        Call it on the thread, or in the loop, that the connection belongs to.
        Raises `Revoked`, `Denied` or `Unavailable`, and ends the session, where
        the login may not be used any more: it was taken back meanwhile.
        """
        sessions = self._connection.sessions(self._role)
        sessions.opened(connection)
        try:
            self.login()
        except LockstepError:
            # The cut came before the connection was known.
            sessions.end(connection)
            raise
        return connection

    def closed(self, connection: object) -> None:
        """Forget a session that is over; one that is collected is forgotten by itself."""
        self._connection.sessions(self._role).closed(connection)

    def dsn(self, scheme: str = "postgresql", **query: str) -> Secret:
        """A connection URI with the login as it is now, and the target that the role names (RFC 3986).

        Everything that the role's `target` says is in it (:attr:`parameters`);
        `query` is put behind it, for example ``application_name="pay"``, and
        wins. A secret: it has the password in it. Raises `InvalidRequest` where
        the role names no host, or says what libpq does not know.
        """
        user, password = self.login()
        return data_source(scheme, user, password, self.parameters, query, self._role)

    def _field(self, name: str) -> Secret:
        fields = self._connection.held(self._role).fields
        try:
            return fields[name]
        except KeyError:
            raise self._missing(name, fields) from None

    def _missing(self, name: str, fields: Mapping[str, Secret]) -> InvalidRequest:
        known = ", ".join(fields) or "none; it is a token: see .token"
        return InvalidRequest(f"{self._role!r} has no field {name!r}; it has: {known}")

    def __repr__(self) -> str:
        return f"LiveCredential(role={self._role!r})"

    def __reduce_ex__(self, _protocol: object) -> Never:
        raise TypeError("a LiveCredential cannot be pickled or copied: connect in the process that uses it")
