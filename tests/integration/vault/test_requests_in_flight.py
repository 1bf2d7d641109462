"""A request for credentials that Vault has begun is held at the database over every step of a revocation.

Whatever step it is let go after, nothing is left: no login, no lease, no token that could be used, and a receipt that
says so. Real are Vault, the database, the state and the verbs.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from broker.errors import LockstepError
from broker.model.credential import LeaseState
from broker.model.revocation import SelectorKind
from tests.support.relay import Relay

if TYPE_CHECKING:
    from tests.support.house import House, Workload
    from tests.support.openbao import OpenBao
    from tests.support.postgres import Postgres
    from tests.support.vault_stage import VaultStage

T = TypeVar("T")

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(120)]

PATIENCE = 60.0
KNOWN = 2
"""Credentials that the instance has, beside the one that is on its way."""
LOCK = "SELECT pg_advisory_xact_lock(77);"
"""Logins are made by whoever has this."""


class Gate:
    """The lock in the creation statement, shut and opened by the test."""

    def __init__(self, stage: VaultStage) -> None:
        self._holder = stage.target.superuser.connect()
        self._eye = stage.target.superuser.connect()
        self._owner = stage.target.owner

    def shut(self) -> None:
        self._holder.execute("SELECT pg_advisory_lock(77)")

    def open(self) -> None:
        self._holder.execute("SELECT pg_advisory_unlock(77)")

    def waiting(self) -> int:
        """How many of Vault's sessions wait before it."""
        return self._count(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )

    def logins(self) -> int:
        """How many logins there are, whether they can log in or not."""
        return self._count(
            f"SELECT count(*) FROM pg_roles WHERE starts_with(rolname, 'ls-')"
            f" AND pg_has_role(oid, '{self._owner}', 'member')"
        )

    def close(self) -> None:
        self._holder.close()
        self._eye.close()

    def _count(self, query: str) -> int:
        (count,) = self._eye.execute(query).fetchone() or (0,)
        return int(count)


@dataclass
class Moments:
    """A `Witness` that does something when a call has been made for the n-th time, before its caller goes on."""

    trace: list[str] = field(default_factory=list)
    _wanted: tuple[str, int] = ("", 0)
    _act: Callable[[], Awaitable[None]] | None = None

    def after(self, name: str, number: int, act: Callable[[], Awaitable[None]]) -> None:
        self._wanted, self._act = (name, number), act

    async def of(self, name: str, call: Awaitable[T]) -> T:
        try:
            return await call
        finally:
            self.trace.append(name)
            if self._act is not None and self._wanted == (name, self.trace.count(name)):
                act, self._act = self._act, None
                await act()


@dataclass
class Scene:
    """An instance with credentials, and one more on its way."""

    stage: VaultStage
    house: House
    moments: Moments
    gate: Gate
    workload: Workload
    asking: asyncio.Task[Any]

    async def let_go(self, *, made: bool = False) -> None:
        """What is held at the database goes on. `made`: none is there before it, and it stays, for nobody takes it back
        at once."""
        assert self.gate.waiting() == 1
        assert not made or self.gate.logins() == 0
        self.gate.open()
        await until(lambda: self.gate.waiting() == 0)
        if made:
            await until(lambda: self.gate.logins() == 1)

    async def revoked(self) -> None:
        """Revoke the instance, work until nothing is left to do, and look at everything."""
        from tests.support.witnessed import kept_up, settled

        answer = await self.house.revoke(SelectorKind.ATTESTATION, self.workload.id)
        async with kept_up(self.house), asyncio.timeout(PATIENCE):
            await settled(self.house)
        await self.swept()
        assert self.asking.done()
        assert self.gate.waiting() == 0
        receipt = json.loads(await self.house.receipt(answer.revocation_id))
        assert receipt["unconfirmed"] == []
        names = [step["name"] for step in receipt["steps"]]
        for name in ("frozen", "cut", "cleaned", "drained", "closed", "gone", "confirmed"):
            assert name in names, names
        with pytest.raises(LockstepError):
            await self.asking
        assert await self.house.leases(LeaseState.PENDING, LeaseState.ACTIVE, LeaseState.REVOKING) == []

    async def swept(self) -> None:
        """Let rounds of upkeep go by until nothing is left; a sweep finds what came after everything was settled."""
        from tests.support.vault_stage import NOTHING, PATH, SLOW, left

        async with asyncio.timeout(PATIENCE):
            while await asyncio.to_thread(left, self.stage.vault, self.stage.target, PATH, SLOW) != NOTHING:
                await self.house.upkeep.tick()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what only a server knows."""
    async with asyncio.timeout(PATIENCE):
        while not await asyncio.to_thread(condition):  # noqa: ASYNC110 - only a server knows
            await asyncio.sleep(0.02)


@pytest.fixture
def stage(openbao_server: OpenBao, postgres_server: Postgres, tmp_path: Path) -> VaultStage:
    from tests.support.vault_stage import lay_out

    return lay_out(openbao_server, postgres_server, tmp_path / "stage", slow=LOCK)


@contextlib.asynccontextmanager
async def scene(stage: VaultStage, folder: Path, **options: Any) -> AsyncIterator[Scene]:
    """A request is at the database. `options` are the Vault plug's."""
    from tests.support.postgres_ground import cutter_options
    from tests.support.vault_stage import PATH, SLOW
    from tests.support.witnessed import attested, witnessed_house

    moments = Moments()
    found = stage.vault.options(**{"timeout": 20.0, "max_request_duration": 20.0, **options})
    cutter = cutter_options(stage.target.cutter, folder)
    pending = found.timeout + 1.0
    with contextlib.closing(Gate(stage)) as gate:
        async with witnessed_house(
            moments, folder / "state.db", found, {"db": PATH, "slow": SLOW}, cutter, pending=pending
        ) as house:
            workload = await attested(house)
            for _ in range(KNOWN):
                await workload.issue("db")
            gate.shut()
            asking = asyncio.create_task(workload.issue("slow"))
            await until(lambda: gate.waiting() == 1)
            moments.trace.clear()
            try:
                yield Scene(stage, house, moments, gate, workload, asking)
            finally:
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)


# --- whoever asked waits for the answer -----------------------------------------------------------------


async def known_leases_ended(house: House) -> bool:
    return len(await house.leases(LeaseState.REVOKED)) == KNOWN


@pytest.mark.parametrize(
    ("name", "number"),
    [("freeze", 1), ("cut", 1), ("cut", 2), ("revoke", 1)],
    ids=["frozen", "cut", "looked again", "cleaning"],
)
async def test_answered_between_two_steps(stage: VaultStage, tmp_path: Path, name: str, number: int) -> None:
    async with scene(stage, tmp_path) as played:
        played.moments.after(name, number, played.let_go)
        await played.revoked()


async def test_answered_when_every_known_lease_has_gone(stage: VaultStage, tmp_path: Path) -> None:
    async with scene(stage, tmp_path) as played:

        async def let_go() -> None:
            await played.house.until(lambda: known_leases_ended(played.house), PATIENCE)
            assert played.gate.logins() == 0
            assert "close" not in played.moments.trace
            await played.let_go()

        await asyncio.gather(played.revoked(), let_go())


async def test_answered_while_accounts_wait_for_it(stage: VaultStage, tmp_path: Path) -> None:
    async with scene(stage, tmp_path) as played:

        async def looked_at() -> float:
            [account] = await played.house.look(lambda tx: tx.accounts.of_attestation(played.workload.id))
            return float(account.next_attempt_at)

        async def let_go() -> None:
            await played.house.until(lambda: known_leases_ended(played.house), PATIENCE)
            # The closing looks, finds a call under way, and puts itself off: more than once.
            for _ in range(3):
                before = await looked_at()

                async def again(before: float = before) -> bool:
                    return await looked_at() > before

                await played.house.until(again, PATIENCE)
            assert "close" not in played.moments.trace
            await played.let_go()

        await asyncio.gather(played.revoked(), let_go())
        # Taken back by its own lease, which the answer has told, before the account was closed.
        assert played.moments.trace.index("close") > played.moments.trace.index("revoke")


# --- nobody waits for the answer any more ---------------------------------------------------------------


@pytest.fixture
def balancer(openbao_server: OpenBao) -> Iterator[Relay]:
    """Between broker and Vault: it goes on with a request whose caller has gone, and so does Vault."""
    with Relay(openbao_server.port, holds=True) as relay:
        yield relay


def wrong(balancer: Relay) -> dict[str, Any]:
    """A second, says the configuration; thirty, says the server."""
    return {"addresses": (f"https://{balancer.address}",), "timeout": 1.0, "max_request_duration": 1.0}


@pytest.mark.parametrize(
    ("name", "number"),
    [("close", 1), ("cut", 4), ("confirm cut", 1)],
    ids=["accounts closed", "cut again", "confirmed"],
)
async def test_one_that_goes_on_longer_than_vault_was_said_to(
    stage: VaultStage, balancer: Relay, tmp_path: Path, name: str, number: int
) -> None:
    async with scene(stage, tmp_path, **wrong(balancer)) as played:
        played.moments.after(name, number, lambda: played.let_go(made=True))
        await played.revoked()


async def test_one_that_is_let_go_after_the_receipt_is_swept(
    stage: VaultStage, balancer: Relay, tmp_path: Path
) -> None:
    from tests.support.witnessed import kept_up, settled

    async with scene(stage, tmp_path, **wrong(balancer)) as played:
        await played.house.revoke(SelectorKind.ATTESTATION, played.workload.id)
        async with kept_up(played.house), asyncio.timeout(PATIENCE):
            await settled(played.house)
        await played.let_go(made=True)
        await played.swept()
        assert played.gate.logins() == 0


async def test_vault_gives_up_in_the_time_that_the_draining_waits(
    postgres_server: Postgres, tmp_path: Path
) -> None:
    from tests.support.openbao import openbao
    from tests.support.vault_stage import lay_out

    with openbao(tmp_path / "bao", max_request_duration="3s") as bao, Relay(bao.port, holds=True) as relay:
        stage = lay_out(bao, postgres_server, tmp_path / "stage", slow=LOCK)
        right = {"addresses": (f"https://{relay.address}",), "timeout": 1.0, "max_request_duration": 3.0}
        async with scene(stage, tmp_path, **right) as played:
            found: list[int] = []

            async def look() -> None:
                found.append(played.gate.waiting())
                played.gate.open()

            played.moments.after("close", 1, look)
            await played.revoked()
            # When the accounts were closed, nothing was left that could still be answered.
            assert found == [0]
            assert played.gate.logins() == 0
