"""Reattest: the record grows, the instance stays who it is, and fresh evidence outruns no revocation."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from broker.errors import Conflict, Denied, LimitExceeded, LockstepError, NotFound, Unavailable
from broker.model.appraisal import Status
from broker.model.attestation import AttestationState
from broker.model.credential import LeaseState
from broker.model.decision import DecisionKind, Effect
from broker.model.evidence import Assurance, ProcessRef
from broker.model.identity import IdentityMatch, InstanceClaims
from broker.model.manifest import ManifestUnit
from broker.model.requests import AttestAnswer
from broker.model.revocation import Selector, SelectorKind, process_value
from broker.model.role import AfterRevocation, Mode, Rate
from lockstep.formats import Reason
from tests.support.house import DAY, START, House, Workload, role
from tests.support.manifests import digest, unit


async def refused(workload: Workload, *added: str, **changes: object) -> LockstepError:
    with pytest.raises(LockstepError) as caught:
        await workload.reattest(*added, **changes)
    return caught.value


async def kept(workload: Workload, error: LockstepError) -> None:
    """A refusal that is a decision: durable, told to the audit, and explained to whom it concerns."""
    house = workload.house
    decision = await house.look(lambda tx: tx.decisions.get(error.decision_id))
    assert decision in house.people.audit
    assert (decision.kind, decision.effect, decision.verdict) == (
        DecisionKind.REATTEST,
        Effect.REFUSED,
        error.reason,
    )
    assert (decision.identity, decision.attestation_id) == (workload.identity.name, workload.id)
    await house.explainer.explain(workload.caller(), error.decision_id, False)


class TestTheRecordGrows:
    async def test_what_was_added_is_added(self) -> None:
        house = await House.open()
        workload = await house.attested("app")
        house.clock.advance(60)
        answer = await workload.reattest("lib")
        assert answer.status is Status.AFFIRMING
        row = await workload.row()
        code = await house.look(lambda tx: tx.code.get(row.code_set))
        assert code.units == {unit("app"), unit("lib")}
        assert (row.refreshed_at, row.expires_at, row.created_at) == (house.now, house.now + 300, START)

    async def test_it_never_shrinks_even_when_the_whole_set_is_sent_again(self) -> None:
        house = await House.open()
        workload = await house.attested("app", "lib")
        await workload.reattest(evidence=(workload.evidence("app"),))
        assert workload.code.units == {unit("app"), unit("lib")}

    async def test_a_delta_to_another_set_is_refused(self) -> None:
        house = await House.open()
        workload = await house.attested("app")
        delta = workload.evidence("lib", base_digest=digest("another"))
        error = await refused(workload, evidence=(delta,))
        assert error.reason is Reason.EVIDENCE_REJECTED

    async def test_a_delta_that_is_not_what_its_digest_says_is_refused(self) -> None:
        house = await House.open()
        workload = await house.attested("app")
        delta = workload.evidence("lib", base_digest=workload.code.digest, code_set_digest=digest("lie"))
        assert (await refused(workload, evidence=(delta,))).reason is Reason.EVIDENCE_REJECTED

    async def test_a_false_delta_beside_a_whole_set_is_refused_too(self) -> None:
        house = await House.open()
        workload = await house.attested("app")
        delta = workload.evidence("lib", base_digest=workload.code.digest, code_set_digest=digest("lie"))
        both = (workload.evidence("app"), delta)
        assert (await refused(workload, evidence=both)).reason is Reason.EVIDENCE_REJECTED

    async def test_of_two_at_once_none_loses_what_the_other_added(self) -> None:
        house = await House.open(publish=False)
        await house.publish(1, "app", "one", "two")
        workload = await house.attested("app")
        orders = [workload.later("one"), workload.later("two")]
        results = await asyncio.gather(
            *(house.verifier.reattest(order, house.proof(workload.thumbprint)) for order in orders),
            return_exceptions=True,
        )
        won = [item for item in results if isinstance(item, AttestAnswer)]
        lost = [item for item in results if isinstance(item, Conflict)]
        assert (len(won), len(lost)) == (1, 1)
        assert won[0].attestation is not None
        code = await house.look(lambda tx: tx.code.get(won[0].attestation.code_set))
        assert (await workload.row()).code_set == code.digest
        assert len(code.units) == 2


class TestItStaysWhoItIs:
    async def test_another_key_does_not_see_it(self) -> None:
        house = await House.open()
        workload, other = await house.attested(), await house.attested()
        order = replace(other.later(), attestation_id=workload.id)
        with pytest.raises(NotFound):
            await house.verifier.reattest(order, house.proof(other.thumbprint))

    async def test_another_identity_is_refused(self) -> None:
        house = await House.open()
        workload = await house.attested()
        other = house.workload("watched")
        error = await refused(workload, identity_proof=other.token)
        assert error.reason is Reason.IDENTITY_REJECTED
        assert error.decision_id

    async def test_the_same_subject_of_another_issuer_is_another_identity(self) -> None:
        house = await House.open()
        workload = await house.attested()
        twin = house.workload(issuer="https://elsewhere.example")
        assert (await refused(workload, identity_proof=twin.token)).reason is Reason.IDENTITY_REJECTED

    @pytest.mark.parametrize("place", [InstanceClaims(pod_uid="pod-2"), InstanceClaims()])
    async def test_the_identity_of_another_pod_or_of_none_is_refused(self, place: InstanceClaims) -> None:
        house = await House.open()
        workload = await house.attested(place=InstanceClaims(pod_uid="pod-1"))
        workload.place = place
        workload.know()
        error = await refused(workload)
        assert error.reason is Reason.IDENTITY_REJECTED
        assert "pod" in str(error)

    async def test_evidence_of_another_process_is_refused(self) -> None:
        house = await House.open()
        process = ProcessRef(node="n", boot_id="b", pid=1, start_ticks=2)
        workload = await house.attested(process=process)
        workload.process = replace(process, start_ticks=3)
        assert (await refused(workload)).reason is Reason.EVIDENCE_REJECTED

    async def test_evidence_may_not_become_weaker(self) -> None:
        house = await House.open()
        workload = await house.attested(level=Assurance.WITNESSED)
        workload.level = Assurance.SELF
        error = await refused(workload)
        assert error.reason is Reason.ASSURANCE_TOO_LOW
        assert (await workload.row()).assurance is Assurance.WITNESSED

    async def test_its_new_end_is_that_of_the_new_proof(self) -> None:
        house = await House.open()
        workload = await house.attested()
        workload.not_after = house.now + 30
        workload.know()
        assert (await workload.reattest()).expires_at == house.now + 30


class TestItIsOver:
    @pytest.mark.parametrize("late", [0.0, 0.001, 1000.0])
    async def test_at_its_end_it_has_ended(self, late: float) -> None:
        house = await House.open()
        workload = await house.attested()
        house.clock.advance(300 + late)
        error = await refused(workload)
        assert error.reason is Reason.ATTESTATION_EXPIRED
        await kept(workload, error)

    async def test_a_moment_before_its_end_it_goes_on(self) -> None:
        house = await House.open()
        workload = await house.attested()
        house.clock.advance(299.999)
        assert (await workload.reattest()).expires_at == house.now + 300

    async def test_revoked_is_revoked(self) -> None:
        house = await House.open()
        workload = await house.attested()
        await house.revoke(SelectorKind.ATTESTATION, workload.id)
        error = await refused(workload)
        assert error.reason is Reason.REVOKED
        await kept(workload, error)

    async def test_who_is_over_and_goes_on_asking_writes_no_more_of_it(self) -> None:
        house = await House.open(
            rates={"refused": Rate(3, 600.0), "self": Rate(9, 1.0), "detector": Rate(9, 1.0)}
        )
        workload, other = [await house.attested(place=InstanceClaims(pod_uid=pod)) for pod in ("p1", "p2")]
        await house.revoke(SelectorKind.ATTESTATION, workload.id)
        before = len(await house.decisions())
        for _ in range(3):
            await refused(workload)
        for _ in range(5):
            with pytest.raises(LimitExceeded):
                await workload.reattest()
        assert len(await house.decisions()) == before + 3
        await other.reattest()

    async def test_a_nonce_counts_once(self) -> None:
        house = await House.open()
        workload = await house.attested()
        nonce = workload.challenge()
        await workload.reattest(nonce=nonce)
        assert (await refused(workload, nonce=nonce)).reason is Reason.CHALLENGE_REJECTED
        await house.start()
        assert (await refused(workload, nonce=nonce)).reason is Reason.CHALLENGE_REJECTED


class TestManifests:
    async def test_what_runs_goes_on_under_a_retired_manifest(self) -> None:
        house = await House.open()
        workload = await house.attested()
        record = await house.publisher.get(None, "payments", 1)
        await house.publish(2, "something else")
        await house.publisher.retire(record.manifest.digest, "operator:ann", "old", "")
        assert (await workload.reattest()).status is Status.AFFIRMING

    async def test_what_runs_goes_on_for_a_window_after_the_manifest_has_expired_and_no_longer(self) -> None:
        house = await House.open(publish=False)
        house.attest_limits = replace(house.attest_limits, renewal_window=120.0)
        await house.start()
        await house.publish(1, "app", not_after=START + 100)
        workload = await house.attested("app")
        assert (await workload.row()).expires_at == START + 220
        house.clock.advance(219)
        assert (await workload.reattest()).expires_at == START + 220
        house.clock.advance(1)
        error = await refused(workload)
        assert error.reason is Reason.ATTESTATION_EXPIRED
        assert await house.log() == []

    async def test_a_new_release_does_not_stop_the_old_one_and_code_of_it_does_not_mix_in(self) -> None:
        house = await House.open(publish=False)
        await house.publish(1, "app 1")
        workload = await house.attested("app 1")
        await house.publish(2, "app 2")
        await workload.reattest()
        error = await refused(workload, "app 2")
        assert error.reason is Reason.REVOKED


class TestUnapprovedCode:
    async def test_in_enforce_it_revokes_the_instance_by_its_own_evidence(self) -> None:
        house = await House.open()
        workload = await house.attested(place=InstanceClaims(pod_uid="pod-1"))
        lease = (await workload.issue("db")).lease
        api = await workload.issue("api")
        error = await refused(workload, "evil")
        assert (error.reason, error.count) == (Reason.REVOKED, 1)
        assert (await workload.row()).state is AttestationState.REVOKED
        assert not await workload.good(api)
        revocation = await house.only_revocation()
        assert (revocation.actor, revocation.decision_id) == ("broker:reattest", error.decision_id)
        decision = await house.look(lambda tx: tx.decisions.get(error.decision_id))
        assert (decision.effect, decision.kind, decision.instances) == (
            Effect.REVOKED,
            DecisionKind.REATTEST,
            (workload.id,),
        )
        log = await house.log()
        assert [(e.body.selector.kind, e.body.cut, e.body.ban) for e in log] == [
            (SelectorKind.ATTESTATION, True, True),
            (SelectorKind.KEY, False, True),
            (SelectorKind.POD, False, True),
        ]
        # What it loaded is recorded, for whoever asks who else has it.
        assert await house.look(lambda tx: tx.code.get(decision.code_set)) is not None
        await house.tick()
        assert (await house.lease(lease.id)).state is LeaseState.REVOKED
        assert house.db.living == {}

    async def test_it_may_not_simply_attest_again(self) -> None:
        house = await House.open()
        workload = await house.attested(place=InstanceClaims(pod_uid="pod-1"))
        await refused(workload, "evil")
        again = house.workload(place=InstanceClaims(pod_uid="pod-1"))
        with pytest.raises(Denied) as caught:
            await again.attest("app")
        assert caught.value.reason is Reason.BANNED
        await house.workload(place=InstanceClaims(pod_uid="pod-2")).attest("app")

    async def test_its_nonce_is_spent_with_the_revocation(self) -> None:
        house = await House.open()
        workload = await house.attested()
        nonce = workload.challenge()
        await refused(workload, "evil", nonce=nonce)
        assert await house.look(lambda tx: tx.decisions.page(0, 99))
        claimed = await house.state.transact(lambda tx: tx.replays.claim("nonce", nonce, house.now + 99))
        assert not claimed

    async def test_where_the_revocation_cannot_be_written_memory_denies_and_a_later_try_writes_it(
        self,
    ) -> None:
        house = await House.open()
        workload = await house.attested()
        api = await workload.issue("api")
        house.state.fail_write()
        with pytest.raises(Unavailable):
            await workload.reattest("evil")
        assert not await workload.good(api)
        assert (await refused(workload)).reason is Reason.STATE_UNAVAILABLE
        assert (await workload.row()).state is AttestationState.ALIVE
        assert (await refused(workload, "evil")).reason is Reason.REVOKED
        assert (await workload.row()).state is AttestationState.REVOKED
        assert not house.feed.denials.anticipating

    async def test_in_observe_it_is_seen_and_recorded(self) -> None:
        house = await House.open()
        workload = await house.attested(subject="watched")
        answer = await workload.reattest("evil")
        assert (answer.roles[0].granted, answer.roles[0].reason) == (True, Reason.APPRAISAL_FAILED)
        assert await house.log() == []
        assert (await workload.row()).state is AttestationState.ALIVE

    async def test_going_from_observe_to_enforce_revokes_nobody(self) -> None:
        watched = IdentityMatch("oidc", subject="watched")
        house = await House.open(role("api", mode=Mode.OBSERVE, identity=watched))
        workload = house.workload("watched")
        await workload.attest("app", "evil")
        api = await workload.issue("api")
        house.people.book = replace(house.people.book, roles={"api": role("api", identity=watched)})
        house.clock.advance(10)
        answer = await workload.reattest()
        assert (answer.roles[0].granted, answer.roles[0].reason) == (False, Reason.APPRAISAL_FAILED)
        assert await house.log() == []
        assert (await workload.row()).state is AttestationState.ALIVE
        with pytest.raises(Denied) as caught:
            await workload.renew(api.lease.id)
        assert caught.value.reason is Reason.APPRAISAL_FAILED

    async def test_a_role_that_it_never_asked_for_neither_revokes_nor_colours_the_answer(self) -> None:
        house = await House.open(role("api"), role("other", manifests=("tools",)))
        workload = house.workload()
        await workload.attest("app", roles=("api",))
        answer = await workload.reattest()
        assert [item.role for item in answer.roles] == ["api"]
        assert answer.status is Status.AFFIRMING


class TestHold:
    async def test_where_nothing_tells_instances_apart_the_identity_waits_for_a_lift(self) -> None:
        house = await House.open()
        workload = await house.attested()
        await refused(workload, "evil")
        with pytest.raises(Denied) as caught:
            await house.workload().attest("app")
        assert caught.value.reason is Reason.BANNED
        await house.lift((await house.only_revocation()).id)
        await house.workload().attest("app")
        assert (await refused(workload)).reason is Reason.REVOKED

    async def test_a_role_may_say_retry(self) -> None:
        house = await House.open(role("api", after_revocation=AfterRevocation.RETRY))
        workload = await house.attested()
        await refused(workload, "evil")
        await house.workload().attest("app")

    async def test_a_process_that_it_states_itself_falls_upon_nobody_else(self) -> None:
        house = await House.open(role("api", after_revocation=AfterRevocation.RETRY))
        victim = await house.attested(
            level=Assurance.WITNESSED, process=ProcessRef(node="n", boot_id="b", pid=1, start_ticks=2)
        )
        api = await victim.issue("api")
        liar = await house.attested(process=victim.process)
        await refused(liar, "evil")
        assert await victim.good(api)
        await victim.reattest()

    async def test_a_witnessed_process_stays_banned_until_a_lift(self) -> None:
        house = await House.open()
        process = ProcessRef(node="n", boot_id="b", pid=1, start_ticks=2)
        workload = await house.attested(level=Assurance.WITNESSED, process=process)
        await refused(workload, "evil")
        log = await house.log()
        assert [item.body.selector.value for item in log][-1] == process_value(process)
        same = house.workload(level=Assurance.WITNESSED, process=process)
        with pytest.raises(Denied):
            await same.attest("app")
        other = replace(process, start_ticks=3)
        await house.workload(level=Assurance.WITNESSED, process=other).attest("app")


class TestRevocationsCountFirst:
    @pytest.mark.parametrize("kind", [SelectorKind.IDENTITY, SelectorKind.NODE, SelectorKind.POD])
    async def test_a_reattest_does_not_outrun_a_cut_that_is_not_expanded_yet(
        self, kind: SelectorKind
    ) -> None:
        house = await House.open()
        workload = await house.attested(place=InstanceClaims(node="node-1", pod_uid="pod-1"))
        api = await workload.issue("api")
        value = {
            SelectorKind.IDENTITY: "https://issuer.example|payments",
            SelectorKind.NODE: "node-1",
            SelectorKind.POD: "pod-1",
        }[kind]
        await house.revoke(kind, value)
        house.clock.advance(1)
        assert (await refused(workload)).reason is Reason.REVOKED
        assert not await workload.good(api)
        await house.tick()
        assert (await workload.row()).state is AttestationState.REVOKED

    async def test_nor_a_digest_that_it_has_loaded(self) -> None:
        house = await House.open()
        workload = await house.attested()
        await house.revoke(SelectorKind.DIGEST, unit("lib").digest.hex(), ban=False)
        assert (await refused(workload)).reason is Reason.REVOKED
        await house.tick()
        assert (await workload.row()).state is AttestationState.REVOKED

    async def test_a_cut_of_what_it_was_not_then_does_not_count_later(self) -> None:
        house = await House.open()
        await house.revoke(SelectorKind.IDENTITY, "https://issuer.example|payments")
        workload = await house.attested()
        await house.tick()
        await workload.reattest()
        assert (await workload.row()).state is AttestationState.ALIVE

    async def test_loading_what_is_banned_revokes_the_instance_also_in_observe(self) -> None:
        for subject in ("payments", "watched"):
            house = await House.open(publish=False)
            await house.publish(1, "app", ManifestUnit(unit("lib"), package="pkg:pypi/lib@1.0"))
            workload = await house.attested("app", subject=subject)
            await house.revoke(SelectorKind.PACKAGE, "pkg:pypi/lib@1.0")
            await house.tick()
            await workload.reattest()
            error = await refused(workload, "lib")
            assert error.reason is Reason.REVOKED
            assert (await workload.row()).state is AttestationState.REVOKED
            decision = await house.look(lambda tx, found=error.decision_id: tx.decisions.get(found))
            assert (decision.verdict, decision.effect) == (Reason.BANNED, Effect.REVOKED)

    async def test_a_cut_on_another_broker_during_the_call_ends_it_with_its_leases(self) -> None:
        house = await House.open()
        workload = await house.attested()
        lease = (await workload.issue("db")).lease
        here = house.verifier
        await house.start()

        async def meanwhile() -> None:
            # Enumerated and closed before the reattest commits: nobody will look for it again.
            await house.revoke(SelectorKind.DIGEST, unit("new").digest.hex(), ban=False)
            await house.tick()

        await house.publish(2, "app", "lib", "new")
        house.clock.advance(20)  # until the other broker reads its manifests anew
        order = workload.later("new")
        house.state.before_write(1, meanwhile)
        with pytest.raises(Denied) as caught:
            await here.reattest(order, house.proof(workload.thumbprint))
        assert caught.value.reason is Reason.REVOKED
        assert (await workload.row()).state is AttestationState.REVOKED
        assert (await house.lease(lease.id)).state is LeaseState.REVOKING
        # Whoever holds its tokens offline is told by name: the expansion was over before.
        last = (await house.log())[-1].body
        assert (last.selector, last.cut, last.ban) == (
            Selector(SelectorKind.ATTESTATION, workload.id),
            True,
            False,
        )
        await house.feed.catch_up()
        await house.tick()
        assert house.db.living == {}

    async def test_a_ban_that_is_no_cut_refuses_and_ends_nothing(self) -> None:
        house = await House.open()
        workload = await house.attested(place=InstanceClaims(pod_uid="pod-1"))
        sibling = await house.attested(place=InstanceClaims(pod_uid="pod-1"))
        api = await sibling.issue("api")
        here = house.verifier
        await house.start()
        house.state.before_write(1, lambda: house.revoke(SelectorKind.ATTESTATION, workload.id))
        order = sibling.later()
        with pytest.raises(Denied) as caught:
            await here.reattest(order, house.proof(sibling.thumbprint))
        assert caught.value.reason is Reason.BANNED
        assert (await sibling.row()).state is AttestationState.ALIVE
        assert await sibling.good(api)

    async def test_as_of_never_goes_back(self) -> None:
        house = await House.open()
        workload = await house.attested()
        before = (await workload.row()).as_of
        await house.revoke(SelectorKind.NODE, "elsewhere")
        await workload.reattest()
        middle = (await workload.row()).as_of
        await house.start()
        await workload.reattest()
        assert before < middle <= (await workload.row()).as_of


async def test_a_layer_that_is_replaced_does_not_stop_what_runs_on_the_old_one() -> None:
    house = await House.open(publish=False)
    await house.publish(1, "libc 1", application="base")
    await house.publish(1, "app", includes=["base"])
    workload = await house.attested("app", "libc 1")
    old = await house.publisher.get(None, "base", 1)
    await house.publish(2, "libc 2", application="base")
    await house.publisher.retire(old.manifest.digest, "operator:ann", "patched", "")
    with pytest.raises(Denied):
        await house.workload().attest("app", "libc 1")
    assert (await workload.reattest()).status is Status.AFFIRMING
    await house.publisher.withdraw(old.manifest.digest, "operator:ann", "flawed", "")
    assert (await refused(workload)).reason is Reason.REVOKED


async def test_nothing_outlives_a_layer_either() -> None:
    house = await House.open(publish=False)
    house.attest_limits = replace(house.attest_limits, renewal_window=0.0)
    await house.start()
    await house.publish(1, "libc", application="base", not_after=START + 60)
    await house.publish(1, "app", includes=["base"], not_after=START + DAY)
    assert (await (await house.attested("app", "libc")).row()).expires_at == START + 60
