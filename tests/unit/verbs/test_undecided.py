"""A denial between its decision and its commit: it refuses, and what is called off after all has ended nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from broker.errors import Denied, LockstepError, Unavailable
from broker.ledger import Denial, Target
from broker.model.attestation import AttestationState
from broker.model.credential import LeaseState
from broker.model.decision import Decision, DecisionKind, Effect
from broker.model.detection import DetectionState
from broker.model.identity import IdentityMatch, InstanceClaims
from broker.model.revocation import Selector, SelectorKind
from broker.model.role import Cap
from broker.ports import Transaction
from lockstep.formats import Reason
from tests.support.house import HOUR, House, Workload, policy, role
from tests.support.manifests import unit

Act = Callable[[Workload], Awaitable[object]]


class Pause:
    """A denial of some selectors that has been decided and waits to be written, or called off."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.writes = False

    def called_off(self) -> None:
        self.go.set()

    def written(self) -> None:
        self.writes = True
        self.go.set()


@asynccontextmanager
async def deciding(
    house: House, *selectors: Selector, cut: bool = True, ban: bool = True
) -> AsyncIterator[Pause]:
    pause, reached = Pause(), asyncio.Event()
    decision = Decision("D-pause", DecisionKind.REVOKE, house.now, Reason.REVOKED, Effect.REVOKED)
    targets = tuple(Target(selector, cut=cut, ban=ban) for selector in selectors)
    named = tuple(item.value for item in selectors if item.kind is SelectorKind.ATTESTATION)
    denial = Denial("V-pause", targets, named, False, "ann", "because", decision, house.now)

    async def wait() -> None:
        reached.set()
        await pause.go.wait()

    async def first(tx: Transaction) -> bool:
        return pause.writes

    house.state.before_write(1, wait)
    task = asyncio.create_task(house.ledger.deny(denial, first=first))
    await asyncio.wait_for(reached.wait(), 5)
    try:
        yield pause
    finally:
        pause.go.set()
        await task


async def waiting(work: Awaitable[object]) -> asyncio.Task[object]:
    """The work, which has not ended while the denial is undecided."""
    task = asyncio.ensure_future(work)
    done, _ = await asyncio.wait({task}, timeout=0.1)
    assert not done
    return task


def own(workload: Workload) -> list[Selector]:
    return [
        Selector(SelectorKind.ATTESTATION, workload.id),
        Selector(SelectorKind.IDENTITY, workload.identity.name),
        Selector(SelectorKind.KEY, workload.thumbprint.hex()),
        Selector(SelectorKind.DIGEST, unit("app").digest.hex()),
    ]


KINDS = ["attestation", "identity", "key", "digest"]


def chosen(workload: Workload, kind: str) -> Selector:
    return next(item for item in own(workload) if item.kind.value == kind)


async def nothing_happened(house: House, workload: Workload) -> None:
    """The broker remembers nothing of a denial that was never written."""
    assert (await workload.row()).state is AttestationState.ALIVE
    assert await house.log() == []
    assert not house.feed.denials.anticipating
    reasons = {item.verdict for item in await house.decisions()}
    assert not reasons & {Reason.REVOKED, Reason.BANNED}
    assert {item.state for item in await house.leases()} <= {LeaseState.ACTIVE}


class TestCalledOff:
    @pytest.mark.parametrize("kind", KINDS)
    async def test_a_reattest_waits_and_goes_on(self, kind: str) -> None:
        house = await House.open()
        workload = await house.attested()
        api = await workload.issue()
        async with deciding(house, chosen(workload, kind)) as pause:
            task = await waiting(workload.reattest())
            pause.called_off()
            await task
        await nothing_happened(house, workload)
        assert await workload.good(api)

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("name", ["api", "db"])
    async def test_an_issue_waits_and_grants(self, name: str, kind: str) -> None:
        house = await House.open()
        workload = await house.attested()
        async with deciding(house, chosen(workload, kind)) as pause:
            task = await waiting(workload.issue(name))
            pause.called_off()
            await task
        await nothing_happened(house, workload)

    @pytest.mark.parametrize("kind", KINDS)
    async def test_a_renewal_waits_and_extends(self, kind: str) -> None:
        house = await House.open()
        workload = await house.attested()
        answer = await workload.issue("db")
        house.clock.advance(10)
        await workload.reattest()
        async with deciding(house, chosen(workload, kind)) as pause:
            task = await waiting(workload.renew(answer.lease.id))
            pause.called_off()
            await task
        await nothing_happened(house, workload)

    @pytest.mark.parametrize("kind", ["identity", "key", "digest"])
    async def test_an_attest_waits_and_is_admitted(self, kind: str) -> None:
        house = await House.open()
        workload = house.workload()
        async with deciding(house, chosen(workload, kind)) as pause:
            task = await waiting(workload.attest("app"))
            pause.called_off()
            await task
        await nothing_happened(house, workload)

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("step", [1, 2])
    async def test_what_is_decided_in_the_middle_of_an_issue_waits_at_the_fence(
        self, step: int, kind: str
    ) -> None:
        await self._in_the_middle(kind, step, lambda workload: workload.issue("db"))

    @pytest.mark.parametrize("kind", KINDS)
    async def test_what_is_decided_in_the_middle_of_a_reattest_waits_at_the_fence(self, kind: str) -> None:
        await self._in_the_middle(kind, 1, lambda workload: workload.reattest())

    async def _in_the_middle(self, kind: str, step: int, act: Act) -> None:
        house = await House.open()
        workload = await house.attested()
        denial = deciding(house, chosen(workload, kind))
        begun = asyncio.Event()
        pauses = []

        async def decide() -> None:
            pauses.append(await denial.__aenter__())
            begun.set()

        house.state.before_write(step, decide)
        task = asyncio.ensure_future(act(workload))
        await asyncio.wait_for(begun.wait(), 5)
        done, _ = await asyncio.wait({task}, timeout=0.1)
        assert not done
        pauses[0].called_off()
        await asyncio.wait_for(task, 5)
        await denial.__aexit__(None, None, None)
        await nothing_happened(house, workload)

    async def test_a_withdrawal_that_is_called_off_makes_no_code_unapproved(self) -> None:
        house = await House.open()
        workload = await house.attested()
        await house.publish(2, "another release")
        record = await house.publisher.get(None, "payments", 1)
        withdrawn = Selector(SelectorKind.MANIFEST, record.manifest.digest.hex())
        async with deciding(house, withdrawn) as pause:
            # Who does not need it is not kept waiting.
            await house.attested("another release")
            task = await waiting(workload.reattest())
            pause.called_off()
            await task
        await nothing_happened(house, workload)

    async def test_two_wide_reports_at_once_revoke_no_more_than_the_cap_allows(self) -> None:
        house = await House.open(
            role("api", identity=IdentityMatch("oidc", spiffe_id="spiffe://pay.example/*"))
        )
        fleets = {
            name: [
                await house.attested(
                    subject=name, issuer=None, place=InstanceClaims(pod_uid=f"{name} {number}")
                )
                for number in range(3)
            ]
            for name in ("spiffe://pay.example/a", "spiffe://pay.example/b")
        }
        everybody = [item for fleet in fleets.values() for item in fleet]
        detector = policy(cap=Cap(instances=3, share=1.0, period=HOUR))

        async def goes_on(workload: Workload) -> object:
            try:
                return await workload.reattest()
            except LockstepError as error:
                return error

        answers, *_ = await asyncio.gather(
            asyncio.gather(*(house.report(detector=detector, spiffe=name) for name in fleets)),
            *(goes_on(item) for item in everybody),
        )
        assert [item.state for item in answers] == [DetectionState.APPLIED, DetectionState.HELD]
        states = [(await item.row()).state for item in everybody]
        assert states.count(AttestationState.REVOKED) == 3
        made = {item.id for item in await house.look(lambda tx: tx.revocations.page(9))}
        assert {entry.body.revocation_id for entry in await house.log()} == made


class TestWritten:
    @pytest.mark.parametrize("kind", ["attestation", "digest"])
    async def test_who_waited_hears_what_it_came_to(self, kind: str) -> None:
        house = await House.open()
        workload = await house.attested()
        async with deciding(house, chosen(workload, kind)) as pause:
            task = await waiting(workload.reattest())
            pause.written()
            with pytest.raises(Denied) as caught:
                await task
        assert caught.value.reason is Reason.REVOKED
        assert {entry.body.revocation_id for entry in await house.log()} == {"V-pause"}

    async def test_an_issue_too(self) -> None:
        house = await House.open()
        workload = await house.attested()
        async with deciding(house, chosen(workload, "attestation")) as pause:
            task = await waiting(workload.issue("db"))
            pause.written()
            with pytest.raises(Denied) as caught:
                await task
        assert caught.value.reason is Reason.REVOKED
        assert house.db.living == {}


class TestMeanwhile:
    async def test_nothing_is_granted_and_nothing_relied_on(self) -> None:
        house = await House.open()
        workload = await house.attested()
        api = await workload.issue()
        for selector in own(workload):
            async with deciding(house, selector):
                assert not await workload.good(api)
            assert await workload.good(api)

    async def test_one_that_takes_long_is_not_waited_for(self) -> None:
        house = await House.open()
        workload = await house.attested()
        async with deciding(house, chosen(workload, "attestation")):
            for act in (workload.issue, workload.reattest):
                with pytest.raises(Unavailable) as caught:
                    await act()
                assert caught.value.retry_after
        await nothing_happened(house, workload)
        # Neither a proof nor a nonce that was spent in vain stands in the way.
        await workload.reattest()
        await workload.issue()

    async def test_it_keeps_nobody_else_waiting(self) -> None:
        house = await House.open()
        workload, other = await house.attested(), await house.attested()
        async with deciding(house, chosen(workload, "attestation"), chosen(workload, "key")):
            await other.issue()
            await other.reattest()
