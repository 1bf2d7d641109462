"""Publish, retire, withdraw: k of n, one content a version, never back; and explain to those whom it concerns."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from broker.crypto.dsse import DsseSealer
from broker.errors import Conflict, Denied, InvalidRequest, NotFound
from broker.model.appraisal import Status
from broker.model.attestation import AttestationState
from broker.model.caller import IdentityCaller
from broker.model.decision import Decision, DecisionKind, Effect
from broker.model.manifest import MAX_VERSION, ManifestState, ManifestUnit
from broker.model.requests import PublishAnswer
from lockstep.formats import MANIFEST_PAYLOAD_TYPE, Reason
from tests.support.house import DAY, SECOND_SIGNER, SIGNER, START, House, book
from tests.support.manifests import payload, unit

STRANGER = ed25519.Ed25519PrivateKey.generate()


async def a_house(threshold: int = 1) -> House:
    house = await House.open(publish=False)
    house.people.book = book(threshold=threshold)
    return house


async def refused(house: House, version: int, *units: str, **changes: object) -> Denied | Conflict:
    before = house.state._tables.copy()
    with pytest.raises((Denied, Conflict)) as caught:
        await house.publish(version, *units, **changes)
    assert house.state._tables.manifests == before.manifests
    found = caught.value
    assert isinstance(found, Denied | Conflict)
    await kept(house, found)
    return found


async def kept(house: House, error: Denied | Conflict) -> Decision:
    """The decision that a refusal is: durable, told to the audit, and named by the error."""
    decision = await house.look(lambda tx: tx.decisions.get(error.decision_id))
    assert isinstance(decision, Decision)
    assert decision in house.people.audit
    assert (decision.kind, decision.effect, decision.verdict, decision.actor) == (
        DecisionKind.MANIFEST,
        Effect.REFUSED,
        error.reason,
        "pipeline",
    )
    assert error.message in decision.detail
    return decision


class TestSignatures:
    async def test_one_of_one_puts_it_in_force(self) -> None:
        house = await a_house()
        answer = await house.publish(1, "app")
        assert (answer.in_force, answer.signatures_present, answer.signatures_required) == (True, 1, 1)
        decision = await house.look(lambda tx: tx.decisions.get(answer.decision_id))
        assert (decision.kind, decision.effect, decision.application) == (
            DecisionKind.MANIFEST,
            Effect.RECORDED,
            "payments",
        )
        assert decision in house.people.audit
        await house.workload().attest("app")

    async def test_two_of_two_may_sign_one_after_the_other(self) -> None:
        house = await a_house(threshold=2)
        first = await house.publish(1, "app")
        assert (first.in_force, first.signatures_present) == (False, 1)
        assert (await house.attest_refusal(house.workload(), "app")).reason is Reason.NO_MANIFEST
        second = await house.publish(1, "app", by=(SECOND_SIGNER,))
        assert (second.in_force, second.signatures_present) == (True, 2)
        assert second.record.signers == ("alice", "bob")
        await house.workload().attest("app")
        _, names = house.signers.verify(second.record.envelope, MANIFEST_PAYLOAD_TYPE)
        assert names == {"alice", "bob"}

    async def test_the_same_signer_twice_is_one(self) -> None:
        """CVE-2026-23992 and its like: a threshold met by one key."""
        house = await a_house(threshold=2)
        await house.publish(1, "app")
        again = await house.publish(1, "app", by=(SIGNER, SIGNER))
        assert (again.in_force, again.signatures_present) == (False, 1)

    async def test_a_stranger_is_nobody(self) -> None:
        house = await a_house()
        assert (await refused(house, 1, "app", by=(STRANGER,))).reason is Reason.SIGNATURE_REJECTED

    async def test_a_pinned_signer_of_another_application_is_nobody_here(self) -> None:
        house = await a_house()
        error = await refused(house, 1, "app", application="base", by=(SECOND_SIGNER,))
        assert error.reason is Reason.SIGNATURE_REJECTED
        both = await house.publish(1, "app", application="base", by=(SECOND_SIGNER, SIGNER))
        assert both.record.signers == ("alice",)

    async def test_a_strangers_signature_beside_a_good_one_counts_for_nothing(self) -> None:
        house = await a_house(threshold=2)
        content = payload([unit("app")], not_before=START - DAY, not_after=START + DAY)
        envelope = house.signers.merge(
            DsseSealer(SIGNER).seal(content, MANIFEST_PAYLOAD_TYPE),
            DsseSealer(STRANGER).seal(content, MANIFEST_PAYLOAD_TYPE),
        )
        answer = await house.publisher.publish(envelope, "pipeline")
        assert (answer.in_force, answer.signatures_present) == (False, 1)

    async def test_what_is_signed_must_be_a_manifest_of_ours(self) -> None:
        house = await a_house()
        envelope = DsseSealer(SIGNER).seal(b'{"not": "a manifest"}', MANIFEST_PAYLOAD_TYPE)
        with pytest.raises(Denied) as caught:
            await house.publisher.publish(envelope, "pipeline")
        assert caught.value.reason is Reason.MANIFEST_REJECTED
        assert (await kept(house, caught.value)).application == ""
        assert (await refused(house, 1, "app", application="unknown")).reason is Reason.NOT_ENTITLED
        error = await refused(house, 1, "app", includes=["tools"])
        assert error.reason is Reason.MANIFEST_REJECTED
        error = await refused(house, 1, "app", not_after=house.now)
        assert error.reason is Reason.MANIFEST_REJECTED
        assert (await kept(house, error)).application == "payments"

    async def test_an_application_has_one_source(self) -> None:
        """What lies in a signed folder comes from there alone, or its index would say nothing."""
        house = await a_house()
        applications = house.people.book.applications
        folder = replace(applications["payments"], published=False)
        house.people.book = replace(house.people.book, applications={**applications, "payments": folder})
        error = await refused(house, 1, "app")
        assert error.reason is Reason.NOT_ENTITLED
        assert "signed folder" in error.message

    async def test_publishing_it_again_changes_nothing(self) -> None:
        house = await a_house()
        first = await house.publish(1, "app")
        again = await house.publish(1, "app")
        assert again.in_force
        assert again.record == first.record


class TestVersions:
    async def test_one_content_a_version(self) -> None:
        house = await a_house()
        await house.publish(1, "app")
        assert (await refused(house, 1, "other")).reason is Reason.CONFLICT

    async def test_never_back(self) -> None:
        """CVE-2022-29173: an old release with a known flaw must not return."""
        house = await a_house()
        await house.publish(5, "app 5")
        assert (await refused(house, 4, "app 4")).reason is Reason.ROLLBACK
        assert (await house.publish(6, "app 6")).in_force

    async def test_nor_by_a_proposal_that_waited(self) -> None:
        house = await a_house(threshold=2)
        await house.publish(4, "app 4")
        await house.publish(5, "app 5", by=(SIGNER, SECOND_SIGNER))
        assert (await refused(house, 4, "app 4", by=(SECOND_SIGNER,))).reason is Reason.ROLLBACK
        record = await house.publisher.get(None, "payments", 4)
        assert record.state is ManifestState.PROPOSED

    async def test_one_signer_alone_cannot_close_an_application_with_a_huge_version(self) -> None:
        house = await a_house(threshold=2)
        await house.publish(MAX_VERSION, "bogus")
        answer = await house.publish(1, "app", by=(SIGNER, SECOND_SIGNER))
        assert answer.in_force

    async def test_nor_can_whoever_ends_such_a_proposal(self) -> None:
        house = await a_house(threshold=2)
        digest = (await house.publish(MAX_VERSION, "bogus")).record.manifest.digest
        with pytest.raises(Conflict) as caught:
            await house.publisher.retire(digest, "operator:ann", "bogus", "")
        assert "withdraw" in caught.value.message
        assert (await house.publisher.get(digest, "", 0)).state is ManifestState.PROPOSED
        answer = await house.publisher.withdraw(digest, "operator:ann", "bogus", "")
        assert answer.record.state is ManifestState.WITHDRAWN
        assert (
            await refused(house, MAX_VERSION, "bogus", by=(SIGNER, SECOND_SIGNER))
        ).reason is Reason.ROLLBACK
        assert (await house.publish(1, "app", by=(SIGNER, SECOND_SIGNER))).in_force

    async def test_the_greatest_version_can_be_withdrawn(self) -> None:
        house = await a_house()
        digest = (await house.publish(MAX_VERSION, "app")).record.manifest.digest
        workload = await house.attested("app")
        await house.publisher.withdraw(digest, "operator:ann", "bad", "")
        await house.tick()
        assert (await workload.row()).state is AttestationState.REVOKED
        error = await refused(house, MAX_VERSION - 1, "older")
        assert error.reason is Reason.ROLLBACK
        assert f"version {MAX_VERSION + 1}" in error.message

    async def test_a_withdrawn_version_is_passed_for_ever(self) -> None:
        house = await a_house()
        answer = await house.publish(3, "app")
        await house.publisher.withdraw(answer.record.manifest.digest, "operator:ann", "bad", "")
        assert (await refused(house, 3, "app")).reason is Reason.ROLLBACK
        assert (await refused(house, 3, "other")).reason in (Reason.ROLLBACK, Reason.CONFLICT)
        assert (await refused(house, 2, "older")).reason is Reason.ROLLBACK
        assert (await house.publish(4, "app")).in_force

    async def test_at_once_one_wins(self) -> None:
        house = await a_house()
        results = await asyncio.gather(
            *(house.publish(1, f"app {number}") for number in range(10)), return_exceptions=True
        )
        assert sum(isinstance(item, PublishAnswer) for item in results) == 1
        assert all(isinstance(item, PublishAnswer | Conflict) for item in results)


class TestLower:
    """`min_version` has one way down: an operator's."""

    async def test_older_versions_may_come_again(self) -> None:
        house = await a_house()
        wrong = (await house.publish(20_260_101, "app")).record.manifest.digest
        assert (await refused(house, 12, "app 12")).reason is Reason.ROLLBACK
        answer = await house.publisher.lower("payments", 12, "operator:ann", "a date by mistake", "INC-1")
        assert answer.before == 20_260_101
        assert (await refused(house, 11, "app 11")).reason is Reason.ROLLBACK
        assert (await house.publish(12, "app 12")).in_force
        assert (await refused(house, 11, "app 11")).reason is Reason.ROLLBACK
        # It takes nothing out of force.
        assert (await house.publisher.get(wrong, "", 0)).state is ManifestState.IN_FORCE
        stored = await house.look(lambda tx: tx.decisions.get(answer.decision_id))
        assert stored in house.people.audit
        assert (stored.kind, stored.effect, stored.application, stored.actor, stored.ticket) == (
            DecisionKind.MANIFEST,
            Effect.RECORDED,
            "payments",
            "operator:ann",
            "INC-1",
        )

    async def test_what_was_withdrawn_stays_away(self) -> None:
        house = await a_house()
        digest = (await house.publish(3, "app")).record.manifest.digest
        await house.publisher.withdraw(digest, "operator:ann", "bad", "")
        await house.publisher.lower("payments", 1, "operator:ann", "start anew", "")
        assert (await refused(house, 3, "app")).reason is Reason.ROLLBACK
        assert (await house.publish(2, "app 2")).in_force

    async def test_down_only(self) -> None:
        house = await a_house()
        await house.publish(3, "app")
        for version in (3, 4, MAX_VERSION):
            with pytest.raises(Conflict, match="3 or later already"):
                await house.publisher.lower("payments", version, "operator:ann", "why", "")
        for version in (0, -1, MAX_VERSION + 1):
            with pytest.raises(InvalidRequest):
                await house.publisher.lower("payments", version, "operator:ann", "why", "")
        with pytest.raises(Conflict):
            await house.publisher.lower("nobody", 1, "operator:ann", "why", "")
        with pytest.raises(InvalidRequest):
            await house.publisher.lower("payments", 1, "operator:ann", "", "")


class TestRetire:
    async def test_no_new_starts_and_what_runs_goes_on(self) -> None:
        house = await a_house()
        answer = await house.publish(1, "app")
        workload = await house.attested("app")
        record, decision_id = await house.publisher.retire(
            answer.record.manifest.digest, "operator:ann", "old", "INC-1"
        )
        assert record.state is ManifestState.RETIRED
        assert (await house.attest_refusal(house.workload(), "app")).reason is Reason.NO_MANIFEST
        assert (await workload.reattest()).status is Status.AFFIRMING
        stored = await house.look(lambda tx: tx.decisions.get(decision_id))
        assert stored in house.people.audit
        assert (stored.application, stored.ticket) == ("payments", "INC-1")

    async def test_more_signatures_do_not_bring_it_back(self) -> None:
        house = await a_house()
        answer = await house.publish(1, "app")
        await house.publisher.retire(answer.record.manifest.digest, "operator:ann", "no", "")
        again = await house.publish(1, "app", by=(SECOND_SIGNER,))
        assert not again.in_force
        assert (await house.attest_refusal(house.workload(), "app")).reason is Reason.NO_MANIFEST

    async def test_what_lies_in_a_signed_folder_is_retired_there(self) -> None:
        """The folder is read again and again: here it would be in force at the next look."""
        house = await a_house()
        digest = (await house.publish(1, "app")).record.manifest.digest
        applications = house.people.book.applications
        folder = replace(applications["payments"], published=False)
        house.people.book = replace(house.people.book, applications={**applications, "payments": folder})
        with pytest.raises(Conflict) as caught:
            await house.publisher.retire(digest, "operator:ann", "old", "")
        assert "index" in caught.value.message
        assert (await house.publisher.get(digest, "", 0)).state is ManifestState.IN_FORCE
        await house.publisher.withdraw(digest, "operator:ann", "bad", "")

    async def test_what_is_unknown_or_withdrawn_cannot_be_retired(self) -> None:
        house = await a_house()
        with pytest.raises(NotFound):
            await house.publisher.retire(b"d" * 32, "operator:ann", "no", "")
        answer = await house.publish(1, "app")
        digest = answer.record.manifest.digest
        await house.publisher.withdraw(digest, "operator:ann", "bad", "")
        with pytest.raises(NotFound):
            await house.publisher.retire(digest, "operator:ann", "no", "")


class TestWithdraw:
    async def test_what_runs_under_it_is_revoked_also_where_it_is_a_layer(self) -> None:
        house = await a_house()
        base = await house.publish(1, "libc", application="base")
        await house.publish(1, "app", includes=["base"])
        workload = await house.attested("app", "libc")
        api = await workload.issue()
        answer = await house.publisher.withdraw(
            base.record.manifest.digest, "operator:ann", "a flaw", "INC-1"
        )
        assert answer.attestations == 1
        assert answer.record.state is ManifestState.WITHDRAWN
        assert not await workload.good(api)
        await house.tick()
        assert (await workload.row()).state is AttestationState.REVOKED
        await house.tick(9)
        assert await house.settled(answer.revocation_id)

    async def test_once(self) -> None:
        house = await a_house()
        digest = (await house.publish(1, "app")).record.manifest.digest
        await house.publisher.withdraw(digest, "operator:ann", "bad", "")
        with pytest.raises(Conflict):
            await house.publisher.withdraw(digest, "operator:ann", "bad", "")
        assert len(await house.log()) == 1
        with pytest.raises(NotFound):
            await house.publisher.withdraw(b"d" * 32, "operator:ann", "bad", "")

    async def test_lifting_it_brings_nothing_back_into_force(self) -> None:
        house = await a_house()
        digest = (await house.publish(1, "app")).record.manifest.digest
        answer = await house.publisher.withdraw(digest, "operator:ann", "bad", "")
        await house.lift(answer.revocation_id)
        assert (await house.attest_refusal(house.workload(), "app")).reason is Reason.NO_MANIFEST


class TestLooking:
    async def test_by_digest_by_version_and_the_newest_in_force(self) -> None:
        house = await a_house()
        first = (await house.publish(1, "app 1")).record
        second = (await house.publish(2, "app 2")).record
        assert await house.publisher.get(first.manifest.digest, "", 0) == first
        assert await house.publisher.get(None, "payments", 1) == first
        assert await house.publisher.get(None, "payments", 0) == second
        await house.publisher.retire(second.manifest.digest, "operator:ann", "old", "")
        assert await house.publisher.get(None, "payments", 0) == first
        assert [item.manifest.version async for item in house.publisher.list("payments", False)] == [1]
        assert [item.manifest.version async for item in house.publisher.list("", True)] == [2, 1]
        with pytest.raises(NotFound):
            await house.publisher.get(None, "payments", 9)


class TestExplain:
    async def test_a_refused_identity_learns_which_unit_and_from_which_package(self) -> None:
        house = await a_house()
        evil = ManifestUnit(unit("left-pad"), package="pkg:npm/left-pad@1.0")
        await house.publish(1, evil, application="base")
        await house.publish(1, "app")
        workload = house.workload()
        error = await house.attest_refusal(workload, "app", "left-pad")
        found = await house.explainer.explain(IdentityCaller(workload.identity), error.decision_id, True)
        assert [item.digest for item in found.decision.findings] == [unit("left-pad").digest]
        assert found.nearest == ("pkg:npm/left-pad@1.0",)
        assert found.code_set is not None
        assert found.code_set.units == {unit("app"), unit("left-pad")}
        without = await house.explainer.explain(IdentityCaller(workload.identity), error.decision_id, False)
        assert without.code_set is None

    async def test_to_others_it_does_not_exist(self) -> None:
        house = await House.open()
        workload = house.workload()
        error = await house.attest_refusal(workload, "evil")
        stranger = house.workload("stranger")
        twin = replace(workload, number=99, issuer="https://elsewhere.example")
        watched = await house.attested(subject="watched")
        callers = (
            IdentityCaller(stranger.identity),
            IdentityCaller(twin.identity),
            watched.caller(),
            house.operator("read"),
        )
        for caller in callers:
            with pytest.raises(NotFound):
                await house.explainer.explain(caller, error.decision_id, True)
        for caller in (*callers, house.operator("explain")):
            with pytest.raises(NotFound):
                await house.explainer.explain(caller, "D-unknown", True)
        await house.explainer.explain(house.operator("explain"), error.decision_id, True)

    async def test_everybody_who_was_hit_may_ask_and_only_with_its_own_key(self) -> None:
        house = await House.open()
        hit = [await house.attested(subject="watched") for _ in range(2)]
        for workload in hit:
            workload.process = replace(workload.process, node="node-1")
            await workload.attest("app")
        answer = await house.report(node="node-1")
        for workload in hit:
            await house.explainer.explain(workload.caller(), answer.decision_id, False)
        stolen = replace(hit[0].caller(), proof=house.proof(house.workload().thumbprint))
        with pytest.raises(NotFound):
            await house.explainer.explain(stolen, answer.decision_id, False)

    async def test_whatever_a_decision_made_is_explained_by_its_own_id(self) -> None:
        house = await House.open()
        workload = await house.attested()
        lease = (await workload.issue()).lease
        report = await workload.report_self()
        ids = {
            lease.attestation_id: DecisionKind.ATTEST,
            lease.id: DecisionKind.ISSUE,
            lease.handle: DecisionKind.ISSUE,
            report.detection_id: DecisionKind.DETECTION,
            (await house.only_revocation()).id: DecisionKind.DETECTION,
        }
        for asked, kind in ids.items():
            found = await house.explainer.explain(house.operator("explain"), asked, False)
            assert found.decision.kind is kind, asked
            with pytest.raises(NotFound):
                await house.explainer.explain(house.operator("read"), asked, False)
        for unknown in ("A-unknown", "L-unknown", "R-unknown", "T-unknown", "V-unknown", "X-1", ""):
            with pytest.raises(NotFound):
                await house.explainer.explain(house.operator("explain"), unknown, False)

    async def test_a_decision_of_no_identity_is_nobodys(self) -> None:
        house = await House.open()
        answer = await house.report(attestation="A-unknown")
        anonymous = replace(house.workload().identity, issuer=None, subject="")
        with pytest.raises(NotFound):
            await house.explainer.explain(IdentityCaller(anonymous), answer.decision_id, False)
