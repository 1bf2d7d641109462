"""Revoke and lift: what each selector takes, what comes back, and what the log says of it."""

from __future__ import annotations

import asyncio
import json
from contextlib import nullcontext

import pytest

from broker.errors import Conflict, Denied, InvalidRequest, NotFound, Unavailable
from broker.ledger import Denial, Target
from broker.model.attestation import AttestationState
from broker.model.credential import LeaseState
from broker.model.decision import Decision, DecisionKind, Effect
from broker.model.evidence import Assurance, ProcessRef
from broker.model.identity import InstanceClaims
from broker.model.manifest import ManifestUnit
from broker.model.revocation import (
    GENESIS,
    EntryKind,
    LogHead,
    Selector,
    SelectorKind,
    chain_hash,
    process_value,
)
from broker.model.role import AfterRevocation
from broker.ports import Transaction
from broker.upkeep import BATCH
from lockstep.formats import Reason
from tests.support.house import House, Workload, role
from tests.support.manifests import unit

IDENTITY = "https://issuer.example|payments"
PROCESS = ProcessRef(
    node="node-1", boot_id="boot-1", pid=7, start_ticks=9, container_id="c-1", pod_uid="pod-1"
)
PACKAGE = "pkg:pypi/lib@1.0"


async def a_house() -> tuple[House, Workload, Workload]:
    """A broker with one instance that will be hit, and one that has nothing in common with it."""
    house = await House.open(
        role("api", after_revocation=AfterRevocation.RETRY),
        role("db", backend="db", after_revocation=AfterRevocation.RETRY),
        role("other", identity=role("x").identity.__class__("oidc", subject="other"), manifests=("base",)),
        publish=False,
    )
    await house.publish(1, "app", ManifestUnit(unit("lib"), package=PACKAGE))
    await house.publish(1, "tool", application="base")
    workload = await house.attested("app", "lib", level=Assurance.WITNESSED, process=PROCESS)
    bystander = await house.attested("tool", subject="other", process=ProcessRef(node="node-2"))
    return house, workload, bystander


async def value_of(kind: SelectorKind, workload: Workload) -> str:
    house = workload.house
    if kind in (SelectorKind.LEASE, SelectorKind.TOKEN):
        lease = (await workload.issue()).lease
        return lease.id if kind is SelectorKind.LEASE else lease.handle
    record = await house.publisher.get(None, "payments", 1)
    return {
        SelectorKind.ATTESTATION: workload.id,
        SelectorKind.IDENTITY: IDENTITY,
        SelectorKind.MANIFEST: record.manifest.digest.hex(),
        SelectorKind.DIGEST: unit("lib").digest.hex(),
        SelectorKind.PACKAGE: PACKAGE,
        SelectorKind.NODE: "node-1",
        SelectorKind.CONTAINER: "c-1",
        SelectorKind.POD: "pod-1",
        SelectorKind.KEY: workload.thumbprint.hex(),
        SelectorKind.PROCESS: process_value(PROCESS),
    }[kind]


INSTANCES = [kind for kind in SelectorKind if kind not in (SelectorKind.LEASE, SelectorKind.TOKEN)]


class TestWhatASelectorTakes:
    @pytest.mark.parametrize("kind", INSTANCES)
    async def test_everything_that_hangs_on_it_and_nothing_else(self, kind: SelectorKind) -> None:
        house, workload, bystander = await a_house()
        api, db = await workload.issue("api"), await workload.issue("db")
        spared = await bystander.issue("other")
        answer = await house.revoke(kind, await value_of(kind, workload))
        assert (answer.attestations, answer.leases) == (1, 2)
        assert not await workload.good(api)
        await house.tick()
        assert (await workload.row()).state is AttestationState.REVOKED
        assert house.db.living == {}
        assert {(await house.lease(item.lease.id)).state for item in (api, db)} == {LeaseState.REVOKED}
        assert await bystander.good(spared)
        await bystander.issue("other")
        assert await house.look(lambda tx: tx.revocations.hits(answer.revocation_id, 9)) == [workload.id]
        await house.tick(9)
        receipt = json.loads(await house.receipt(answer.revocation_id))
        assert (receipt["attestations"], receipt["leases"]) == (1, 2)

    @pytest.mark.parametrize("kind", [SelectorKind.LEASE, SelectorKind.TOKEN])
    async def test_one_credential_and_no_other(self, kind: SelectorKind) -> None:
        house, workload, _ = await a_house()
        other = await workload.issue()
        answer = await house.revoke(kind, await value_of(kind, workload))
        assert (answer.attestations, answer.leases) == (0, 1)
        assert await workload.good(other)
        [revoking] = await house.leases(LeaseState.REVOKING)
        await house.tick()
        assert (await house.lease(revoking.id)).state is LeaseState.REVOKED
        assert (await workload.row()).state is AttestationState.ALIVE
        await workload.issue()
        await house.tick(9)
        assert json.loads(await house.receipt(answer.revocation_id))["leases"] == 1

    async def test_a_token_of_an_outside_backend_by_its_handle(self) -> None:
        house, workload, _ = await a_house()
        db = await workload.issue("db")
        await house.revoke(SelectorKind.TOKEN, db.lease.handle)
        await house.tick()
        assert house.db.living == {}

    @pytest.mark.parametrize(
        ("kind", "bans"),
        [
            (SelectorKind.ATTESTATION, True),
            (SelectorKind.MANIFEST, True),
            (SelectorKind.DIGEST, True),
            (SelectorKind.PACKAGE, True),
            (SelectorKind.KEY, True),
            (SelectorKind.PROCESS, True),
            (SelectorKind.IDENTITY, False),
            (SelectorKind.NODE, False),
            (SelectorKind.CONTAINER, False),
            (SelectorKind.POD, False),
            (SelectorKind.LEASE, False),
            (SelectorKind.TOKEN, False),
        ],
    )
    async def test_some_ban_by_default_and_some_only_cut(self, kind: SelectorKind, bans: bool) -> None:
        for asked, expected in ((None, bans), (True, True), (False, False)):
            house, workload, _ = await a_house()
            answer = await house.revoke(kind, await value_of(kind, workload), ban=asked)
            first = (await house.log())[0]
            assert (first.body.cut, first.body.ban) == (True, expected)
            revocation = await house.revocation(answer.revocation_id)
            assert (revocation.cut, revocation.ban) == (True, expected)

    @pytest.mark.parametrize(
        ("place", "level", "process", "kinds"),
        [
            (InstanceClaims(), Assurance.WITNESSED, PROCESS, [SelectorKind.KEY, SelectorKind.PROCESS]),
            (
                InstanceClaims(container_id="c-1", pod_uid="pod-1"),
                Assurance.SELF,
                PROCESS,
                [SelectorKind.KEY, SelectorKind.CONTAINER],
            ),
            (InstanceClaims(pod_uid="pod-1"), Assurance.SELF, PROCESS, [SelectorKind.KEY, SelectorKind.POD]),
            (
                InstanceClaims(node="node-1"),
                Assurance.SELF,
                PROCESS,
                [SelectorKind.KEY, SelectorKind.IDENTITY],
            ),
            (InstanceClaims(), Assurance.SELF, PROCESS, [SelectorKind.KEY, SelectorKind.IDENTITY]),
        ],
    )
    async def test_the_taint_is_what_the_workload_cannot_change(
        self, place: InstanceClaims, level: Assurance, process: ProcessRef, kinds: list[SelectorKind]
    ) -> None:
        house = await House.open()
        workload = await house.attested(place=place, level=level, process=process)
        await house.revoke(SelectorKind.ATTESTATION, workload.id)
        log = await house.log()
        assert [item.body.selector.kind for item in log] == [SelectorKind.ATTESTATION, *kinds]
        assert all(item.body.ban and not item.body.cut for item in log[1:])

    async def test_retry_spares_the_identity(self) -> None:
        house = await House.open(role("api", after_revocation=AfterRevocation.RETRY))
        workload = await house.attested()
        await house.revoke(SelectorKind.ATTESTATION, workload.id)
        assert [item.body.selector.kind for item in await house.log()] == [
            SelectorKind.ATTESTATION,
            SelectorKind.KEY,
        ]

    async def test_one_role_that_holds_is_enough_to_hold(self) -> None:
        house = await House.open(role("a", after_revocation=AfterRevocation.RETRY), role("b"))
        workload = await house.attested()
        await house.revoke(SelectorKind.ATTESTATION, workload.id)
        assert (await house.log())[-1].body.selector.kind is SelectorKind.IDENTITY

    async def test_a_cut_of_an_instance_bans_nothing(self) -> None:
        house = await House.open()
        workload = await house.attested()
        await house.revoke(SelectorKind.ATTESTATION, workload.id, ban=False)
        assert len(await house.log()) == 1
        await house.workload().attest("app")

    async def test_until_bounds_the_taint_as_well(self) -> None:
        house = await House.open()
        workload = await house.attested()
        await house.revoke(SelectorKind.ATTESTATION, workload.id, until=house.now + 60)
        assert (await house.attest_refusal(house.workload())).reason is Reason.BANNED
        house.clock.advance(60)
        await house.workload().attest("app")
        assert (await workload.row()).state is AttestationState.REVOKED


class TestWords:
    @pytest.mark.parametrize(
        ("kind", "value"),
        [
            (SelectorKind.DIGEST, "xyz"),
            (SelectorKind.DIGEST, "AB" * 32),
            (SelectorKind.KEY, "ab" * 31),
            (SelectorKind.MANIFEST, ""),
            (SelectorKind.PACKAGE, "lib"),
            (SelectorKind.PACKAGE, "pkg:pypi/lib"),
            (SelectorKind.NODE, "a\nb"),
            (SelectorKind.NODE, "n" * 2049),
        ],
    )
    async def test_a_selector_that_could_hit_nothing_is_refused(self, kind: SelectorKind, value: str) -> None:
        house = await House.open()
        with pytest.raises(InvalidRequest):
            await house.revoke(kind, value)

    async def test_every_act_has_a_reason_and_bounded_words(self) -> None:
        house = await House.open()
        workload = await house.attested()
        made = await house.revoke(SelectorKind.NODE, "n", ban=True)
        for reason, ticket in (
            ("", ""),
            ("  ", ""),
            ("r" * 1001, ""),
            ("r", "t" * 1001),
            ("r\x00", ""),
            ("r", "\x1b[2J"),
        ):
            with pytest.raises(InvalidRequest):
                await house.revoker.lift(made.revocation_id, "operator:ann", reason, ticket)
            with pytest.raises(InvalidRequest):
                await house.publisher.withdraw(b"d" * 32, "operator:ann", reason, ticket)
            with pytest.raises(InvalidRequest):
                await house.publisher.retire(b"d" * 32, "operator:ann", reason, ticket)
        assert (await workload.row()).state is AttestationState.ALIVE

    async def test_until_lies_ahead(self) -> None:
        house = await House.open()
        for until in (house.now, house.now - 1, 0.0):
            with pytest.raises(InvalidRequest):
                await house.revoke(SelectorKind.NODE, "n", until=until)

    async def test_until_means_a_ban(self) -> None:
        house = await House.open()
        await house.revoke(SelectorKind.NODE, "node-1", until=house.now + 60)
        workload = house.workload(place=InstanceClaims(node="node-1"))
        assert (await house.attest_refusal(workload)).reason is Reason.BANNED
        house.clock.advance(60)
        await workload.attest("app")
        with pytest.raises(InvalidRequest):
            await house.revoke(SelectorKind.NODE, "node-1", until=house.now + 60, ban=False)

    async def test_what_is_one_thing_must_exist(self) -> None:
        house = await House.open()
        for kind in (SelectorKind.ATTESTATION, SelectorKind.LEASE, SelectorKind.TOKEN):
            for dry_run in (True, False):
                with pytest.raises(NotFound):
                    await house.revoke(kind, "nothing", dry_run=dry_run)
        assert await house.log() == []

    async def test_what_may_come_later_need_not_be_there_yet(self) -> None:
        house = await House.open()
        answer = await house.revoke(SelectorKind.DIGEST, unit("app").digest.hex())
        assert (answer.attestations, answer.head.seq) == (0, 1)
        assert (await house.attest_refusal(house.workload())).reason is Reason.BANNED

    @pytest.mark.parametrize("kind", list(SelectorKind))
    async def test_a_dry_run_counts_and_does_nothing(self, kind: SelectorKind) -> None:
        house, workload, _ = await a_house()
        await workload.issue("db")
        value = await value_of(kind, workload)
        before = house.state._tables.copy()
        answer = await house.revoke(kind, value, dry_run=True)
        one_lease = kind in (SelectorKind.LEASE, SelectorKind.TOKEN)
        assert (answer.attestations, answer.leases) == ((0, 1) if one_lease else (1, 1))
        assert answer.revocation_id == ""
        assert house.state._tables == before
        assert not house.feed.denials.anticipating

    async def test_it_is_a_decision(self) -> None:
        house = await House.open()
        workload = await house.attested()
        answer = await house.revoke(SelectorKind.ATTESTATION, workload.id, ticket="INC-1")
        decision = await house.look(lambda tx: tx.decisions.get(answer.decision_id))
        assert (decision.kind, decision.effect, decision.actor, decision.ticket) == (
            DecisionKind.REVOKE,
            Effect.REVOKED,
            "operator:ann",
            "INC-1",
        )
        assert decision in house.people.audit


class TestLift:
    async def test_it_ends_the_bans_and_revives_nothing(self) -> None:
        house = await House.open()
        workload = await house.attested()
        api = await workload.issue()
        made = await house.revoke(SelectorKind.ATTESTATION, workload.id)
        answer = await house.lift(made.revocation_id)
        assert answer.head.seq == 6
        lifted = [item for item in await house.log() if item.body.kind is EntryKind.LIFTED]
        assert [item.body.refers_to for item in lifted] == [1, 2, 3]
        assert not await workload.good(api)
        assert (await house.issue_refusal(workload)).reason is Reason.REVOKED
        with pytest.raises(Denied):
            await workload.reattest()
        again = await house.attested()
        await again.issue()
        await house.tick()
        assert not await workload.good(api)
        assert await again.good(await again.issue())
        decision = await house.look(lambda tx: tx.decisions.get(answer.decision_id))
        assert (decision.kind, decision.effect) == (DecisionKind.LIFT, Effect.LIFTED)

    async def test_it_holds_after_a_restart(self) -> None:
        house = await House.open()
        workload = await house.attested()
        api = await workload.issue()
        made = await house.revoke(SelectorKind.ATTESTATION, workload.id)
        await house.lift(made.revocation_id)
        await house.start()
        await house.workload().attest("app")
        assert not await workload.good(api)

    async def test_the_bans_of_another_revocation_stay(self) -> None:
        house = await House.open()
        first = await house.revoke(SelectorKind.NODE, "node-1", ban=True)
        second = await house.revoke(SelectorKind.NODE, "node-1", ban=True)
        await house.lift(first.revocation_id)
        workload = house.workload(place=InstanceClaims(node="node-1"))
        assert (await house.attest_refusal(workload)).reason is Reason.BANNED
        await house.lift(second.revocation_id)
        await workload.attest("app")

    async def test_once_and_only_what_bans(self) -> None:
        house = await House.open()
        with pytest.raises(NotFound):
            await house.lift("V-unknown")
        cut = await house.revoke(SelectorKind.NODE, "node-1")
        with pytest.raises(Conflict):
            await house.lift(cut.revocation_id)
        ban = await house.revoke(SelectorKind.NODE, "node-1", ban=True)
        await house.lift(ban.revocation_id)
        with pytest.raises(Conflict):
            await house.lift(ban.revocation_id)

    async def test_after_a_wide_one_was_expanded_far_down_the_log(self) -> None:
        house = await House.open(role("api", after_revocation=AfterRevocation.RETRY))
        for _ in range(5):
            await house.attested()
        made = await house.revoke(SelectorKind.DIGEST, unit("lib").digest.hex())
        for number in range(5):
            await house.revoke(SelectorKind.NODE, f"node-{number}", ban=True)
        await house.tick()
        assert (await house.revocation(made.revocation_id)).last_seq > 6
        await house.lift(made.revocation_id)
        lifted = [item.body for item in await house.log() if item.body.kind is EntryKind.LIFTED]
        assert [item.selector.kind for item in lifted] == [SelectorKind.DIGEST]
        await house.workload().attest("lib")

    @pytest.mark.parametrize("write", [1, 2, 3])
    async def test_a_lift_during_upkeep_is_not_lost(self, write: int) -> None:
        house = await House.open()
        workload = await house.attested()
        made = await house.revoke(SelectorKind.ATTESTATION, workload.id)
        house.state.before_write(write, lambda: house.lift(made.revocation_id))
        await house.tick()
        assert await house.settled(made.revocation_id)
        assert (await house.revocation(made.revocation_id)).lifted_at

    async def test_a_receipt_stays_as_it_was_sealed(self) -> None:
        house = await House.open()
        workload = await house.attested()
        made = await house.revoke(SelectorKind.ATTESTATION, workload.id)
        await house.tick()
        before = await house.receipt(made.revocation_id)
        await house.lift(made.revocation_id)
        await house.tick(60)
        assert await house.receipt(made.revocation_id) == before


class TestWide:
    @pytest.mark.parametrize("kind", [SelectorKind.DIGEST, SelectorKind.IDENTITY, SelectorKind.MANIFEST])
    async def test_more_than_a_batch_is_found_batch_by_batch_and_the_log_says_when_it_was_all(
        self, kind: SelectorKind
    ) -> None:
        house = await House.open(role("api"), role("db", backend="db"))
        fleet = [await house.attested() for _ in range(BATCH + 25)]
        leases = [await item.issue("db") for item in fleet[:10]]
        record = await house.publisher.get(None, "payments", 1)
        value = {
            SelectorKind.DIGEST: unit("lib").digest.hex(),
            SelectorKind.IDENTITY: IDENTITY,
            SelectorKind.MANIFEST: record.manifest.digest.hex(),
        }[kind]
        answer = await house.revoke(kind, value)
        assert answer.attestations == len(fleet)
        assert len(await house.log()) == 1
        assert await house.upkeep.tick()
        assert [(await item.row()).state for item in fleet].count(AttestationState.REVOKED) == BATCH
        await house.tick()
        assert {(await item.row()).state for item in fleet} == {AttestationState.REVOKED}
        assert house.db.living == {}
        log = await house.log()
        assert len(log) == 1 + len(fleet) + 1
        assert log[-1].body.kind is EntryKind.EXPANDED
        assert log[-1].body.refers_to == 1
        assert {item.body.selector.value for item in log[1:-1]} == {item.id for item in fleet}
        hits = await house.look(lambda tx: tx.revocations.hits(answer.revocation_id, 1000))
        assert len(hits) == len(fleet)
        await house.tick(9)
        receipt = json.loads(await house.receipt(answer.revocation_id))
        assert (receipt["attestations"], receipt["leases"]) == (len(fleet), len(leases))
        assert receipt["log"] == {"first": 1, "last": len(log)}

    async def test_who_came_after_a_cut_is_not_hit_by_it(self) -> None:
        house = await House.open()
        before = await house.attested()
        await house.revoke(SelectorKind.IDENTITY, IDENTITY)
        after = await house.attested()
        api = await after.issue()
        await house.tick()
        assert (await before.row()).state is AttestationState.REVOKED
        assert (await after.row()).state is AttestationState.ALIVE
        assert await after.good(api)
        await after.reattest()

    async def test_a_package_is_every_unit_of_it(self) -> None:
        house = await House.open(publish=False)
        await house.publish(
            1,
            "app",
            ManifestUnit(unit("lib a"), package=PACKAGE),
            ManifestUnit(unit("lib b"), package=PACKAGE),
            ManifestUnit(unit("lib c"), package="pkg:pypi/lib@1.1"),
        )
        fleet = {name: await house.attested("app", name) for name in ("lib a", "lib b", "lib c")}
        answer = await house.revoke(SelectorKind.PACKAGE, PACKAGE)
        assert answer.attestations == 2
        await house.tick()
        states = {name: (await item.row()).state for name, item in fleet.items()}
        assert states == {
            "lib a": AttestationState.REVOKED,
            "lib b": AttestationState.REVOKED,
            "lib c": AttestationState.ALIVE,
        }


class TestLog:
    async def test_it_is_one_chain_without_gaps(self) -> None:
        house = await House.open(role("api", after_revocation=AfterRevocation.RETRY))
        for _ in range(4):
            workload = await house.attested()
            await house.report(attestation=workload.id)
        made = await house.revoke(SelectorKind.DIGEST, unit("lib").digest.hex())
        await house.lift(made.revocation_id)
        await house.tick()
        head = LogHead("memory", 0, GENESIS)
        for entry in await house.log():
            assert entry.seq == head.seq + 1
            assert entry.hash == chain_hash(head.hash, entry.seq, entry.body)
            head = LogHead("memory", entry.seq, entry.hash)
        assert await house.look(lambda tx: tx.revocations.head()) == head == house.feed.denials.head

    async def test_where_it_cannot_be_written_memory_denies_and_the_operator_is_told(self) -> None:
        house = await House.open()
        workload = await house.attested()
        api = await workload.issue()
        house.state.fail_write()
        with pytest.raises(Unavailable):
            await house.revoke(SelectorKind.IDENTITY, IDENTITY)
        assert not await workload.good(api)
        assert await house.log() == []
        answer = await house.revoke(SelectorKind.IDENTITY, IDENTITY)
        assert answer.head.seq == 1
        # A cut is a cut: what memory said meanwhile does not outlive it as a ban.
        await house.workload().attest("app")

    @pytest.mark.parametrize("error", [Conflict("no"), None])
    async def test_a_denial_that_is_called_off_leaves_nothing(self, error: Conflict | None) -> None:
        house = await House.open()
        decision = Decision("D-1", DecisionKind.REVOKE, house.now, Reason.REVOKED, Effect.REVOKED)
        selector = Selector(SelectorKind.IDENTITY, IDENTITY)
        target = Target(selector, cut=True, ban=True)
        denial = Denial("V-1", (target,), (), True, "ann", "because", decision, house.now)
        seen = []

        async def first(tx: Transaction) -> bool:
            seen.append(house.feed.denials.early.banned([selector], house.now))
            if error is not None:
                raise error
            return False

        with pytest.raises(Conflict) if error is not None else nullcontext():
            assert await house.ledger.deny(denial, first=first) is None
        assert seen[0] is not None
        assert not house.feed.denials.anticipating
        await house.workload().attest("app")

    async def test_many_at_once_get_one_sequence(self) -> None:
        house = await House.open()
        await asyncio.gather(*(house.revoke(SelectorKind.NODE, f"node-{n}", ban=True) for n in range(30)))
        assert [item.seq for item in await house.log()] == list(range(1, 31))
        assert house.feed.denials.seq == 30
        for number in range(30):
            assert house.feed.denials.banned([Selector(SelectorKind.NODE, f"node-{number}")], house.now)

    async def test_an_answer_that_was_lost_after_the_commit_denies_once_and_can_be_lifted(self) -> None:
        house = await House.open()
        house.state.fail_write(committed=True)
        with pytest.raises(Unavailable):
            await house.revoke(SelectorKind.IDENTITY, IDENTITY, ban=True)
        assert (await house.attest_refusal(house.workload())).reason is Reason.BANNED
        await house.feed.catch_up()
        assert not house.feed.denials.anticipating
        await house.lift((await house.only_revocation()).id)
        await house.workload().attest("app")

    async def test_a_caller_that_hangs_up_leaves_nothing_in_memory_that_the_log_does_not_say(self) -> None:
        house = await House.open()
        reached, forever = asyncio.Event(), asyncio.Event()

        async def stall() -> None:
            reached.set()
            await forever.wait()

        house.state.before_write(1, stall)
        task = asyncio.create_task(house.revoke(SelectorKind.IDENTITY, IDENTITY, ban=True))
        await asyncio.wait_for(reached.wait(), 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await house.attest_refusal(house.workload())).reason is Reason.STATE_UNAVAILABLE
        # It goes on without its caller, and is a revocation like any other.
        forever.set()
        assert (await house.attest_refusal(house.workload())).reason is Reason.BANNED
        assert not house.feed.denials.anticipating
        made = await house.only_revocation()
        await house.lift(made.id)
        await house.workload().attest("app")
