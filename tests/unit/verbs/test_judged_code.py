"""Code sets in the state: what is only judged costs little, what is kept holds nobody up, nobody names for another."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broker.attest.keeping import SLICE
from broker.errors import Denied, LimitExceeded, Unavailable
from broker.model.attestation import AttestationState
from broker.model.detection import DetectionState
from broker.model.evidence import CodeSet, Evidence, UnitHint
from broker.model.identity import IdentityMatch
from broker.model.requests import Explanation
from broker.model.revocation import Selector, SelectorKind
from broker.model.role import Mode, Rate
from broker.upkeep import UpkeepLimits
from lockstep.formats import Reason
from tests.support.house import House, Workload, role
from tests.support.manifests import unit

WATCHED = IdentityMatch("oidc", subject="watched")


def named(workload: Workload, *names: str, **paths: str) -> Evidence:
    """Evidence of some units, some of which its measurer has a name for."""
    hints = tuple(UnitHint(unit(name).digest, path, name) for name, path in paths.items())
    return workload.evidence(*names, hints=hints)


async def refused(house: House, workload: Workload, evidence: Evidence) -> Explanation:
    """What is shown to an operator of a refusal."""
    with pytest.raises(Denied) as caught:
        await workload.attest(evidence=(evidence,))
    return await explained(house, caught.value.decision_id)


async def explained(house: House, decision_id: str) -> Explanation:
    return await house.explainer.explain(house.operator("explain"), decision_id, True)


def paths(found: Explanation) -> dict[bytes, str]:
    return {hint.digest: hint.path for hint in found.hints}


class TestWhatIsOnlyJudged:
    @pytest.mark.parametrize("dry_run", [True, False])
    async def test_it_can_be_explained_and_nothing_finds_it(self, dry_run: bool) -> None:
        house = await House.open()
        workload = house.workload()
        if dry_run:
            decision_id = (await workload.attest("app", "evil", dry_run=True)).decision_id
        else:
            decision_id = (await house.attest_refusal(workload, "app", "evil")).decision_id
        found = await explained(house, decision_id)
        assert found.code_set is not None
        assert found.code_set.units == {unit("app"), unit("evil")}
        assert not await house.look(lambda tx: tx.code.indexed(found.code_set.digest))

    async def test_a_dry_run_that_would_pass_writes_no_more(self) -> None:
        house = await House.open()
        await house.workload().attest("app", dry_run=True)
        digest = CodeSet.of([unit("app")]).digest
        assert not await house.look(lambda tx: tx.code.indexed(digest))
        # The attestation that follows is found by what it has.
        workload = await house.attested("app")
        assert await house.look(lambda tx: tx.code.indexed(digest))
        await house.revoke(SelectorKind.DIGEST, unit("app").digest.hex())
        await house.tick()
        assert (await workload.row()).state is AttestationState.REVOKED

    async def test_what_falls_by_its_own_evidence_is_only_judged(self) -> None:
        house = await House.open()
        workload = await house.attested("app")
        with pytest.raises(Denied) as caught:
            await workload.reattest("evil")
        found = await explained(house, caught.value.decision_id)
        assert found.code_set is not None
        assert not await house.look(lambda tx: tx.code.indexed(found.code_set.digest))

    async def test_it_is_kept_within_a_budget_and_attestations_never_go(self) -> None:
        house = await House.open(upkeep_limits=UpkeepLimits(look_again=0.0, judged=3 * 4096))
        workload = await house.attested("app")
        decisions = [
            (await house.attest_refusal(house.workload(), "app", f"evil {n}")).decision_id for n in range(30)
        ]
        await house.tick(60)
        kept = [(await explained(house, decision)).code_set is not None for decision in decisions]
        assert kept == [False] * 27 + [True] * 3
        row = await workload.row()
        assert await house.look(lambda tx: tx.code.get(row.code_set)) is not None
        # The decision says on what it rests, as far as it did before.
        assert paths(await explained(house, decisions[0])) == {}
        assert (await explained(house, decisions[0])).decision.findings_total == 1


class TestWhatIsKept:
    @pytest.mark.parametrize("more", [0, 1])
    async def test_a_large_set_comes_in_slices_and_a_denial_gets_in_between(self, more: int) -> None:
        house = await House.open(role("api", mode=Mode.OBSERVE, identity=WATCHED), role("pay"))
        victim = await house.attested()
        workload = house.workload("watched")
        names = [f"unit {number}" for number in range(3 * SLICE + more)]
        order = workload.order(*names)
        answers = []

        async def meanwhile() -> None:
            answers.append(await house.report(attestation=victim.id))

        before = house.state.writes
        house.state.before_write(2, meanwhile)
        await workload.send(order)
        assert answers[0].state is DetectionState.APPLIED
        # Slices, the denial in their middle, the attestation itself, and its look at the fence.
        assert house.state.writes - before == 3 + more + 1 + 1 + 1
        for name in (names[0], names[-1]):
            selector = Selector(SelectorKind.DIGEST, unit(name).digest.hex())
            found = await house.look(lambda tx, one=selector: tx.attestations.alive_by(one, 9))
            assert [item.id for item in found] == [workload.id]

    async def test_what_grows_by_a_slice_too(self) -> None:
        house = await House.open(role("api", mode=Mode.OBSERVE, identity=WATCHED))
        workload = await house.attested(*(f"unit {number}" for number in range(SLICE)), subject="watched")
        before = house.state.writes
        await workload.reattest(*(f"later {number}" for number in range(SLICE)))
        assert house.state.writes - before == 2 + 1
        selector = Selector(SelectorKind.DIGEST, unit("later 7").digest.hex())
        assert len(await house.look(lambda tx: tx.attestations.alive_by(selector, 9))) == 1

    async def test_a_set_that_is_known_is_written_once(self) -> None:
        house = await House.open(role("api", mode=Mode.OBSERVE, identity=WATCHED))
        names = [f"unit {number}" for number in range(2 * SLICE)]
        await house.attested(*names, subject="watched")
        before = house.state.writes
        await house.attested(*names, subject="watched")
        assert house.state.writes - before == 1

    async def test_one_that_cannot_be_written_whole_is_no_attestation(self) -> None:
        house = await House.open(role("api", mode=Mode.OBSERVE, identity=WATCHED))
        workload = house.workload("watched")
        order = workload.order(*(f"unit {number}" for number in range(2 * SLICE)))
        house.state.fail_write(2)
        with pytest.raises(Unavailable):
            await workload.send(order)
        assert await house.look(lambda tx: tx.attestations.count_alive()) == 0
        house.state.calm()
        await workload.attest(*(f"unit {number}" for number in range(2 * SLICE)))


RATES = {"refused": Rate(3, 60.0), "self": Rate(9, 9), "detector": Rate(9, 9)}


class TestDryRunsCount:
    async def test_one_that_would_be_refused_is_a_refusal(self) -> None:
        house = await House.open(rates=RATES)
        workload = house.workload()
        for _ in range(3):
            assert not (await workload.attest("evil", dry_run=True)).roles[0].granted
        for _ in range(2):
            with pytest.raises(LimitExceeded) as caught:
                await workload.attest("evil", dry_run=True)
            assert caught.value.retry_after
        count = len(await house.decisions())
        with pytest.raises(LimitExceeded):
            await workload.attest("app")
        assert len(await house.decisions()) == count
        house.clock.advance(20)
        await workload.attest("app")

    async def test_one_that_would_pass_is_not(self) -> None:
        house = await House.open(rates=RATES)
        workload = house.workload()
        for _ in range(9):
            assert (await workload.attest("app", dry_run=True)).roles[0].granted


class TestNames:
    async def test_nobody_names_a_digest_for_another(self) -> None:
        low = role("low", identity=IdentityMatch("oidc", subject="intern"))
        house = await House.open(role("api"), low)
        mallory = house.workload("intern")
        lie = "/usr/lib/python3/site-packages/numpy/__init__.py"
        for units in (("evil",), ("app", "evil")):
            await refused(house, mallory, named(mallory, *units, evil=lie))
        workload = house.workload()
        truth = await refused(house, workload, named(workload, "app", "evil", evil="/tmp/.x/dropper.py"))
        assert paths(truth) == {unit("evil").digest: "/tmp/.x/dropper.py"}
        silent = house.workload("payments")
        assert lie not in paths(await refused(house, silent, silent.evidence("app", "evil", "more"))).values()

    async def test_what_it_said_itself_is_shown_of_what_follows(self) -> None:
        house = await House.open(role("api", mode=Mode.OBSERVE, identity=WATCHED))
        workload = house.workload("watched")
        await workload.attest(evidence=(named(workload, "app", "extra", extra="/srv/extra.py"),))
        grown = workload.code.grow([unit("more")])
        delta = named(workload, "more", more="/srv/more.py")
        delta = replace(delta, base_digest=workload.code.digest, code_set_digest=grown.digest)
        await workload.reattest(evidence=(delta,))
        lease = (await workload.issue()).lease
        wanted = {unit("extra").digest: "/srv/extra.py", unit("more").digest: "/srv/more.py"}
        assert paths(await explained(house, lease.decision_id)) == wanted
        report = await house.report(attestation=workload.id, code="evil")
        assert paths(await explained(house, report.decision_id)) == {
            **wanted,
            unit("evil").digest: "/tmp/evil",
        }

    async def test_the_words_of_the_decision_itself_come_first(self) -> None:
        house = await House.open()
        first, second = house.workload(), house.workload()
        await refused(house, first, named(first, "app", "evil", evil="/first"))
        shown = await refused(house, second, named(second, "app", "evil", evil="/second"))
        assert paths(shown) == {unit("evil").digest: "/second"}

    async def test_more_of_them_are_kept_than_findings(self) -> None:
        house = await House.open()
        workload = house.workload()
        many = {f"unit {number}": f"/srv/{number}.py" for number in range(1000)}
        shown = await refused(house, workload, named(workload, *many, **many))
        assert len(shown.decision.findings) < 1000
        assert set(paths(shown).values()) == set(many.values())
        assert shown.decision.verdict is Reason.APPRAISAL_FAILED
