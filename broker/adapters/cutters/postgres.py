"""The cutter at PostgreSQL: takes LOGIN away, ends sessions and looks, by three functions that we ship."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shlex
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, Final, NamedTuple

import asyncpg
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt

from broker.adapters.cutters.options import PostgresOptions
from broker.crypto.keyfiles import KeyFileError
from broker.errors import InvalidRequest, Unavailable
from broker.model.account import Remains, TargetFault
from lockstep.formats import Reason

SHIPPED: Final = "deploy/vault/postgres/cutter.sql"
"""The functions that it calls."""
# As they check it: letters, a dash, letters and digits, the end.
_ATTESTATION: Final = re.compile(r"[A-Za-z]{1,8}-[0-9A-Za-z]{1,40}")

_CUT: Final = "SELECT lockstep.cut($1::text)"
_END: Final = "SELECT lockstep.end_sessions($1::text)"
_LOOK: Final = "SELECT logins, sessions, starting FROM lockstep.look($1::text)"
_KNOWN: Final = "SELECT count(*) FROM pg_catalog.pg_roles WHERE starts_with(rolname, $1::text || '-')"
_FAULTS: Final = """
    SELECT rolname::text,
           rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls,
           ARRAY(SELECT g.rolname::text FROM pg_catalog.pg_auth_members m
                 JOIN pg_catalog.pg_roles g ON g.oid = m.roleid WHERE m.member = r.oid ORDER BY 1),
           pg_catalog.pg_is_in_recovery(),
           (SELECT pg_catalog.count(*) FROM pg_catalog.pg_proc p
            WHERE p.pronamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = 'lockstep')
              AND p.proname IN ('cut', 'end_sessions', 'look')
              AND pg_catalog.has_function_privilege(p.oid, 'EXECUTE')) <> 3
    FROM pg_catalog.pg_roles r WHERE rolname = current_user
"""

_PAUSES: Final = (0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128)
"""Seconds between looks while sessions are ending: most are gone at the second."""

_GONE: Final = (ConnectionError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError)
_ENDED: Final = (asyncpg.AdminShutdownError, asyncpg.CrashShutdownError)
_VENDOR: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


class _LostError(Exception):
    """A connection that was kept is dead: whatever was asked may be asked again, for all of it is idempotent."""


class _Look(NamedTuple):
    logins: int
    sessions: int
    starting: frozenset[str]


class PostgresCutter:
    """Plug of `broker.ports.TargetCutter` at one PostgreSQL, 15 or later.

    Connections are made when they are first needed and kept. Nothing of a
    connection outlives its transaction (no prepared statement, no setting), so
    that a pooler in transaction mode may stand between. Of the workloads'
    sessions behind a pooler, those at the server end and no new one begins;
    what the pooler keeps is its clients' connections, on which every statement
    now fails (in transaction mode when its ``query_wait_timeout`` is over). A
    pooler that comes to the server as one user for everybody hides whose
    sessions are whose: there is nothing to cut then.
    """

    def __init__(
        self, options: PostgresOptions, *, pause: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        """Raises `broker.crypto.keyfiles.KeyFileError` where a file cannot be used."""
        self._options = options
        self._pause = pause
        self._context = options.context()
        options.password()
        self._opening = asyncio.Lock()
        self._pool: Any = None
        self._closed = False

    def __repr__(self) -> str:
        where = self._options
        return f"PostgresCutter({where.user}@{where.host}:{where.port}/{where.database})"

    # --- the port -----------------------------------------------------------------------------------

    async def cut(self, attestation_id: str) -> Remains:
        """Take LOGIN away and commit, end sessions, and look until nothing is left or a quarter second has passed.

        A login that was checked before the commit may become a session after
        the look: such are waited for, and counted as sessions while nobody can
        tell whose they are. Raises `Unavailable`, and `InvalidRequest` for what
        is no attestation's id.
        """
        prefix = _prefix(attestation_id)
        async with self._answered():
            (known,) = await self._ask(_CUT, prefix)
            await self._ask(_END, prefix)
            found = await self._look(prefix)
            doubtful = found.starting
            for pause in _PAUSES:
                if not (found.logins or found.sessions or doubtful):
                    break
                await self._pause(pause)
                again = found.logins > 0
                if again:
                    (taken,) = await self._ask(_CUT, prefix)
                    known += taken
                await self._ask(_END, prefix)
                found = await self._look(prefix)
                doubtful = found.starting if again else doubtful & found.starting
            # Those that an earlier cut took it from are known, too.
            known = known or (await self._ask(_KNOWN, prefix))[0]
            return Remains(found.logins, found.sessions + len(doubtful), known)

    async def confirm(self, attestation_id: str) -> Remains:
        """What two looks find, a moment apart; the first alone where it finds something. Raises as `cut` does."""
        prefix = _prefix(attestation_id)
        async with self._answered():
            first = await self._look(prefix)
            if first.logins or first.sessions:
                return Remains(first.logins, first.sessions)
            await self._pause(self._options.pause)
            second = await self._look(prefix)
            return Remains(second.logins, second.sessions + len(first.starting & second.starting))

    async def faults(self) -> tuple[TargetFault, ...]:
        """Attributes and memberships of the login, a standby, functions that it may not call; () where all is well.
        Raises `Unavailable`."""
        database = self._options.database
        async with self._answered():
            # Who it is there: a pooler may come in as somebody else.
            user, wide, groups, standby, missing = await self._ask(_FAULTS)
        found = []
        if wide:
            mend = f"ALTER ROLE {_name(user)} NOSUPERUSER NOCREATEROLE NOCREATEDB NOREPLICATION NOBYPASSRLS"
            found.append(
                TargetFault(f"{user} has attributes, and needs none", _psql(database, mend), wide=True)
            )
        if groups:
            what = f"{user} is a member of {', '.join(groups)}, and needs no other role"
            mend = f"REVOKE {', '.join(map(_name, groups))} FROM {_name(user)}"
            found.append(TargetFault(what, _psql(database, mend), wide=True))
        if standby:
            what = "the database is a standby, where nothing can be cut"
            found.append(TargetFault(what, "# give the cutter the address of the primary"))
        if missing:
            what = f"{user} may not call lockstep's functions"
            found.append(
                TargetFault(what, f"psql -v ON_ERROR_STOP=1 -d {shlex.quote(database)} -f {SHIPPED}")
            )
        return tuple(found)

    async def close(self) -> None:
        """Give connections back; what is under way fails."""
        self._closed = True
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.terminate()

    # --- one call -----------------------------------------------------------------------------------

    async def _look(self, prefix: str) -> _Look:
        logins, sessions, starting = await self._ask(_LOOK, prefix)
        return _Look(logins, sessions, frozenset(starting))

    async def _ask(self, query: str, *arguments: str) -> Any:
        """One transaction of one row; once more where a kept connection turns out to be dead."""
        retrying = AsyncRetrying(
            stop=stop_after_attempt(2), retry=retry_if_exception_type(_LostError), reraise=True
        )
        return await retrying(self._once, query, *arguments)

    async def _once(self, query: str, *arguments: str) -> Any:
        pool = await self._opened()
        connection = await pool.acquire(timeout=self._options.answer)
        try:
            # In a transaction of its own: between two of its messages a pooler may change the server otherwise.
            await connection.execute("BEGIN")
            row = await connection.fetchrow(query, *arguments)
            await connection.execute("COMMIT")
        except (*_GONE, *_ENDED) as error:
            _drop(connection)
            await pool.expire_connections()
            raise _LostError(str(error)) from error
        except BaseException:
            # Whatever it was doing, it is not waited for.
            _drop(connection)
            raise
        finally:
            await pool.release(connection)
        return row

    async def _opened(self) -> Any:
        async with self._opening:
            if self._closed:
                raise _LostError("closed")
            if self._pool is None:
                options = self._options
                self._pool = await asyncpg.create_pool(
                    host=options.host,
                    port=options.port,
                    user=options.user,
                    database=options.database,
                    # Everything is said, so that no PG* variable of the environment says it.
                    password=options.password,
                    ssl=self._context or False,
                    direct_tls=False,
                    target_session_attrs="any",
                    timeout=options.command,
                    command_timeout=options.command,
                    min_size=0,
                    max_size=options.connections,
                    max_inactive_connection_lifetime=0,
                    statement_cache_size=0,
                    reset=_nothing,
                    server_settings={"application_name": "lockstep-cutter"},
                )
            return self._pool

    @contextlib.asynccontextmanager
    async def _answered(self) -> AsyncIterator[None]:
        """Within the deadline, and with errors of ours: no word of a vendor's, who may quote what was sent."""
        try:
            async with asyncio.timeout(self._options.answer):
                yield
        except KeyFileError as error:
            raise Unavailable(Reason.BACKEND_UNAVAILABLE, str(error)) from None
        except (TimeoutError, OSError, _LostError, *_VENDOR) as error:
            raise Unavailable(Reason.BACKEND_UNAVAILABLE, f"cutter: {_why(error)}") from None


async def _nothing(connection: Any) -> None:
    """A connection keeps nothing, so that there is nothing to reset."""


def _name(role: str) -> str:
    """As SQL takes it."""
    return '"' + role.replace('"', '""') + '"'


def _psql(database: str, statement: str) -> str:
    return shlex.join(("psql", "-d", database, "-c", statement))


def _drop(connection: Any) -> None:
    # One that the server has closed has left the pool by itself.
    with contextlib.suppress(asyncpg.InterfaceError):
        connection.terminate()


def _prefix(attestation_id: str) -> str:
    if _ATTESTATION.fullmatch(attestation_id) is None:
        raise InvalidRequest("not the id of an attestation")
    return f"ls-{attestation_id}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "the database does not answer"
    if isinstance(error, ssl.SSLCertVerificationError):
        return "the database's certificate is not trusted"
    if isinstance(error, asyncpg.InvalidAuthorizationSpecificationError):
        return "the database refuses the login"
    known = (
        asyncpg.InsufficientPrivilegeError,
        asyncpg.UndefinedFunctionError,
        asyncpg.InvalidSchemaNameError,
    )
    if isinstance(error, known):
        return f"the login may not call lockstep's functions; run: {SHIPPED}"
    if any(isinstance(cause, asyncpg.ProtocolViolationError) for cause in _causes(error)):
        # With this PgBouncer answers whatever it does not do.
        return "a pooler before the database refuses: it must know the login, in session or transaction mode"
    return "the database cannot be reached"
