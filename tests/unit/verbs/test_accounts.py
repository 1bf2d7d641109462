"""Accounts: a row before the account, the accessor before the first secret, and nothing left when it is revoked."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from broker.errors import Denied, LockstepError, Unavailable
from broker.model.account import Account, AccountState
from broker.model.attestation import AttestationState
from broker.model.credential import Lease, LeaseState
from broker.model.revocation import SelectorKind
from broker.model.role import Revocability
from broker.upkeep import STUCK_AFTER
from lockstep.formats import Reason
from tests.fakes.accounts import FakeTarget, FakeVault
from tests.support.house import START, House, Workload, role

ROLES = (
    role("db", backend="vault", revocability=Revocability.AT_TARGET, parameters={"cutter": "payments"}),
    role("kv", backend="vault", revocability=Revocability.AT_TARGET, parameters={}),
)


async def opened() -> tuple[House, FakeVault]:
    house = await House.open(*ROLES)
    vault = FakeVault()
    house.backends["vault"] = vault
    house.cutters["payments"] = vault.target
    return house, vault


async def accounts(house: House, workload: Workload) -> list[Account]:
    found: list[Account] = await house.look(lambda tx: tx.accounts.of_attestation(workload.id))
    return found


async def revoke(house: House, workload: Workload) -> str:
    return (await house.revoke(SelectorKind.ATTESTATION, workload.id)).revocation_id


def nothing_but_accounts(vault: FakeVault) -> bool:
    return not vault.leases and not vault.target.logins


async def state_of(house: House, lease: Lease) -> LeaseState:
    return (await house.lease(lease.id)).state


async def lose(house: House, vault: FakeVault, workload: Workload) -> Lease:
    """The row of a login that the backend has made, and whose answer was lost."""

    async def lost() -> None:
        raise Unavailable(Reason.BACKEND_UNAVAILABLE, "no answer")

    vault.meanwhile("issue", lost)
    with pytest.raises(Unavailable):
        await workload.issue("db")
    [row] = [
        lease
        for lease in await house.look(lambda tx: tx.leases.of_attestation(workload.id))
        if not lease.handle
    ]
    assert isinstance(row, Lease)
    return row


def nothing_left(vault: FakeVault) -> bool:
    return not vault.leases and not vault.tokens and not vault.target.logins


class TestOpening:
    async def test_one_account_carries_every_credential_of_an_attestation(self) -> None:
        house, vault = await opened()
        workload = await house.attested()
        first, second = await workload.issue("db"), await workload.issue("kv")
        [account] = await accounts(house, workload)
        assert account.state is AccountState.OPEN
        assert account.accessor in vault.tokens
        assert {first.lease.account_id, second.lease.account_id} == {account.id}
        assert vault.calls.count("open") == 1

    async def test_those_who_ask_at_the_same_time_wait_for_one_opening(self) -> None:
        house, vault = await opened()
        workload = await house.attested()
        gate = vault.hold("open")
        asked = [asyncio.create_task(workload.issue("db")) for _ in range(5)]
        await vault.heard("open")
        gate.set()
        answers = await asyncio.gather(*asked)
        assert len({answer.lease.account_id for answer in answers}) == 1
        assert vault.calls.count("open") == 1

    async def test_the_row_is_there_before_the_backend_hears_of_it(self) -> None:
        house, vault = await opened()
        workload = await house.attested()
        seen: list[AccountState] = []

        async def look() -> None:
            seen.extend(account.state for account in await accounts(house, workload))

        vault.meanwhile("before open", look)
        await workload.issue("db")
        assert seen == [AccountState.OPENING]

    async def test_the_accessor_is_durable_before_the_first_secret(self) -> None:
        house, vault = await opened()
        workload = await house.attested()
        seen: list[str] = []

        async def look() -> None:
            seen.extend(account.accessor for account in await accounts(house, workload))

        vault.meanwhile("before issue", look)
        await workload.issue("db")
        assert seen == list(vault.tokens)

    async def test_an_account_that_this_process_does_not_hold_is_left_to_its_leases(self) -> None:
        house, vault = await opened()
        workload = await house.attested()
        first = await workload.issue("db")
        vault.restarted()
        second = await workload.issue("db")
        assert first.lease.account_id != second.lease.account_id
        assert [account.state for account in await accounts(house, workload)] == [AccountState.OPEN] * 2
        assert set(vault.leases) == {first.lease.handle, second.lease.handle}

    async def test_a_failed_opening_is_closed_and_the_next_try_opens_another(self) -> None:
        house, vault = await opened()
        workload = await house.attested()
        vault.fail("open")
        with pytest.raises(Unavailable):
            await workload.issue("db")
        answer = await workload.issue("db")
        await house.tick(1)
        states = [account.state for account in await accounts(house, workload)]
        assert states == [AccountState.CLOSED, AccountState.OPEN]
        # The instance is alive: closing what failed must not stop it.
        assert workload.id not in vault.frozen
        assert answer.lease.handle in vault.leases

    async def test_who_goes_away_does_not_take_the_opening_from_the_others(self) -> None:
        house, vault = await opened()
        workload = await house.attested()
        gate = vault.hold("open")
        first = asyncio.create_task(workload.issue("db"))
        await vault.heard("open")
        second = asyncio.create_task(workload.issue("db"))
        first.cancel()
        gate.set()
        assert (await second).lease.handle in vault.leases

    async def test_a_renewal_needs_its_account(self) -> None:
        house, _ = await opened()
        workload = await house.attested()
        answer = await workload.issue("db")
        house.clock.advance(10)
        await workload.reattest()
        renewed = await workload.renew(answer.lease.id)
        assert renewed.credential is None
        account = (await accounts(house, workload))[0]

        async def end(tx: Any) -> None:
            await tx.accounts.begin_closing([account.attestation_id], house.now)

        await house.state.transact(end)
        house.clock.advance(10)
        await workload.reattest()
        with pytest.raises(Denied) as refused:
            await workload.renew(answer.lease.id)
        assert refused.value.reason is Reason.LEASE_ENDED


class TestRevocation:
    async def test_the_order(self) -> None:
        house, vault = await opened()
        workload = await house.attested()
        await workload.issue("db")
        vault.calls.clear()
        name = await revoke(house, workload)
        await house.tick(1)
        assert await house.settled(name)
        assert vault.calls.index("freeze") < vault.calls.index("revoke") < vault.calls.index("close")
        assert vault.target.calls[0] == "cut"
        assert vault.target.calls[-1] == "confirm"
        assert nothing_left(vault)
        steps = [step["name"] for step in json.loads(await house.receipt(name))["steps"]]
        assert "cleaned" in steps
        order = ["denied", "frozen", "cut", "drained", "closed", "gone", "cut", "told", "confirmed"]
        assert [step for step in steps if step in order] == order

    @pytest.mark.parametrize("moment", ["before open", "open", "before issue", "within issue", "issue"])
    async def test_a_credential_on_its_way_is_not_left(self, moment: str) -> None:
        house, vault = await opened()
        workload = await house.attested()

        async def revoked() -> None:
            await revoke(house, workload)
            await house.tick()

        vault.meanwhile(moment, revoked)
        with pytest.raises(LockstepError):
            await workload.issue("db")
        await house.tick(1)
        assert nothing_left(vault)
        found = await house.only_revocation()
        assert await house.settled(found.id)

    async def test_accounts_wait_for_a_call_that_is_under_way(self) -> None:
        house, vault = await opened()
        workload = await house.attested()
        gate = vault.hold("within issue")
        asking = asyncio.create_task(workload.issue("db"))
        await vault.heard("issue")
        name = await revoke(house, workload)
        await house.tick(1)
        assert workload.id in vault.frozen
        assert "close" not in vault.calls
        assert not await house.settled(name)
        gate.set()
        with pytest.raises(LockstepError):
            await asking
        await house.tick(1)
        assert nothing_left(vault)
        await house.tick(1)
        assert await house.settled(name)

    async def test_what_another_process_sent_is_waited_for_as_long_as_it_may_take(self) -> None:
        house, vault = await opened()
        workload = await house.attested()
        await workload.issue("db")
        vault.restarted()
        name = await revoke(house, workload)
        await house.tick(1)
        assert not vault.leases
        assert vault.tokens
        assert vault.calls.count("freeze") == 1
        await house.tick(vault.accounts.longest_call)
        assert nothing_left(vault)
        # What was on its way may have made what the first freeze did not find.
        assert vault.calls.count("freeze") == 2
        assert vault.calls.index("close") > len(vault.calls) - vault.calls[::-1].index("freeze") - 1
        await house.tick(1)
        assert await house.settled(name)
        assert "strays" in vault.calls

    async def test_a_backend_that_is_away_keeps_no_target_from_being_cut(self) -> None:
        house, vault = await opened()
        workload = await house.attested()
        answer = await workload.issue("db")
        vault.fail("freeze", 2)
        vault.fail("revoke", 3)
        await revoke(house, workload)
        await house.tick(0.01)
        assert answer.lease.handle in vault.leases
        assert not vault.target.logins[answer.lease.handle].login
        for _ in range(10):
            await house.tick(5)
        assert nothing_left(vault)
        assert workload.id in vault.frozen

    async def test_a_target_that_is_away_is_cut_when_it_is_back(self) -> None:
        house, vault = await opened()
        workload = await house.attested()
        await workload.issue("db")
        away = Unavailable(Reason.BACKEND_UNAVAILABLE, "no database")
        vault.target.failures.extend([away] * (4 * STUCK_AFTER))
        name = await revoke(house, workload)
        await house.tick(1)
        assert workload.id in vault.frozen
        assert not await house.settled(name)
        for _ in range(20):
            await house.tick(20)
        assert nothing_left(vault)
        assert await house.settled(name)
        assert any(isinstance(item, Account) for item in house.stuck)

    async def test_a_cutter_that_knows_no_login_of_what_is_out_confirms_nothing(self) -> None:
        house, _ = await opened()
        # Another database than the one that the backend makes logins at; or names that are not the instance's.
        house.cutters["payments"] = elsewhere = FakeTarget()
        workload = await house.attested()
        answer = await workload.issue("db")
        await workload.issue("kv")
        other = await house.attested()
        await other.issue("db")
        name = await revoke(house, workload)
        await house.tick(1)
        assert await house.settled(name)
        receipt = json.loads(await house.receipt(name))
        (missed,) = (step for step in receipt["steps"] if step["name"] == "missed")
        assert missed["detail"] == "payments: found no login of the instance, and 1 must be there"
        assert "cut" not in {step["name"] for step in receipt["steps"]}
        (unconfirmed,) = receipt["unconfirmed"]
        assert unconfirmed["lease"] == answer.lease.id
        assert "cutter payments found no login" in unconfirmed["what"]
        assert "lockstep-broker vault check" in unconfirmed["what"]
        (alarm,) = house.alarms
        assert alarm.startswith("cutter payments: found no login")
        # It is not asked for ever, and told once.
        assert elsewhere.calls.count("cut") == 4
        await revoke(house, other)
        await house.tick(1)
        assert len(house.alarms) == 1

    async def test_a_cutter_that_finds_what_an_earlier_cut_took_confirms_it(self) -> None:
        house, vault = await opened()
        workload = await house.attested()
        await workload.issue("db")
        # As another process that ended before it could write down that it did.
        await vault.target.cut(workload.id)
        name = await revoke(house, workload)
        await house.tick(1)
        assert json.loads(await house.receipt(name))["unconfirmed"] == []
        assert house.alarms == []

    async def test_a_cutter_finds_nothing_of_what_was_given_back(self) -> None:
        house, _ = await opened()
        workload = await house.attested()
        answer = await workload.issue("db")
        await house.issuer.give_back(workload.caller(), answer.lease.id)
        await house.tick(1)
        name = await revoke(house, workload)
        await house.tick(1)
        assert json.loads(await house.receipt(name))["unconfirmed"] == []
        assert house.alarms == []

    async def test_the_shortest_way_does_not_wait_for_a_round(self) -> None:
        house, vault = await opened()
        workload = await house.attested()
        answer = await workload.issue("db")
        vault.target.logins[answer.lease.handle].session = True
        stop = asyncio.Event()
        running = asyncio.create_task(house.upkeep.run(stop))
        name = await revoke(house, workload)

        async def cleaned() -> bool:
            return (await house.lease(answer.lease.id)).state is LeaseState.REVOKED

        await house.until(cleaned)
        stop.set()
        await asyncio.wait_for(running, 5)
        assert vault.calls.index("freeze") < vault.calls.index("revoke")
        assert vault.target.calls
        for _ in range(3):
            await house.tick(1)
        assert nothing_left(vault)
        assert await house.settled(name)

    async def test_a_lease_given_back_stops_nothing_else(self) -> None:
        house, vault = await opened()
        workload = await house.attested()
        first, second = await workload.issue("db"), await workload.issue("db")
        await house.issuer.give_back(workload.caller(), first.lease.id)
        await house.tick(1)
        assert list(vault.leases) == [second.lease.handle]
        assert not vault.frozen
        assert vault.target.calls == []

    async def test_an_attestation_that_expires_closes_its_accounts(self) -> None:
        house, vault = await opened()
        workload = await house.attested()
        await workload.issue("db")
        await house.tick(400)
        await house.tick(1)
        assert (await workload.row()).state is AttestationState.EXPIRED
        assert nothing_left(vault)
        assert [account.state for account in await accounts(house, workload)] == [AccountState.CLOSED]

    async def test_an_account_whose_backend_is_gone_is_stuck_and_not_forgotten(self) -> None:
        house, vault = await opened()
        workload = await house.attested()
        await workload.issue("db")
        del house.backends["vault"]
        await revoke(house, workload)
        for _ in range(STUCK_AFTER + 1):
            await house.tick(60)
        assert [account.state for account in await accounts(house, workload)] == [AccountState.STUCK]
        house.backends["vault"] = vault
        for _ in range(4):
            await house.tick(60)
        assert nothing_left(vault)


class TestLostAnswers:
    """A secret may be there whose answer was lost: it is not called gone before a sweep would have found it."""

    async def test_the_receipt_waits_for_a_sweep_that_could_find_it(self) -> None:
        house, vault = await opened()
        workload = await house.attested()
        kept = await workload.issue("db")
        lost = await lose(house, vault, workload)
        name = (await house.revoke(SelectorKind.LEASE, lost.id)).revocation_id
        # The request may have run as late as it could.
        limits = house.upkeep_limits
        [made] = [made for made in vault.leases.values() if made.lease_id == lost.id]
        made.at = lost.issued_at + limits.pending + limits.skew - 1
        last = 2 * (limits.pending + limits.skew)
        while house.now + 10 < START + last:
            await house.tick(10)
            await workload.reattest()
            assert await state_of(house, lost) is LeaseState.REVOKING
            assert not await house.settled(name)
        await house.tick(10)
        assert set(vault.leases) <= {kept.lease.handle}
        assert await state_of(house, lost) is LeaseState.REVOKED
        assert await house.settled(name)
        assert json.loads(await house.receipt(name))["unconfirmed"] == []

    async def test_what_was_made_at_once_is_taken_back_as_soon_as_it_is_known_for_a_stray(self) -> None:
        house, vault = await opened()
        workload = await house.attested()
        lost = await lose(house, vault, workload)
        limits = house.upkeep_limits
        await house.tick(limits.pending)
        assert len(vault.leases) == 1
        await house.tick(2 * limits.skew)
        assert nothing_but_accounts(vault)
        assert await state_of(house, lost) is LeaseState.REVOKING

    async def test_many_share_a_sweep(self) -> None:
        house, vault = await opened()
        fleet = [await house.attested() for _ in range(20)]
        for workload in fleet:
            await lose(house, vault, workload)
        await house.tick()
        before = vault.calls.count("strays")
        for _ in range(30):
            await house.tick(10)
        assert nothing_but_accounts(vault)
        assert vault.calls.count("strays") - before <= 4

    async def test_after_a_restart_it_waits_as_long(self) -> None:
        house, vault = await opened()
        workload = await house.attested()
        lost = await lose(house, vault, workload)
        house.clock.advance(house.upkeep_limits.pending + 1)
        vault.restarted()
        await house.start()
        await house.tick()
        assert await state_of(house, lost) is LeaseState.REVOKING
        for _ in range(3):
            await house.tick(60)
        assert await state_of(house, lost) is LeaseState.REVOKED
        assert not vault.leases

    async def test_a_sweep_that_fails_is_no_look(self) -> None:
        house, vault = await opened()
        workload = await house.attested()
        await house.tick()
        lost = await lose(house, vault, workload)
        house.clock.advance(2 * (house.upkeep_limits.pending + house.upkeep_limits.skew))
        vault.fail("strays", 2 * STUCK_AFTER)
        for _ in range(STUCK_AFTER):
            await house.upkeep._cleaning.tick(house.now)
            house.clock.advance(60)
        assert await state_of(house, lost) is LeaseState.STUCK
        for _ in range(2 * STUCK_AFTER):
            await house.upkeep._cleaning.tick(house.now)
            house.clock.advance(60)
        assert await state_of(house, lost) is LeaseState.REVOKED
        assert not vault.leases

    async def test_where_nobody_looks_it_is_said_until_when_it_may_live(self) -> None:
        house, vault = await opened()
        vault.swept = False
        workload = await house.attested()
        lost = await lose(house, vault, workload)
        name = (await house.revoke(SelectorKind.LEASE, lost.id)).revocation_id
        await house.tick(1)
        [left] = json.loads(await house.receipt(name))["unconfirmed"]
        assert left["lease"] == lost.id
        assert left["what"].startswith("until_expiry: ")
        assert left["until"] == "2027-01-15T08:10:00.000000Z"
        assert lost.max_expires_at == START + 600 > lost.expires_at

    async def test_what_the_backend_refused_is_over_at_once(self) -> None:
        house, vault = await opened()
        workload = await house.attested()
        await workload.issue("db")
        vault.frozen.add(workload.id)
        with pytest.raises(LockstepError):
            await workload.issue("db")
        assert len(await house.leases(LeaseState.REVOKED)) == 1
        assert await house.leases(LeaseState.REVOKING) == []

    async def test_what_waited_for_an_account_that_was_not_to_be_had_is_over_at_once(self) -> None:
        house, vault = await opened()
        workload = await house.attested()
        vault.fail("open")
        with pytest.raises(Unavailable):
            await workload.issue("db")
        assert [lease.state for lease in await house.leases()] == [LeaseState.REVOKED]


class TestFaults:
    """What a plug raises that is no error of the broker's: the row is tried again, the loop goes on."""

    async def test_of_a_backend_that_freezes_or_closes(self) -> None:
        house, vault = await opened()
        workload = await house.attested()
        await workload.issue("db")

        async def broken() -> None:
            raise KeyError("s3cret")

        vault.meanwhile("before freeze", broken)
        vault.meanwhile("before close", broken)
        name = await revoke(house, workload)
        await house.tick()
        assert {what.split()[0] for what, _ in house.faults} == {"freezing", "accounts"}
        for _ in range(4):
            await house.tick(5)
        assert nothing_left(vault)
        assert await house.settled(name)
        receipt = await house.receipt(name)
        assert b"s3cret" not in receipt

    async def test_of_a_cutter(self) -> None:
        house, vault = await opened()
        workload = await house.attested()
        await workload.issue("db")
        vault.target.faults.append(KeyError("s3cret"))
        name = await revoke(house, workload)
        for _ in range(4):
            await house.tick(5)
        assert [what for what, _ in house.faults] == [f"cutting {workload.id}"]
        assert nothing_left(vault)
        assert await house.settled(name)

    async def test_of_a_sweep(self) -> None:
        house, vault = await opened()

        async def broken() -> None:
            raise KeyError("s3cret")

        vault.meanwhile("before strays", broken)
        await house.tick()
        assert [what for what, _ in house.faults] == ["sweep of vault"]
        await house.tick(house.upkeep_limits.backoff_most)
        assert vault.calls.count("strays") == 2


class TestCrash:
    @pytest.mark.parametrize("write", [1, 2, 3])
    @pytest.mark.parametrize("committed", [False, True])
    async def test_a_state_that_fails_at_any_write_leaves_nothing(self, write: int, committed: bool) -> None:
        house, vault = await opened()
        workload = await house.attested()
        house.state.fail_write(write, committed=committed)
        with pytest.raises(LockstepError):
            await workload.issue("db")
        house.state.calm()
        vault.restarted()
        await house.start()
        house.backends["vault"] = vault
        await house.tick(house.upkeep_limits.pending + 10)
        await house.tick(10)
        assert not vault.leases
        await house.tick(400)
        for _ in range(5):
            await house.tick(60)
        assert nothing_left(vault)

    async def test_a_stray_is_found_by_its_lease_and_taken_back(self) -> None:
        house, vault = await opened()
        workload = await house.attested()
        known = await workload.issue("db")
        other = await workload.issue("db")
        table = house.state._tables
        table.leases.pop(other.lease.id)
        await house.tick(1)
        assert other.lease.handle in vault.leases, "an answer may still be on its way"
        house.clock.advance(house.upkeep_limits.pending + 10)
        await workload.reattest()
        await house.tick(house.upkeep_limits.sweep)
        assert other.lease.handle not in vault.leases
        assert known.lease.handle not in vault.leases, "its attestation has expired"

    async def test_an_instance_that_no_row_knows_is_frozen(self) -> None:
        house, vault = await opened()
        workload = await house.attested()
        await workload.issue("db")
        house.state._tables.attestations.pop(workload.id)
        await house.tick(1)
        assert workload.id in vault.frozen


class TestLeasesThatTheBackendHasGivenUpOn:
    """Its target refused again and again: they stay STUCK, and somebody hears of it."""

    async def test_one_with_a_row_is_stuck_and_stays_so_until_it_is_gone(self) -> None:
        house, vault = await opened()
        workload = await house.attested()
        answer = await workload.issue("db")
        vault.irrevocable.add(answer.lease.handle)
        await house.tick(house.upkeep_limits.sweep)
        lease = await house.lease(answer.lease.id)
        assert lease.state is LeaseState.STUCK
        assert "given up" in lease.detail
        assert [item.id for item in house.stuck] == [answer.lease.id]
        assert house.upkeep.given_up() == {"vault": 1}
        for _ in range(2):
            # Tried on: a target may come back, or be put right.
            await house.tick(house.upkeep_limits.sweep)
            assert (await house.lease(answer.lease.id)).state is LeaseState.STUCK
        assert len([item for item in house.stuck if item.id == answer.lease.id]) == 1
        vault.irrevocable.clear()
        await house.tick(house.upkeep_limits.sweep)
        assert (await house.lease(answer.lease.id)).state is LeaseState.REVOKED
        await house.tick(house.upkeep_limits.sweep)
        assert house.upkeep.given_up() == {"vault": 0}
        assert house.alarms == []

    async def test_one_without_a_row_is_an_alarm_and_keeps_nothing_else_from_being_swept(self) -> None:
        house, vault = await opened()
        workload, forgotten = await house.attested(), await house.attested()
        refused, other = await workload.issue("db"), await workload.issue("db")
        await forgotten.issue("db")
        tables = house.state._tables
        for lease in (refused.lease, other.lease):
            tables.leases.pop(lease.id)
        tables.attestations.pop(forgotten.id)
        vault.irrevocable.add(refused.lease.handle)
        house.clock.advance(house.upkeep_limits.pending + 10)
        for _ in range(2):
            with pytest.raises(Unavailable):
                await house.tick(house.upkeep_limits.sweep)
        assert other.lease.handle not in vault.leases
        assert forgotten.id in vault.frozen
        assert house.upkeep.given_up() == {"vault": 1}
        (alarm,) = house.alarms
        assert alarm.startswith("backend vault has given up on 1 leases that no row knows")
        assert refused.lease.handle in alarm

    async def test_a_backend_that_is_configured_no_more_is_not_counted(self) -> None:
        house, vault = await opened()
        answer = await (await house.attested()).issue("db")
        vault.irrevocable.add(answer.lease.handle)
        await house.tick(house.upkeep_limits.sweep)
        del house.backends["vault"]
        assert house.upkeep.given_up() == {}
