"""Upkeep: what is due is done, what fails is tried again, what is stuck is never forgotten, and a receipt is honest."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import datetime
from itertools import pairwise

import pytest

from broker.adapters.feed.local import FeedLimits
from broker.errors import Denied, Unavailable
from broker.model.attestation import AttestationState
from broker.model.credential import Confirmation, Confirmed, Lease, LeaseState
from broker.model.identity import InstanceClaims
from broker.model.revocation import RevocationState, SelectorKind
from broker.model.role import AfterRevocation, Revocability
from broker.upkeep import BATCH, STUCK_AFTER
from broker.upkeep.settling import TURN
from lockstep.formats import Reason
from tests.fakes.weather import MeddlingBackend
from tests.support.house import DAY, House, Workload, role
from tests.support.manifests import unit

IDENTITY = "https://issuer.example|payments"


async def state(house: House, answer: object) -> LeaseState:
    return (await house.lease(answer.lease.id)).state  # type: ignore[attr-defined]


class TestExpiry:
    async def test_at_its_end_a_lease_is_expired_and_gone_at_the_backend(self) -> None:
        house = await House.open()
        workload = await house.attested()
        api, db = await workload.issue("api"), await workload.issue("db")
        await house.tick(119.999)
        assert {await state(house, api), await state(house, db)} == {LeaseState.ACTIVE}
        await house.tick(0.001)
        assert {await state(house, api), await state(house, db)} == {LeaseState.EXPIRED}
        assert house.db.living == {}
        assert (await house.lease(db.lease.id)).ended_at == house.now

    async def test_an_attestation_expires_and_is_not_revoked(self) -> None:
        house = await House.open()
        workload = await house.attested()
        house.clock.advance(200)
        api = await workload.issue()
        await house.tick(100)
        assert (await workload.row()).state is AttestationState.EXPIRED
        assert await state(house, api) is LeaseState.EXPIRED
        assert await house.log() == []

    async def test_also_where_attestations_are_looked_at_before_their_leases(self) -> None:
        house = await House.open()
        workload = await house.attested()
        house.clock.advance(200)
        natural = await workload.issue("db")
        house.clock.advance(100)
        await house.upkeep._ending.expire(house.now)
        assert await state(house, natural) is LeaseState.ACTIVE
        await house.tick()
        assert await state(house, natural) is LeaseState.EXPIRED
        assert house.db.living == {}

    async def test_what_has_ended_stays_as_it_ended(self) -> None:
        house = await House.open()
        workload = await house.attested()
        answers = [await workload.issue("db"), await workload.issue("api")]
        await house.tick(120)
        calls = list(house.db.calls)
        await house.revoke(SelectorKind.ATTESTATION, workload.id)
        await house.tick(10)
        assert {await state(house, item) for item in answers} == {LeaseState.EXPIRED}
        assert house.db.calls == calls

    async def test_more_than_a_batch_at_once(self) -> None:
        house = await House.open()
        for _ in range(BATCH + 20):
            await (await house.attested()).issue("db")
        await house.tick(300)
        assert house.db.living == {}
        assert await house.look(lambda tx: tx.attestations.count_alive()) == 0
        assert await house.look(lambda tx: tx.leases.count()) == {}

    async def test_a_renewal_between_look_and_write_wins(self) -> None:
        house = await House.open()
        workload = await house.attested()
        answer = await workload.issue("api")
        house.clock.advance(60)
        await workload.reattest()
        house.clock.advance(59.9)
        renewed = []

        async def meanwhile() -> None:
            renewed.append(await workload.renew(answer.lease.id))

        # The clock that upkeep reads runs ahead of the one that renews.
        ahead = house.clock.now() + 0.2
        house.tokens.meanwhile("confirm", meanwhile)
        await house.upkeep._cleaning.tick(ahead)
        assert await state(house, answer) is LeaseState.ACTIVE
        assert await workload.good(answer)


class TestOrphans:
    async def test_a_lease_whose_maker_died_is_taken_back(self) -> None:
        house = await House.open()
        workload = await house.attested()
        reached, forever = asyncio.Event(), asyncio.Event()

        async def dies() -> None:
            reached.set()
            await forever.wait()

        house.db.meanwhile("issue", dies)
        task = asyncio.create_task(workload.issue("db"))
        await asyncio.wait_for(reached.wait(), 5)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await house.start()
        await house.tick(59)
        [lease] = await house.leases()
        assert lease.state is LeaseState.PENDING
        assert len(house.db.living) == 1
        await house.tick(1)
        assert house.db.living == {}
        assert (await house.lease(lease.id)).state is LeaseState.REVOKED


class TestBackendDown:
    async def test_it_is_tried_with_longer_and_longer_waits_until_it_is_stuck_and_then_recovers(self) -> None:
        house = await House.open()
        workload = await house.attested()
        db = await workload.issue("db")
        house.db.fail("revoke", 1000)
        made = await house.revoke(SelectorKind.ATTESTATION, workload.id)
        tried = []
        for _ in range(400):
            before = len(house.db.calls)
            await house.tick(0.5)
            if len(house.db.calls) > before:
                tried.append(house.now)
            if house.stuck:
                break
        gaps = [round(later - earlier, 3) for earlier, later in pairwise(tried)]
        assert gaps == [0.5, 1.0, 2.0, 4.0]
        assert await state(house, db) is LeaseState.STUCK
        assert [item.id for item in house.stuck] == [db.lease.id]
        assert len(tried) == STUCK_AFTER
        assert not await house.settled(made.revocation_id)
        for _ in range(20):
            await house.tick(60)
        assert len(house.stuck) == 1
        assert await state(house, db) is LeaseState.STUCK
        assert not await house.settled(made.revocation_id)
        house.db._failures.clear()
        await house.tick(60)
        assert await state(house, db) is LeaseState.REVOKED
        assert house.db.living == {}
        assert await house.settled(made.revocation_id)

    async def test_what_is_still_alive_is_not_called_gone(self) -> None:
        house = await House.open()

        class Stubborn(MeddlingBackend):
            async def revoke(self, lease: Lease) -> None:
                """It says yes and does nothing."""

        house.backends["db"] = stubborn = Stubborn(Revocability.AT_TARGET)
        workload = await house.attested()
        db = await workload.issue("db")
        made = await house.revoke(SelectorKind.ATTESTATION, workload.id)
        await house.tick(9)
        assert await state(house, db) is LeaseState.REVOKING
        assert (await house.lease(db.lease.id)).detail == "still alive"
        assert not await house.settled(made.revocation_id)
        stubborn.living.clear()
        await house.tick(60)
        assert await state(house, db) is LeaseState.REVOKED

    async def test_a_backend_that_is_configured_no_more_is_an_alarm_and_not_forgotten(self) -> None:
        house = await House.open()
        workload = await house.attested()
        db = await workload.issue("db")
        backend = house.backends.pop("db")
        await house.revoke(SelectorKind.ATTESTATION, workload.id)
        for _ in range(10):
            await house.tick(60)
        assert await state(house, db) is LeaseState.STUCK
        assert house.stuck
        house.backends["db"] = backend
        await house.tick(60)
        assert await state(house, db) is LeaseState.REVOKED

    async def test_one_backend_that_is_down_holds_up_no_other(self) -> None:
        house = await House.open(role("a", backend="down"), role("db", backend="db"), role("api"))
        house.backends["down"] = down = MeddlingBackend()
        workload = await house.attested()
        house.issue_limits = replace(house.issue_limits, leases=1000)
        await house.start()
        for _ in range(30):
            await workload.issue("a")
        db = await workload.issue("db")
        down.fail("revoke", 1000)
        await house.revoke(SelectorKind.ATTESTATION, workload.id)
        await house.tick()
        assert await state(house, db) is LeaseState.REVOKED
        # Nor is the one that is down asked for each of its leases in a round.
        assert len(down.calls) < 30 + 20

    async def test_a_full_batch_that_fails_starves_nobody(self) -> None:
        house = await House.open(role("a", backend="down"), role("db", backend="db"))
        house.backends["down"] = down = MeddlingBackend()
        fleet = [await house.attested() for _ in range(BATCH + 10)]
        for workload in fleet:
            await workload.issue("a")
        last = await house.attested()
        db = await last.issue("db")
        down.fail("revoke", 100_000)
        await house.revoke(SelectorKind.IDENTITY, IDENTITY)
        for _ in range(40):
            await house.upkeep.tick()
            house.clock.advance(0.5)
        assert await state(house, db) is LeaseState.REVOKED

    async def test_many_revocations_that_cannot_settle_hide_no_later_one(self) -> None:
        house = await House.open(
            role("a", backend="down", after_revocation=AfterRevocation.RETRY),
            role("db", backend="db", after_revocation=AfterRevocation.RETRY),
        )
        house.backends["down"] = down = MeddlingBackend()
        down.fail("revoke", 100_000)
        for _ in range(BATCH + 5):
            workload = await house.attested()
            await workload.issue("a")
            await house.revoke(SelectorKind.ATTESTATION, workload.id)
        last = await house.attested(place=InstanceClaims(node="node-1"))
        db = await last.issue("db")
        made = await house.revoke(SelectorKind.NODE, "node-1")
        for _ in range(40):
            await house.upkeep.tick()
            house.clock.advance(0.5)
        assert (await last.row()).state is AttestationState.REVOKED
        assert await state(house, db) is LeaseState.REVOKED
        assert await house.settled(made.revocation_id)


class TestManyOpen:
    """Revocations that wait for a backend cost a round nothing, and a turn of settling no more than its bound."""

    async def opened(self, number: int) -> tuple[House, MeddlingBackend, list[str]]:
        """A house with so many whose leases are stuck."""
        house = await House.open(
            role("a", backend="down", after_revocation=AfterRevocation.RETRY),
            role("db", backend="db", after_revocation=AfterRevocation.RETRY),
        )
        house.backends["down"] = down = MeddlingBackend()
        down.fail("revoke", 100_000)
        names = []
        for _ in range(number):
            workload = await house.attested()
            await workload.issue("a")
            names.append((await house.revoke(SelectorKind.ATTESTATION, workload.id)).revocation_id)
        await house.tick()
        return house, down, names

    async def test_a_round_and_a_turn_read_as_often_as_for_none(self) -> None:
        counts = []
        for number in (0, 3 * TURN):
            house, _, _ = await self.opened(number)
            before = house.state.reads
            await house.upkeep._rows()
            rows = house.state.reads - before
            await house.upkeep._settling.tick()
            counts.append((rows, house.state.reads - before - rows))
        assert counts[0] == counts[1] == (2, 1)

    async def test_the_oldest_is_settled_soon_after_it_can_be(self) -> None:
        house, _, names = await self.opened(0)
        first = await house.attested()
        await first.issue("db")
        house.db.fail("revoke", 100)
        made = await house.revoke(SelectorKind.ATTESTATION, first.id)
        await house.tick()
        for _ in range(3 * TURN):
            workload = await house.attested()
            await workload.issue("a")
            names.append((await house.revoke(SelectorKind.ATTESTATION, workload.id)).revocation_id)
        await house.tick()
        house.db._failures.clear()
        for _ in range(10):
            house.clock.advance(10)
            await house.upkeep._cleaning.tick(house.now)
        assert house.db.living == {}
        for _ in range(5):
            await house.upkeep._settling.tick()
        assert await house.settled(made.revocation_id)
        assert not await house.settled(names[0])

    async def test_what_an_earlier_broker_had_begun_goes_on_from_there(self) -> None:
        house, down, [name] = await self.opened(1)
        row = await house.revocation(name)
        assert row.state is RevocationState.CLEANING
        table = house.state._tables.revocations
        table[name] = replace(row, state=RevocationState.COMMITTED)
        await house.start()
        down._failures.clear()
        await house.tick(1)
        assert await house.settled(name)
        steps = [step["name"] for step in json.loads(await house.receipt(name))["steps"]]
        assert steps.count("cleaning") == 1


class TestRestart:
    @pytest.mark.parametrize("kind", ["attestation", "identity", "digest"])
    async def test_after_any_failed_write_a_new_start_finishes_it(self, kind: str) -> None:
        """The broker dies at each of its writes in turn; what it was at goes on where it stood."""
        for dies_at in range(1, 12):
            for committed in (False, True):
                house = await House.open()
                workload = await house.attested()
                db = await workload.issue("db")
                value = {"attestation": workload.id, "identity": IDENTITY, "digest": unit("lib").digest.hex()}
                made = await house.revoke(SelectorKind(kind), value[kind])
                house.state.fail_write(dies_at, committed=committed)
                for _ in range(3):
                    try:
                        await house.tick(1)
                    except Unavailable:
                        break
                house.state.calm()
                await house.start()
                for _ in range(3):
                    await house.tick(60)
                assert await state(house, db) is LeaseState.REVOKED, (dies_at, committed)
                assert house.db.living == {}
                assert await house.settled(made.revocation_id)
                receipt = json.loads(await house.receipt(made.revocation_id))
                assert (receipt["attestations"], receipt["leases"]) == (1, 1)
                assert house.feed.denials.seq == (await house.look(lambda tx: tx.revocations.head())).seq

    async def test_in_the_middle_of_an_expansion(self) -> None:
        house = await House.open()
        fleet = [await house.attested() for _ in range(BATCH + 5)]
        made = await house.revoke(SelectorKind.IDENTITY, IDENTITY)
        assert await house.upkeep.tick()
        await house.start()
        await house.tick()
        assert {(await item.row()).state for item in fleet} == {AttestationState.REVOKED}
        await house.tick(9)
        assert json.loads(await house.receipt(made.revocation_id))["attestations"] == BATCH + 5

    async def test_two_brokers_that_keep_one_state_do_not_count_twice(self) -> None:
        house = await House.open()
        workload = await house.attested()
        await workload.issue("db")
        made = await house.revoke(SelectorKind.IDENTITY, IDENTITY)
        first = house.upkeep
        await house.start()
        await asyncio.gather(first.tick(), house.upkeep.tick(), first.tick(), house.upkeep.tick())
        await house.feed.catch_up()
        await house.tick(9)
        receipt = json.loads(await house.receipt(made.revocation_id))
        assert (receipt["attestations"], receipt["leases"]) == (1, 1)


class TestReceipt:
    async def test_it_waits_for_watchers_to_know_or_to_have_failed_closed(self) -> None:
        house = await House.open()
        workload = await house.attested()
        await workload.issue("api")
        slow = house.feed.subscribe("https://api.example")
        made = await house.revoke(SelectorKind.ATTESTATION, workload.id)
        await house.tick(1)
        assert not await house.settled(made.revocation_id)
        envelope, complete = await house.revoker.receipt(made.revocation_id)
        assert (envelope, complete) == (b"", False)
        slow.acknowledge(house.feed.denials.seq)
        await house.tick(1)
        receipt = json.loads(await house.receipt(made.revocation_id))
        assert receipt["unconfirmed"] == []
        told = next(step for step in receipt["steps"] if step["name"] == "told")
        assert told["detail"] == "acknowledged by https://api.example: 1 of 1"

    async def test_it_says_when_watchers_were_told_and_not_when_it_was_signed(self) -> None:
        house = await House.open()
        workload = await house.attested()
        await workload.issue("api")
        watching = house.feed.subscribe("https://api.example")
        made = await house.revoke(SelectorKind.ATTESTATION, workload.id)
        house.clock.advance(0.25)
        watching.acknowledge(house.feed.denials.seq)
        heard = house.clock.now()
        # Whatever is slow to be taken back, they knew by then.
        await house.tick(300)
        receipt = json.loads(await house.receipt(made.revocation_id))
        steps = {step["name"]: datetime.fromisoformat(step["at"]).timestamp() for step in receipt["steps"]}
        assert steps["told"] == pytest.approx(heard)
        assert steps["confirmed"] == pytest.approx(house.clock.now())
        assert [step["at"] for step in receipt["steps"]] == sorted(step["at"] for step in receipt["steps"])

    async def test_after_some_seconds_it_says_who_did_not(self) -> None:
        house = await House.open()
        workload = await house.attested()
        answer = await workload.issue("api")
        house.feed.subscribe("https://api.example")
        made = await house.revoke(SelectorKind.ATTESTATION, workload.id)
        await house.tick(7.9)
        assert not await house.settled(made.revocation_id)
        await house.tick(0.1)
        receipt = json.loads(await house.receipt(made.revocation_id))
        assert [item["lease"] for item in receipt["unconfirmed"]] == [answer.lease.id]

    async def test_a_verifier_that_has_just_lost_its_stream_is_waited_for(self) -> None:
        house = await House.open(feed_limits=FeedLimits())
        house.clock.advance(10)
        workload = await house.attested()
        await workload.issue("api")
        stays, goes = (house.feed.subscribe("https://api.example", verifier=True) for _ in range(2))
        goes.close()
        house.clock.advance(1)
        made = await house.revoke(SelectorKind.ATTESTATION, workload.id)
        stays.acknowledge(house.feed.denials.seq)
        await house.tick(4.9)
        assert not await house.settled(made.revocation_id)
        # It has failed closed: nobody is left who could accept.
        await house.tick(0.1)
        receipt = json.loads(await house.receipt(made.revocation_id))
        assert receipt["unconfirmed"] == []

    async def test_one_that_is_never_waited_for_to_the_end_is_said_to_accept(self) -> None:
        house = await House.open(feed_limits=FeedLimits())
        house.upkeep_limits = replace(house.upkeep_limits, settle=2.0)
        await house.start()
        house.clock.advance(10)
        workload = await house.attested()
        answer = await workload.issue("api")
        house.feed.subscribe("https://api.example", verifier=True).close()
        made = await house.revoke(SelectorKind.ATTESTATION, workload.id)
        house.feed.subscribe("https://api.example", verifier=True).acknowledge(house.feed.denials.seq)
        await house.tick(2)
        receipt = json.loads(await house.receipt(made.revocation_id))
        assert [item["lease"] for item in receipt["unconfirmed"]] == [answer.lease.id]
        told = next(step for step in receipt["steps"] if step["name"] == "told")
        assert told["detail"] == "acknowledged by https://api.example: 1 of 2"

    async def test_those_who_watched_before_a_restart_are_waited_for(self) -> None:
        house = await House.open(feed_limits=FeedLimits())
        workload = await house.attested()
        await workload.issue("api")
        house.clock.advance(10)
        for _ in range(2):
            house.feed.subscribe("https://api.example", verifier=True)
        await house.start()
        back = house.feed.subscribe("https://api.example", verifier=True)
        made = await house.revoke(SelectorKind.ATTESTATION, workload.id)
        back.acknowledge(house.feed.denials.seq)
        await house.tick(5.9)
        assert not await house.settled(made.revocation_id)
        await house.tick(0.1)
        assert json.loads(await house.receipt(made.revocation_id))["unconfirmed"] == []

    async def test_a_workload_that_has_gone_is_waited_for_by_nobody(self) -> None:
        house = await House.open(feed_limits=FeedLimits())
        house.clock.advance(10)
        workload = await house.attested()
        await workload.issue("db")
        mine = house.feed.subscribe("workloads")
        made = await house.revoke(SelectorKind.ATTESTATION, workload.id)
        mine.close()
        await house.tick()
        assert await house.settled(made.revocation_id)

    async def test_a_watcher_must_know_of_what_was_expanded_not_only_of_what_was_named(self) -> None:
        house = await House.open()
        workload = await house.attested()
        await workload.issue("api")
        watcher = house.feed.subscribe("https://api.example")
        made = await house.revoke(SelectorKind.IDENTITY, IDENTITY)
        watcher.acknowledge(1)
        await house.tick(1)
        assert (await house.revocation(made.revocation_id)).expanded
        assert not await house.settled(made.revocation_id)
        watcher.acknowledge(house.feed.denials.seq)
        await house.tick()
        assert await house.settled(made.revocation_id)

    async def test_a_token_that_nobody_watches_for_is_not_confirmed_dead(self) -> None:
        house = await House.open()
        workload = await house.attested()
        answer = await workload.issue("api")
        made = await house.revoke(SelectorKind.ATTESTATION, workload.id)
        await house.tick(1)
        [left] = json.loads(await house.receipt(made.revocation_id))["unconfirmed"]
        assert left["lease"] == answer.lease.id
        assert left["until"] == "2027-01-15T08:02:00.000000Z"

    @pytest.mark.parametrize(
        ("longer", "until"),
        [(0.0, "2027-01-15T08:02:00.000000Z"), (600.0, "2027-01-15T08:12:00.000000Z")],
        ids=["as long as its lease", "longer than its lease"],
    )
    async def test_what_lives_until_it_expires_is_said_to(self, longer: float, until: str) -> None:
        house = await House.open(role("cloud", backend="cloud", revocability=Revocability.UNTIL_EXPIRY))

        class Cloud(MeddlingBackend):
            async def confirm(self, lease: Lease, now: float) -> Confirmed:
                return Confirmed(
                    Confirmation.UNTIL_EXPIRY, "it cannot be taken back", lease.expires_at + longer
                )

        house.backends["cloud"] = Cloud(Revocability.UNTIL_EXPIRY)
        workload = await house.attested()
        answer = await workload.issue("cloud")
        made = await house.revoke(SelectorKind.ATTESTATION, workload.id)
        await house.tick(1)
        receipt = json.loads(await house.receipt(made.revocation_id))
        assert receipt["unconfirmed"] == [
            {
                "lease": answer.lease.id,
                "what": "until_expiry: it cannot be taken back",
                "until": until,
            }
        ]

    async def test_it_tells_the_whole_story_in_order(self) -> None:
        house = await House.open()
        workload = await house.attested()
        db = await workload.issue("db")
        house.clock.advance(1)
        answer = await house.report(attestation=workload.id)
        house.clock.advance(1)
        await house.tick()
        revocation = await house.only_revocation()
        receipt = json.loads(await house.receipt(revocation.id))
        assert [step["name"] for step in receipt["steps"]] == [
            "reported",
            "denied",
            "cleaning",
            "cleaned",
            "told",
            "confirmed",
        ]
        assert receipt["decision"] == answer.decision_id
        assert receipt["detection"] == answer.detection_id
        assert any(db.lease.id in step["detail"] and "gone" in step["detail"] for step in receipt["steps"])
        assert receipt["unconfirmed"] == []

    async def test_many_leases_are_counted_and_nothing_unconfirmed_is_left_out(self) -> None:
        house = await House.open()
        fleet = [await house.attested() for _ in range(BATCH + 20)]
        for workload in fleet:
            await workload.issue("api")
        made = await house.revoke(SelectorKind.IDENTITY, IDENTITY)
        await house.tick(9)
        receipt = json.loads(await house.receipt(made.revocation_id))
        assert receipt["leases"] == len(receipt["unconfirmed"]) == BATCH + 20
        cleaned = [step for step in receipt["steps"] if step["name"] == "cleaned"]
        assert cleaned[-1]["detail"] == "and 20 more steps"

    async def test_leases_that_had_ended_before_are_not_its_doing(self) -> None:
        house = await House.open()
        workload = await house.attested()
        early = await workload.issue("db")
        await house.issuer.give_back(workload.caller(), early.lease.id)
        await house.tick(1)
        house.clock.advance(1)
        made = await house.revoke(SelectorKind.ATTESTATION, workload.id)
        await house.tick(1)
        assert json.loads(await house.receipt(made.revocation_id))["leases"] == 0


class TestPrune:
    async def test_a_ban_leaves_memory_and_state_at_its_end(self) -> None:
        house = await House.open()
        await house.revoke(SelectorKind.NODE, "node-1", ban=True, until=house.now + 60)
        await house.tick(30)
        assert len(house.feed.denials) == 1
        await house.tick(DAY)
        assert len(house.feed.denials) == 0
        assert await house.log() == []
        await house.start()
        assert house.feed.denials.seq == 2

    async def test_a_cut_leaves_when_nothing_can_hang_on_it_a_ban_without_end_stays(self) -> None:
        house = await House.open()
        await house.revoke(SelectorKind.NODE, "node-1")
        await house.revoke(SelectorKind.NODE, "node-2", ban=True)
        await house.tick(DAY)
        assert len(house.feed.denials) == 2
        await house.tick(15)
        live = house.feed.denials.live()
        assert [item.body.selector.value for item in live] == ["node-2"]
        await house.start()
        assert [item.body.selector.value for item in house.feed.denials.live()] == ["node-2"]

    async def test_revoked_instances_leave_nothing_for_ever(self) -> None:
        house = await House.open(role("api", after_revocation=AfterRevocation.RETRY))
        fleet = [await house.attested() for _ in range(20)]
        for workload in fleet:
            await workload.report_self()
        await house.tick(DAY)
        assert len(house.feed.denials) == len(await house.log()) == 40
        await house.tick(15)
        assert len(house.feed.denials) == 0
        assert await house.log() == []
        # What was revoked stays revoked: its attestation is no more, by whatever evidence.
        await house.start()
        for workload in fleet[:2]:
            error = await house.issue_refusal(workload)
            assert error.reason is Reason.REVOKED
            with pytest.raises(Denied) as refused:
                await workload.reattest()
            assert refused.value.reason is Reason.REVOKED

    async def test_a_place_stays_banned_for_as_long_as_it_may_live_or_until_it_is_lifted(self) -> None:
        house = await House.open()
        workload = await house.attested(place=InstanceClaims(pod_uid="pod-1"))
        made = await house.revoke(SelectorKind.ATTESTATION, workload.id)
        await house.tick(400 * DAY)
        [left] = house.feed.denials.live()
        assert str(left.body.selector) == "pod:pod-1"
        again = house.workload(place=InstanceClaims(pod_uid="pod-1"), not_after=house.now + DAY)
        assert (await house.attest_refusal(again)).reason is Reason.BANNED
        await house.lift(made.revocation_id)
        await house.tick(15)
        assert len(house.feed.denials) == 0

    async def test_it_ends_where_an_operator_says_how_long_they_live(self) -> None:
        house = await House.open()
        house.upkeep_limits = replace(house.upkeep_limits, instance=30 * DAY)
        await house.start()
        place = InstanceClaims(pod_uid="pod-1")
        await house.revoke(SelectorKind.ATTESTATION, (await house.attested(place=place)).id)
        # What an operator bans by name is another thing: it says itself until when.
        await house.revoke(SelectorKind.POD, "pod-2", ban=True)
        await house.revoke(SelectorKind.KEY, "ab" * 32)
        # What was granted while it lived ends first.
        await house.tick(31 * DAY)
        bans = {str(entry.body.selector) for entry in house.feed.denials.live()}
        assert bans == {"pod:pod-1", "pod:pod-2", f"key:{'ab' * 32}"}
        await house.tick(15)
        bans = {str(entry.body.selector) for entry in house.feed.denials.live()}
        assert bans == {"pod:pod-2", f"key:{'ab' * 32}"}

    async def test_an_identity_that_waits_for_a_lift_waits(self) -> None:
        house = await House.open()
        await (await house.attested()).report_self()
        await house.tick(1000 * DAY)
        assert [str(entry.body.selector) for entry in house.feed.denials.live()] == [f"identity:{IDENTITY}"]

    async def test_what_could_not_be_dropped_is_dropped_later(self) -> None:
        house = await House.open()
        await house.revoke(SelectorKind.NODE, "node-1", ban=True, until=house.now + 60)
        await house.tick()
        house.clock.advance(2 * DAY)
        for ahead in range(1, 6):
            house.state.fail_write(ahead)
        for _ in range(6):
            try:
                await house.tick()
            except Unavailable:
                continue
        house.state.calm()
        await house.tick(15)
        assert await house.log() == []

    async def test_nonces_and_proofs_are_dropped_when_they_have_ended(self) -> None:
        house = await House.open()
        for _ in range(5):
            workload = await house.attested()
            await workload.issue()
        assert len(house.state._tables.replays) == 10
        await house.tick(29)
        assert len(house.state._tables.replays) == 10
        await house.tick(100)
        assert house.state._tables.replays == {}


class TestLoop:
    @pytest.mark.parametrize("kind", [SelectorKind.IDENTITY, SelectorKind.ATTESTATION])
    async def test_it_cleans_soon_after_a_revocation_and_stops_when_told(self, kind: SelectorKind) -> None:
        house = await House.open()
        house.upkeep_limits = replace(house.upkeep_limits, interval=60.0)
        await house.start()
        workload = await house.attested()
        await workload.issue("db")
        stop = asyncio.Event()
        running = asyncio.create_task(house.upkeep.run(stop))
        await asyncio.sleep(0)
        made = await house.revoke(kind, IDENTITY if kind is SelectorKind.IDENTITY else workload.id)
        await house.until(lambda: house.settled(made.revocation_id))
        assert house.db.living == {}
        stop.set()
        await asyncio.wait_for(running, 4)
        assert house.feed.told(0) == {}

    async def test_a_backend_that_hangs_holds_up_no_revocation(self) -> None:
        house = await House.open(
            role("a", backend="down", after_revocation=AfterRevocation.RETRY),
            role("api", after_revocation=AfterRevocation.RETRY),
        )
        house.upkeep_limits = replace(house.upkeep_limits, interval=0.01)
        house.backends["down"] = down = MeddlingBackend()
        await house.start()
        first = await house.attested()
        await first.issue("a")
        second = await house.attested(place=InstanceClaims(node="node-1"))
        asked, answered = asyncio.Event(), asyncio.Event()

        async def hang() -> None:
            asked.set()
            await answered.wait()

        down.meanwhile("revoke", hang)
        stop = asyncio.Event()
        running = asyncio.create_task(house.upkeep.run(stop))
        made = await house.revoke(SelectorKind.ATTESTATION, first.id)
        await asyncio.wait_for(asked.wait(), 5)
        wide = await house.revoke(SelectorKind.NODE, "node-1")
        await house.until(lambda: house.settled(wide.revocation_id))
        assert (await second.row()).state is AttestationState.REVOKED
        assert not await house.settled(made.revocation_id)
        answered.set()
        await house.until(lambda: house.settled(made.revocation_id))
        stop.set()
        await asyncio.wait_for(running, 4)
        assert house.errors == []

    async def test_a_backend_that_never_answers_is_tried_again(self) -> None:
        house = await House.open()
        house.upkeep_limits = replace(house.upkeep_limits, pending=0.05)
        await house.start()
        workload = await house.attested()
        db = await workload.issue("db")
        house.db.hold("revoke")
        await house.revoke(SelectorKind.ATTESTATION, workload.id)
        await house.tick()
        row = await house.lease(db.lease.id)
        assert (row.state, row.attempts, row.detail) == (LeaseState.REVOKING, 1, "no answer")

    async def test_what_goes_wrong_beyond_words_and_rows_ends_the_loop_for_whoever_supervises_it(
        self,
    ) -> None:
        house = await House.open()
        await house.attested()

        async def broken() -> None:
            raise ZeroDivisionError

        house.clock.advance(300)
        house.state.before_write(1, broken)
        with pytest.raises(ExceptionGroup) as caught:
            await asyncio.wait_for(house.upkeep.run(asyncio.Event()), 5)
        assert caught.group_contains(ZeroDivisionError)
        assert house.feed.told(0) == {}

    @pytest.mark.parametrize("call", ["revoke", "confirm"])
    async def test_a_poison_row_costs_itself_a_try_and_neither_the_loop_nor_another_row(
        self, call: str
    ) -> None:
        house = await House.open()
        house.upkeep_limits = replace(house.upkeep_limits, interval=0.01)
        await house.start()
        workload, other = await house.attested(), await house.attested()
        poison, db = await workload.issue("db"), await other.issue("db")
        house.db.poison(call, poison.lease.id)
        stop = asyncio.Event()
        running = asyncio.create_task(house.upkeep.run(stop))
        made = await house.revoke(SelectorKind.ATTESTATION, workload.id)
        also = await house.revoke(SelectorKind.ATTESTATION, other.id)
        await house.until(lambda: house.settled(also.revocation_id))

        async def tried() -> bool:
            return (await house.lease(poison.lease.id)).attempts == 1

        await house.until(tried)
        stop.set()
        await asyncio.wait_for(running, 4)
        assert await state(house, db) is LeaseState.REVOKED
        row = await house.lease(poison.lease.id)
        assert (row.state, row.detail) == (LeaseState.REVOKING, "fault of the broker: KeyError")
        [(what, raised)] = house.faults
        assert (what, type(raised)) == (f"lease {poison.lease.id}", KeyError)
        assert not await house.settled(made.revocation_id)

    @pytest.mark.parametrize("where", ["expanding", "settling"])
    async def test_a_revocation_that_cannot_be_worked_on_is_left_aside_for_a_while(self, where: str) -> None:
        house = await House.open()
        fleet = [await house.attested(place=InstanceClaims(node=f"node-{n}")) for n in range(2)]
        poison = await house.revoke(SelectorKind.NODE, "node-0")
        if where == "settling":
            for _ in range(3):
                await house.upkeep._expansion.tick(house.now)
        row = await house.revocation(poison.revocation_id)
        bad: dict[str, object] = {"expanding": {"first_seq": None}, "settling": {"at": "never"}}
        house.state._tables.revocations[row.id] = replace(row, **bad[where])  # type: ignore[arg-type]
        also = await house.revoke(SelectorKind.NODE, "node-1")
        await house.tick(1)
        await house.tick(1)
        assert [what for what, _ in house.faults] == [f"{where} {poison.revocation_id}"]
        assert (await fleet[1].row()).state is AttestationState.REVOKED
        assert await house.settled(also.revocation_id)
        # It is tried again, and not at every round.
        table = house.state._tables.revocations
        table[row.id] = replace(table[row.id], first_seq=row.first_seq, at=row.at)
        await house.tick(house.upkeep_limits.backoff_most)
        await house.tick()
        assert (await fleet[0].row()).state is AttestationState.REVOKED
        assert await house.settled(poison.revocation_id)
        assert len(house.faults) == 1

    async def test_a_poison_row_is_stuck_in_the_end_and_goes_when_it_can(self) -> None:
        house = await House.open()
        workload = await house.attested()
        answer = await workload.issue("db")
        house.db.poison("revoke", answer.lease.id)
        made = await house.revoke(SelectorKind.ATTESTATION, workload.id)
        for _ in range(STUCK_AFTER + 1):
            await house.tick(60)
        assert await state(house, answer) is LeaseState.STUCK
        assert [item.id for item in house.stuck] == [answer.lease.id]
        house.db.poisoned.clear()
        await house.tick(60)
        assert await state(house, answer) is LeaseState.REVOKED
        assert await house.settled(made.revocation_id)

    async def test_an_outage_is_reported_and_outlived(self) -> None:
        house = await House.open()
        house.upkeep_limits = replace(house.upkeep_limits, interval=0.01)
        await house.start()
        workload = await house.attested()
        await workload.issue("db")
        made = await house.revoke(SelectorKind.ATTESTATION, workload.id)
        house.state.down = True
        stop = asyncio.Event()
        running = asyncio.create_task(house.upkeep.run(stop))
        await asyncio.wait_for(house.erred.wait(), 5)
        house.state.calm()
        await house.until(lambda: house.settled(made.revocation_id))
        stop.set()
        await asyncio.wait_for(running, 4)

    async def test_a_backend_that_hangs_keeps_no_other_instance_waiting(self) -> None:
        parameters: dict[str, object] = {}
        house = await House.open(
            role("db", backend="db", revocability=Revocability.AT_TARGET, parameters=parameters),
            role("other", backend="other", revocability=Revocability.AT_TARGET, parameters=parameters),
        )
        other = house.backends["other"] = MeddlingBackend(Revocability.AT_TARGET, outside=True)
        house.upkeep_limits = replace(house.upkeep_limits, interval=0.01)
        await house.start()
        hangs, goes_on = await house.attested(), await house.attested()
        slow, quick = await hangs.issue("db"), await goes_on.issue("other")
        gate = house.db.hold("revoke")
        stop = asyncio.Event()
        running = asyncio.create_task(house.upkeep.run(stop))
        await house.revoke(SelectorKind.ATTESTATION, hangs.id)

        async def begun() -> bool:
            return await state(house, slow) is LeaseState.REVOKING

        async def cleaned() -> bool:
            return await state(house, quick) is LeaseState.REVOKED

        await house.until(begun)
        await house.revoke(SelectorKind.ATTESTATION, goes_on.id)
        await house.until(cleaned)
        assert await begun()
        assert other.living == {}
        gate.set()
        stop.set()
        await asyncio.wait_for(running, 4)

    @pytest.mark.parametrize("limits", [FeedLimits(queue=1), FeedLimits(subscribers=0)])
    async def test_a_queue_that_overflows_or_cannot_be_had_is_only_a_reason_to_look(
        self, limits: FeedLimits
    ) -> None:
        house = await House.open(feed_limits=limits)
        house.upkeep_limits = replace(house.upkeep_limits, interval=0.01)
        await house.start()
        fleet: list[Workload] = [await house.attested() for _ in range(3)]
        db = await fleet[0].issue("db")
        stop = asyncio.Event()
        running = asyncio.create_task(house.upkeep.run(stop))
        await asyncio.sleep(0)
        for number in range(20):
            await house.revoke(SelectorKind.NODE, f"node-{number}")
        made = await house.revoke(SelectorKind.IDENTITY, IDENTITY)
        await house.until(lambda: house.settled(made.revocation_id), 20)
        assert {(await item.row()).state for item in fleet} == {AttestationState.REVOKED}
        assert await state(house, db) is LeaseState.REVOKED
        stop.set()
        await asyncio.wait_for(running, 4)
        assert house.feed.told(0) == {}


async def test_a_grant_that_escaped_its_fence_is_still_refused_everything() -> None:
    """The broker dies between the commit of an attestation and the fence, while a key was banned elsewhere."""
    house = await House.open()
    here = house.verifier
    await house.start()
    workload = house.workload()

    async def meanwhile() -> None:
        await house.revoke(SelectorKind.KEY, workload.thumbprint.hex())
        await house.tick()
        house.state.reads_down = True

    order = workload.order("app")
    house.state.before_write(1, meanwhile)
    with pytest.raises(Unavailable):
        await here.attest(order, house.proof(workload.thumbprint))
    house.state.calm()
    [row] = house.state._tables.attestations.values()
    assert row.state is AttestationState.ALIVE
    workload.id = row.id
    error = await house.issue_refusal(workload)
    assert isinstance(error, Denied)
    assert error.reason in (Reason.REVOKED, Reason.BANNED)
