"""The asyncio face: the same names, awaited; callbacks may be coroutine functions.

Nothing of gRPC runs in the user's loop: the keeper's threads do the work, so a
blocked loop delays neither renewal nor revocation.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Never, Self, TypeVar

import tenacity

from lockstep_client import hardening
from lockstep_client.client import guarded_connection, loser, persistence
from lockstep_client.connection import Connection, OnRevoked
from lockstep_client.errors import Unavailable
from lockstep_client.evidence import EvidenceSource
from lockstep_client.guarding import Guarding, GuardUse, guard_use
from lockstep_client.hardening import HardenUse
from lockstep_client.holding import Attestation, Revocation
from lockstep_client.keeper import JOB_TIMEOUT
from lockstep_client.leases import LiveCredential
from lockstep_client.report import Observation
from lockstep_client.settings import Settings, load
from lockstep_client.telling import Deliver, into

T = TypeVar("T")
F = TypeVar("F", bound=Callable[[Revocation], object])


def connect(
    *,
    address: str | None = None,
    ca_file: str | None = None,
    cluster: str | None = None,
    identity_token_file: str | None = None,
    client_cert_file: str | None = None,
    client_key_file: str | None = None,
    config: str | os.PathLike[str] | None = None,
    settings: Settings | None = None,
    roles: Sequence[str] = (),
    wait: float = 0.0,
    on_revoked: OnRevoked = "raise",
    guard: GuardUse | None = None,
    harden: HardenUse | None = None,
    evidence: Callable[[], EvidenceSource] | None = None,
) -> Connecting:
    """``async with connect() as ls`` or ``ls = await connect()``; arguments as `lockstep_client.connect`.

    Callbacks are delivered into the loop that entered or awaited.
    """

    def begin(deliver: Deliver) -> Connection:
        found = settings or load(
            {
                "address": address,
                "ca_file": ca_file,
                "cluster": cluster,
                "identity_token_file": identity_token_file,
                "client_cert_file": client_cert_file,
                "client_key_file": client_key_file,
            },
            config=config,
        )
        return guarded_connection(
            found, guarding, evidence, roles=roles, on_revoked=on_revoked, deliver=deliver
        )

    hardening.harden(hardening.harden_use(harden))
    guarding = Guarding(guard_use(guard)) if evidence is None else None
    return Connecting(begin, wait, guarding)


class Connecting:
    """A connection to be: enter it or await it."""

    def __init__(
        self,
        begin: Callable[[Deliver], Connection],
        wait: float,
        guarding: Guarding | None,
    ) -> None:
        self._begin = begin
        self._wait = wait
        self._guarding = guarding
        self._made: Lockstep | None = None

    def __await__(self) -> Generator[object, None, Lockstep]:
        return self._connect().__await__()

    async def __aenter__(self) -> Lockstep:
        self._made = await self._connect()
        return self._made

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._made is not None:
            await self._made.close()

    async def _connect(self) -> Lockstep:
        loop = asyncio.get_running_loop()
        # Reading files and making a key is quick, importing and measuring is the keeper's work.
        connection = await asyncio.to_thread(self._begin, into(loop))
        try:
            await _persist(connection.attest, self._wait)
        except BaseException:
            await asyncio.to_thread(connection.close)
            raise
        if self._guarding is not None:
            self._guarding.tell(connection.report, loser(connection))
        return Lockstep(connection)


class Lockstep:
    """An attested process, for one event loop; an async context manager."""

    __slots__ = ("_connection", "_credentials")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._credentials: dict[str, LiveCredential] = {}

    async def credential(self, role: str, *, wait: float = 0.0) -> LiveCredential:
        """A live credential; asking twice gives the same one. Raises `Denied`, `Revoked`, `Unavailable`."""
        await _persist(lambda: self._connection.credential(role), wait)
        return self._credentials.setdefault(role, LiveCredential(self._connection, role))

    def on_revoked(self, callback: F) -> F:
        """Call back (a function or a coroutine function) once everything was taken back."""
        self._connection.on_revoked(callback)
        return callback

    @property
    def ready(self) -> bool:
        """True while the process is attested and everything that it asked for may be used."""
        return self._connection.ready

    @property
    def attestation(self) -> Attestation | None:
        """The broker's verdict, as last refreshed."""
        return self._connection.attestation

    def report(self, observation: Observation) -> None:
        """Tell the broker of code that ran or was stopped; never blocks."""
        self._connection.report(observation)

    async def close(self) -> None:
        """Give the leases back and forget the secrets; idempotent."""
        await asyncio.to_thread(self._connection.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        attestation = self._connection.attestation
        return f"<Lockstep {attestation.id if attestation else 'not attested'} ready={self.ready}>"

    def __reduce_ex__(self, _protocol: object) -> Never:
        raise TypeError("a connection cannot be pickled or copied: connect in the process that uses it")


async def _persist(ask: Callable[[], Future[T]], wait: float) -> T:
    async def attempt() -> T:
        try:
            return await asyncio.wait_for(asyncio.wrap_future(ask()), JOB_TIMEOUT)
        except TimeoutError:
            raise Unavailable(f"no answer within {JOB_TIMEOUT:g} s") from None

    return await tenacity.AsyncRetrying(**persistence(wait))(attempt)
