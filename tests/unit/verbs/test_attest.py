"""Attest: who passes, who does not, what is stored of either, and that a nonce counts once."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from broker.errors import Denied, InvalidRequest, LimitExceeded, Unauthenticated, Unavailable
from broker.model.appraisal import Status
from broker.model.attestation import AttestationState
from broker.model.decision import DecisionKind, Effect
from broker.model.evidence import AnonymousCode, Assurance, ProcessRef, UnknownCode
from broker.model.identity import IdentityMatch, InstanceClaims, JwtProof
from broker.model.manifest import ManifestUnit
from broker.model.requests import AttestAnswer
from broker.model.revocation import SelectorKind, process_value
from broker.model.role import Mode, OnSilence, Rate, Silence
from lockstep.formats import FindingReason, Reason, UnitKind
from tests.support.house import APPROVED, DAY, START, House, Workload, role
from tests.support.manifests import unit


async def refused(house: House, workload: Workload, *units: str, **changes: object) -> Denied:
    """The refusal of an attestation; nothing may be left of it but its decision."""
    before = await house.look(lambda tx: tx.attestations.count_alive())
    with pytest.raises(Denied) as caught:
        await workload.attest(*units, **changes)
    assert await house.look(lambda tx: tx.attestations.count_alive()) == before
    return caught.value


class TestWhoPasses:
    async def test_approved_code_is_affirmed_for_every_role_of_the_identity(self) -> None:
        house = await House.open()
        workload = house.workload()
        answer = await workload.attest("app", "lib")
        assert answer.status is Status.AFFIRMING
        assert {(item.role, item.granted, item.reason) for item in answer.roles} == {
            ("api", True, Reason.OK),
            ("db", True, Reason.OK),
        }
        row = await workload.row()
        assert row.state is AttestationState.ALIVE
        assert row.expires_at == house.now + 300
        assert row.manifest_digests()
        assert row.as_of == house.feed.denials.seq

    async def test_a_part_of_what_is_approved_is_enough(self) -> None:
        house = await House.open()
        answer = await house.workload().attest("app")
        assert answer.status is Status.AFFIRMING

    async def test_a_required_unit_must_run(self) -> None:
        house = await House.open(publish=False)
        await house.publish(1, "app", ManifestUnit(unit("guard"), required=True))
        error = await refused(house, house.workload(), "app")
        assert error.reason is Reason.APPRAISAL_FAILED
        assert (await house.workload().attest("app", "guard")).status is Status.AFFIRMING

    async def test_the_same_bytes_as_another_kind_of_code_are_not_approved(self) -> None:
        house = await House.open()
        workload = house.workload()
        code = replace(workload.evidence("app"), units=frozenset({unit("app", UnitKind.EXECUTABLE)}))
        error = await refused(house, workload, evidence=(code,))
        assert error.reason is Reason.APPRAISAL_FAILED

    async def test_only_the_roles_that_were_asked_for_are_judged(self) -> None:
        house = await House.open()
        answer = await house.workload().attest("app", roles=("db", "db"))
        assert [item.role for item in answer.roles] == ["db"]

    async def test_an_attestation_ends_with_the_identity_that_it_rests_on(self) -> None:
        house = await House.open()
        workload = house.workload(not_after=house.now + 20)
        assert (await workload.attest("app")).expires_at == house.now + 20

    async def test_silence_is_the_strictest_of_what_was_granted(self) -> None:
        quick = Silence(5.0, OnSilence.EXIT)
        house = await House.open(
            role("api"),
            role("quick", silence=quick),
            role(
                "strong", silence=Silence(1.0), assurance=Assurance.WITNESSED, ttl={Assurance.WITNESSED: 9.0}
            ),
        )
        assert (await house.workload().attest("app")).silence == quick


class TestWhoDoesNot:
    async def test_unapproved_code_is_refused_with_a_count_and_a_decision_that_names_it(self) -> None:
        house = await House.open()
        error = await refused(house, house.workload(), "app", "evil", "worse")
        assert (error.reason, error.count) == (Reason.APPRAISAL_FAILED, 2)
        found = [item for item in await house.decisions() if item.id == error.decision_id]
        assert len(found) == 1
        assert found[0].effect is Effect.REFUSED
        assert {(item.reason, item.digest) for item in found[0].findings} == {
            (FindingReason.UNIT_NOT_APPROVED, unit("evil").digest),
            (FindingReason.UNIT_NOT_APPROVED, unit("worse").digest),
        }
        assert "evil" not in error.message
        assert [item.id for item in house.people.audit if item.role] == [
            item.id for item in await house.decisions() if item.role
        ]

    @pytest.mark.parametrize(
        "what",
        [
            {"anonymous": (AnonymousCode(4096, "rwxp", False, ""),)},
            {"anonymous": (AnonymousCode(4096, "r-xp", True, "/memfd:x (deleted)"),)},
            {"unknown": (UnknownCode(None, "builtins.exec", "no file"),)},
        ],
    )
    async def test_code_without_a_digest_is_refused_unless_it_is_permitted(
        self, what: dict[str, object]
    ) -> None:
        house = await House.open()
        workload = house.workload()
        error = await refused(house, workload, evidence=(workload.evidence("app", **what),))
        assert error.reason is Reason.APPRAISAL_FAILED

    async def test_without_a_manifest_nothing_passes(self) -> None:
        house = await House.open(publish=False)
        assert (await refused(house, house.workload(), "app")).reason is Reason.NO_MANIFEST

    async def test_a_proposed_manifest_is_no_manifest(self) -> None:
        house = await House.open(publish=False)
        house.people.book = replace(
            house.people.book,
            applications={
                **house.people.book.applications,
                "payments": replace(house.people.book.applications["payments"], threshold=2),
            },
        )
        await house.publish(1, *APPROVED)
        assert (await refused(house, house.workload(), "app")).reason is Reason.NO_MANIFEST

    async def test_a_mixture_of_two_releases_never_passes(self) -> None:
        house = await House.open(publish=False)
        await house.publish(1, "app 1", "lib 1")
        await house.publish(2, "app 2", "lib 2")
        for units in (("app 1", "lib 2"), ("app 2", "lib 1"), ("app 1", "lib 1", "app 2", "lib 2")):
            error = await refused(house, house.workload(), *units)
            assert error.reason is Reason.APPRAISAL_FAILED
        assert (await house.workload().attest("app 1", "lib 1")).status is Status.AFFIRMING
        assert (await house.workload().attest("app 2", "lib 2")).status is Status.AFFIRMING

    async def test_evidence_items_are_one_set_so_that_neither_release_covers_what_two_items_show(
        self,
    ) -> None:
        house = await House.open(publish=False)
        await house.publish(1, "app 1")
        await house.publish(2, "app 2")
        workload = house.workload()
        error = await refused(
            house, workload, evidence=(workload.evidence("app 1"), workload.evidence("app 2"))
        )
        assert error.reason is Reason.APPRAISAL_FAILED

    async def test_a_retired_manifest_admits_no_new_start(self) -> None:
        house = await House.open()
        record = await house.publisher.get(None, "payments", 1)
        await house.publisher.retire(record.manifest.digest, "operator:ann", "old", "")
        assert (await refused(house, house.workload(), "app")).reason is Reason.NO_MANIFEST

    @pytest.mark.parametrize(
        ("window", "passes"),
        [
            ({"not_before": START - DAY, "not_after": START}, False),
            ({"not_before": START - DAY, "not_after": START + 1}, True),
            ({"not_before": START, "not_after": START + DAY}, True),
            ({"not_before": START + 1, "not_after": START + DAY}, False),
        ],
    )
    async def test_the_window_of_a_manifest_begins_and_ends_to_the_second(
        self, window: dict[str, float], passes: bool
    ) -> None:
        house = await House.open(publish=False)
        house.clock._now = START - 1
        await house.publish(1, "app", **window)
        house.clock.advance(1)
        if passes:
            assert (await house.workload().attest("app")).status is Status.AFFIRMING
        else:
            assert (await refused(house, house.workload(), "app")).reason is Reason.NO_MANIFEST

    async def test_who_is_no_role_is_not_entitled(self) -> None:
        house = await House.open()
        assert (await refused(house, house.workload("stranger"), "app")).reason is Reason.NOT_ENTITLED

    @pytest.mark.parametrize("name", ["watched", "API", " api", "api ", "ａpi", "nobody"])
    async def test_a_role_of_another_or_that_only_looks_like_one_is_not_entitled(self, name: str) -> None:
        house = await House.open()
        error = await refused(house, house.workload(), "app", roles=("api", name))
        assert error.reason is Reason.NOT_ENTITLED

    async def test_evidence_too_weak_for_the_role_is_refused_even_where_it_only_observes(self) -> None:
        for mode in Mode:
            house = await House.open(role("api", mode=mode, assurance=Assurance.WITNESSED))
            assert (await refused(house, house.workload(), "app")).reason is Reason.ASSURANCE_TOO_LOW

    async def test_one_role_that_admits_is_enough_and_the_others_say_why_not(self) -> None:
        house = await House.open(role("api"), role("vault", assurance=Assurance.WITNESSED))
        answer = await house.workload().attest("app")
        assert answer.attestation is not None
        assert [(item.role, item.granted, item.reason) for item in answer.roles] == [
            ("vault", False, Reason.ASSURANCE_TOO_LOW),
            ("api", True, Reason.OK),
        ]
        assert answer.decision_id == answer.roles[0].decision_id


class TestObserve:
    async def test_a_bad_verdict_is_stored_and_has_no_effect(self) -> None:
        house = await House.open()
        workload = house.workload("watched")
        answer = await workload.attest("app", "evil")
        assert answer.attestation is not None
        assert answer.status is Status.CONTRAINDICATED
        [verdict] = answer.roles
        assert (verdict.granted, verdict.reason, verdict.findings) == (True, Reason.APPRAISAL_FAILED, 1)
        [decision] = [item for item in await house.decisions() if item.kind is DecisionKind.ATTEST]
        assert (decision.verdict, decision.effect, decision.mode) == (
            Reason.APPRAISAL_FAILED,
            Effect.NONE,
            Mode.OBSERVE,
        )
        assert decision.attestation_id == workload.id

    async def test_a_good_verdict_grants(self) -> None:
        house = await House.open()
        answer = await house.workload("watched").attest("app")
        [decision] = [item for item in await house.decisions() if item.kind is DecisionKind.ATTEST]
        assert (decision.verdict, decision.effect) == (Reason.OK, Effect.GRANTED)
        assert answer.roles[0].granted

    async def test_without_a_manifest_a_role_can_still_observe(self) -> None:
        house = await House.open(publish=False)
        answer = await house.workload("watched").attest("app")
        assert (answer.roles[0].granted, answer.roles[0].reason) == (True, Reason.NO_MANIFEST)

    async def test_a_bad_identity_counts_all_the_same(self) -> None:
        house = await House.open()
        workload = house.workload("watched")
        house.identities.forget(workload.token)
        assert (await refused(house, workload, "app")).reason is Reason.IDENTITY_REJECTED


class TestNobody:
    async def test_a_token_that_proves_nobody_leaves_no_row_and_no_line_behind(self) -> None:
        house = await House.open()
        known, lines = len(await house.decisions()), len(house.people.audit)
        for _ in range(5):
            workload = house.workload()
            error = await refused(house, workload, "app", identity_proof=JwtProof("garbage"))
            assert (error.reason, error.decision_id) == (Reason.IDENTITY_REJECTED, "")
        assert (len(await house.decisions()), len(house.people.audit)) == (known, lines)

    async def test_nor_does_one_that_an_attested_instance_sends(self) -> None:
        house = await House.open()
        workload = await house.attested()
        known, lines = len(await house.decisions()), len(house.people.audit)
        with pytest.raises(Denied) as caught:
            await workload.reattest(identity_proof=JwtProof("garbage"))
        assert caught.value.reason is Reason.IDENTITY_REJECTED
        assert (len(await house.decisions()), len(house.people.audit)) == (known, lines)
        assert (await workload.row()).state is AttestationState.ALIVE

    async def test_somebody_who_is_refused_is_written_down(self) -> None:
        house = await House.open()
        error = await refused(house, house.workload("stranger"), "app")
        decision = await house.look(lambda tx: tx.decisions.get(error.decision_id))
        assert (decision.verdict, decision.effect) == (Reason.NOT_ENTITLED, Effect.REFUSED)
        assert decision in house.people.audit


class TestDryRun:
    async def test_it_says_what_would_be_and_stores_no_attestation(self) -> None:
        house = await House.open()
        workload = house.workload()
        answer = await workload.attest("app", dry_run=True)
        assert answer.attestation is None
        assert answer.roles[0].granted
        assert await house.look(lambda tx: tx.attestations.count_alive()) == 0
        decisions = [item for item in await house.decisions() if item.kind is DecisionKind.ATTEST]
        assert {(item.effect, item.attestation_id, item.detail) for item in decisions} == {
            (Effect.NONE, "", "dry run")
        }

    async def test_a_refusal_is_an_answer(self) -> None:
        house = await House.open()
        answer = await house.workload().attest("evil", dry_run=True)
        assert not any(item.granted for item in answer.roles)
        assert answer.roles[0].findings == 1

    async def test_it_spends_its_nonce(self) -> None:
        house = await House.open()
        workload = house.workload()
        nonce = workload.challenge()
        await workload.attest("app", dry_run=True, nonce=nonce)
        assert (await refused(house, workload, "app", nonce=nonce)).reason is Reason.CHALLENGE_REJECTED


class TestNonce:
    async def test_it_counts_once(self) -> None:
        house = await House.open()
        workload = house.workload()
        nonce = workload.challenge()
        await workload.attest("app", nonce=nonce)
        assert (await refused(house, workload, "app", nonce=nonce)).reason is Reason.CHALLENGE_REJECTED

    async def test_a_failure_spends_it_too_also_for_a_broker_that_starts_anew(self) -> None:
        house = await House.open()
        workload = house.workload()
        nonce = workload.challenge()
        assert (await refused(house, workload, "evil", nonce=nonce)).reason is Reason.APPRAISAL_FAILED
        await house.start()
        error = await refused(house, workload, "app", nonce=nonce)
        assert error.reason is Reason.CHALLENGE_REJECTED
        assert error.decision_id

    async def test_a_rejected_identity_spends_it_everywhere(self) -> None:
        house = await House.open()
        workload = house.workload()
        nonce = workload.challenge()
        house.identities.forget(workload.token)
        await refused(house, workload, "app", nonce=nonce)
        workload.know()
        await house.start()
        assert (await refused(house, workload, "app", nonce=nonce)).reason is Reason.CHALLENGE_REJECTED

    async def test_of_fifty_at_once_exactly_one_wins(self) -> None:
        house = await House.open()
        workload = house.workload()
        nonce = workload.challenge()
        orders = [workload.order("app", nonce=nonce) for _ in range(50)]
        results = await asyncio.gather(*(workload.send(order) for order in orders), return_exceptions=True)
        assert sum(isinstance(item, AttestAnswer) for item in results) == 1
        losers = [item for item in results if not isinstance(item, AttestAnswer)]
        assert all(isinstance(item, Denied) and item.reason is Reason.CHALLENGE_REJECTED for item in losers)
        assert await house.look(lambda tx: tx.attestations.count_alive()) == 1

    async def test_of_two_brokers_on_one_state_exactly_one_wins(self) -> None:
        house = await House.open()
        workload = house.workload()
        nonce = workload.challenge()
        first = house.verifier
        await house.start()
        order = workload.order("app", nonce=nonce)
        results = await asyncio.gather(
            first.attest(order, house.proof(workload.thumbprint)),
            house.verifier.attest(order, house.proof(workload.thumbprint)),
            return_exceptions=True,
        )
        assert sorted(type(item).__name__ for item in results) == ["AttestAnswer", "Denied"]
        assert await house.look(lambda tx: tx.attestations.count_alive()) == 1

    async def test_it_is_of_one_key(self) -> None:
        house = await House.open()
        mine, other = house.workload(), house.workload()
        error = await refused(house, mine, "app", nonce=other.challenge())
        assert error.reason is Reason.CHALLENGE_REJECTED

    async def test_it_ends(self) -> None:
        house = await House.open()
        workload = house.workload()
        nonce = workload.challenge()
        house.clock.advance(30)
        assert (await refused(house, workload, "app", nonce=nonce)).reason is Reason.CHALLENGE_REJECTED

    async def test_a_proof_by_another_key_does_not_cost_the_owner_its_nonce(self) -> None:
        house = await House.open()
        workload = house.workload()
        order = workload.order("app")
        with pytest.raises(Unauthenticated) as caught:
            await house.verifier.attest(order, house.proof(house.workload().thumbprint))
        assert caught.value.reason is Reason.PROOF_REJECTED
        assert (await workload.send(order)).attestation is not None

    async def test_there_is_a_bound_on_those_that_are_remembered(self) -> None:
        house = await House.open()
        house.attest_limits = replace(house.attest_limits, challenges_pending=3)
        await house.start()
        for _ in range(3):
            await house.workload().attest("app")
        with pytest.raises(LimitExceeded):
            await house.workload().attest("app")
        house.clock.advance(31)
        await house.workload().attest("app")


class TestBinding:
    async def test_evidence_of_another_challenge_is_refused(self) -> None:
        house = await House.open()
        workload = house.workload()
        stale = workload.order("app").evidence
        order = replace(workload.order("app"), evidence=stale)
        with pytest.raises(Denied) as caught:
            await workload.send(order)
        assert caught.value.reason is Reason.EVIDENCE_REJECTED

    async def test_evidence_of_another_key_is_refused(self) -> None:
        house = await House.open()
        mine, other = house.workload(), house.workload()
        error = await refused(house, mine, evidence=(other.evidence("app"),))
        assert error.reason is Reason.EVIDENCE_REJECTED

    @pytest.mark.parametrize(
        ("claims", "stated", "named"),
        [
            (InstanceClaims(pod_uid="pod-1"), ProcessRef(pod_uid="pod-2"), "pod"),
            (InstanceClaims(node="node-1"), ProcessRef(node="node-2"), "node"),
            (InstanceClaims(container_id="c-1"), ProcessRef(container_id="c-2"), "container"),
        ],
    )
    async def test_identity_and_evidence_may_not_name_two_places(
        self, claims: InstanceClaims, stated: ProcessRef, named: str
    ) -> None:
        house = await House.open()
        error = await refused(house, house.workload(place=claims, process=stated), "app")
        assert error.reason is Reason.EVIDENCE_REJECTED
        assert named in error.message

    async def test_no_evidence_is_refused_and_too_much_is_no_request(self) -> None:
        house = await House.open()
        workload = house.workload()
        with pytest.raises(Denied) as caught:
            await workload.send(replace(workload.order("app"), evidence=()))
        assert caught.value.reason is Reason.EVIDENCE_REJECTED
        with pytest.raises(InvalidRequest) as invalid:
            await workload.attest(evidence=(workload.evidence("app"),) * 5)
        assert invalid.value.reason is Reason.TOO_LARGE

    async def test_a_delta_is_no_first_attestation(self) -> None:
        house = await House.open()
        workload = house.workload()
        delta = workload.evidence("app", base_digest=b"b" * 32)
        assert (await refused(house, workload, evidence=(delta,))).reason is Reason.EVIDENCE_REJECTED

    async def test_the_assurance_is_that_of_the_strongest_item(self) -> None:
        house = await House.open()
        workload = house.workload()
        place = ProcessRef(node="node-1", boot_id="b", pid=7, start_ticks=9)
        strong = workload.evidence("app", level=Assurance.WITNESSED, process=place)
        answer = await workload.attest(evidence=(workload.evidence("lib"), strong))
        assert answer.assurance is Assurance.WITNESSED
        assert (await workload.row()).place == place


class TestBans:
    @pytest.mark.parametrize("ban", [True, None])
    async def test_a_banned_digest_is_refused_even_where_the_manifest_approves_it(
        self, ban: bool | None
    ) -> None:
        house = await House.open()
        made = await house.revoke(SelectorKind.DIGEST, unit("lib").digest.hex(), ban=ban)
        error = await refused(house, house.workload(), "app", "lib")
        assert error.reason is Reason.BANNED
        stored = await house.look(lambda tx: tx.decisions.get(error.decision_id))
        assert (stored.verdict, stored.effect, stored.attestation_id) == (Reason.BANNED, Effect.REFUSED, "")
        assert made.revocation_id in stored.detail
        assert stored in house.people.audit
        await house.workload().attest("app")

    async def test_a_banned_digest_counts_in_observe_and_in_a_dry_run(self) -> None:
        house = await House.open()
        await house.revoke(SelectorKind.DIGEST, unit("lib").digest.hex())
        assert (await refused(house, house.workload("watched"), "lib")).reason is Reason.BANNED
        assert (await refused(house, house.workload(), "lib", dry_run=True)).reason is Reason.BANNED

    async def test_a_banned_package_is_resolved_through_the_manifest(self) -> None:
        house = await House.open(publish=False)
        await house.publish(1, "app", ManifestUnit(unit("lib"), package="pkg:pypi/lib@1.0"))
        await house.revoke(SelectorKind.PACKAGE, "pkg:pypi/lib@1.0")
        assert (await refused(house, house.workload(), "app", "lib")).reason is Reason.BANNED
        await house.workload().attest("app")

    async def test_a_banned_identity_key_or_pod_is_refused(self) -> None:
        house = await House.open()
        place = InstanceClaims(pod_uid="pod-1")
        for kind, value in (
            (SelectorKind.IDENTITY, "https://issuer.example|payments"),
            (SelectorKind.KEY, None),
            (SelectorKind.POD, "pod-1"),
        ):
            workload = house.workload(place=place)
            made = await house.revoke(kind, value or workload.thumbprint.hex(), ban=True)
            error = await refused(house, workload, "app")
            assert error.reason is Reason.BANNED
            assert made.revocation_id in error.message  # or nobody would know what to lift
            await house.lift(made.revocation_id)
            await workload.attest("app")

    async def test_a_process_that_it_states_itself_can_only_count_against_it(self) -> None:
        house = await House.open()
        process = ProcessRef(node="n", boot_id="b", pid=1, start_ticks=2)
        await house.revoke(SelectorKind.PROCESS, process_value(process))
        assert (await refused(house, house.workload(process=process), "app")).reason is Reason.BANNED

    async def test_a_cut_identity_may_come_back(self) -> None:
        house = await House.open()
        await house.revoke(SelectorKind.IDENTITY, "https://issuer.example|payments")
        assert (await house.workload().attest("app")).attestation is not None

    async def test_a_withdrawn_manifest_admits_nobody_even_from_a_stale_memory(self) -> None:
        house = await House.open()
        await house.workload().attest("app")
        record = await house.publisher.get(None, "payments", 1)
        remembered = house.manifests._answers.get("payments")
        assert remembered is not None
        await house.publisher.withdraw(record.manifest.digest, "operator:ann", "bad", "")
        house.manifests._answers.replace("payments", remembered)
        assert (await refused(house, house.workload(), "app")).reason is Reason.NO_MANIFEST

    async def test_a_ban_ends_when_it_says(self) -> None:
        house = await House.open()
        await house.revoke(SelectorKind.DIGEST, unit("app").digest.hex(), until=house.now + 60)
        assert (await refused(house, house.workload(), "app")).reason is Reason.BANNED
        house.clock.advance(60)
        await house.workload().attest("app")


class TestMeanwhile:
    """What is revoked between the look and the commit, or between the commit and the answer."""

    async def test_a_ban_on_another_broker_before_the_commit_is_seen_at_the_fence(self) -> None:
        house = await House.open()
        here = house.verifier
        mine = house.feed
        await house.start()  # a second broker on the same state: what it revokes, the first learns by reading
        workload = house.workload()
        house.state.before_write(
            1, lambda: house.revoke(SelectorKind.KEY, workload.thumbprint.hex(), ban=True)
        )
        order = workload.order("app")
        with pytest.raises(Denied) as caught:
            await here.attest(order, house.proof(workload.thumbprint))
        assert caught.value.reason is Reason.REVOKED
        decision = await house.look(lambda tx: tx.decisions.get(caught.value.decision_id))
        assert (decision.kind, decision.effect) == (DecisionKind.ATTEST, Effect.REFUSED)
        assert decision.revocation_id == (await house.only_revocation()).id
        assert decision in house.people.audit
        assert mine.denials.seq == 1
        assert await house.look(lambda tx: tx.attestations.count_alive()) == 0

    async def test_a_digest_that_was_revoked_and_already_expanded_is_seen_at_the_fence(self) -> None:
        house = await House.open()
        here = house.verifier
        await house.start()
        workload = house.workload()

        async def meanwhile() -> None:
            await house.revoke(SelectorKind.DIGEST, unit("app").digest.hex(), ban=False)
            await house.tick()

        house.state.before_write(1, meanwhile)
        order = workload.order("app")
        with pytest.raises(Denied) as caught:
            await here.attest(order, house.proof(workload.thumbprint))
        assert caught.value.reason is Reason.REVOKED
        assert await house.look(lambda tx: tx.attestations.count_alive()) == 0

    async def test_something_that_does_not_concern_it_changes_nothing(self) -> None:
        house = await House.open()
        workload = house.workload()
        house.state.before_write(1, lambda: house.revoke(SelectorKind.NODE, "elsewhere"))
        assert (await workload.attest("app")).attestation is not None


class TestWeather:
    async def test_without_a_state_nothing_is_granted(self) -> None:
        house = await House.open()
        workload = house.workload()
        order = workload.order("app")
        house.state.down = True
        with pytest.raises(Unavailable):
            await workload.send(order)
        house.state.calm()
        assert await house.look(lambda tx: tx.attestations.count_alive()) == 0
        assert (await refused(house, workload, "app", nonce=order.nonce)).reason is Reason.CHALLENGE_REJECTED

    async def test_an_answer_that_is_lost_after_the_commit_is_no_grant(self) -> None:
        house = await House.open()
        house.state.fail_write(committed=True)
        with pytest.raises(Unavailable):
            await house.workload().attest("app")

    async def test_where_the_head_cannot_be_read_after_the_commit_there_is_no_answer(self) -> None:
        house = await House.open()
        workload = house.workload()
        order = workload.order("app")

        async def cut_off() -> None:
            house.state.reads_down = True

        house.state.before_write(1, cut_off)
        with pytest.raises(Unavailable):
            await workload.send(order)

    async def test_an_identity_source_that_is_down_is_worth_a_retry(self) -> None:
        house = await House.open()
        workload = house.workload()
        house.identities.down = True
        with pytest.raises(Unavailable) as caught:
            await workload.attest("app")
        assert caught.value.reason is Reason.IDENTITY_UNAVAILABLE
        house.identities.down = False
        await workload.attest("app")


class TestRefusedTooOften:
    async def test_after_some_refusals_nothing_is_looked_at_until_one_comes_back(self) -> None:
        house = await House.open(rates={"refused": Rate(3, 60.0), "self": Rate(9, 9), "detector": Rate(9, 9)})
        workload = house.workload()
        for _ in range(3):
            assert (await refused(house, workload, "evil")).reason is Reason.APPRAISAL_FAILED
        with pytest.raises(LimitExceeded) as caught:
            await workload.attest("evil")
        assert caught.value.retry_after is not None
        count = len(await house.decisions())
        with pytest.raises(LimitExceeded):
            await workload.attest("app")
        assert len(await house.decisions()) == count
        house.clock.advance(20)
        await workload.attest("app")

    async def test_it_is_the_instance_that_rests_where_the_identity_tells_them_apart(self) -> None:
        house = await House.open(rates={"refused": Rate(1, 60.0), "self": Rate(9, 9), "detector": Rate(9, 9)})
        bad = house.workload(place=InstanceClaims(pod_uid="pod-1"))
        good = house.workload(place=InstanceClaims(pod_uid="pod-2"))
        await refused(house, bad, "evil")
        with pytest.raises(LimitExceeded):
            await bad.attest("evil")
        await good.attest("app")


async def test_the_attestation_of_one_identity_source_says_nothing_to_roles_of_another() -> None:
    """Two trust domains with equal subjects are two identities (CVE-2025-59048 and its like)."""
    house = await House.open(role("api", identity=IdentityMatch("other", subject="payments")))
    assert (await refused(house, house.workload(), "app")).reason is Reason.NOT_ENTITLED
