"""A report after a reload: whoever holds credentials of a role can be revoked, whatever became of the role."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from broker.model.attestation import AttestationState
from broker.model.decision import Effect
from broker.model.detection import DetectionKind, DetectionState
from broker.model.identity import IdentityMatch
from broker.model.revocation import SelectorKind
from broker.model.role import AfterRevocation, Mode, Role
from lockstep.formats import Reason
from tests.support.house import House, Workload, book, policy, role

OTHER = role("other", identity=IdentityMatch("oidc", subject="someone"))
RELOADS: dict[str, Callable[[Role], tuple[Role, ...]]] = {
    "removed": lambda before: (OTHER,),
    "another application": lambda before: (replace(before, manifests=("base",)),),
    "another identity": lambda before: (replace(before, identity=OTHER.identity),),
    "renamed": lambda before: (replace(before, name="api-2", manifests=("base",)),),
    "one of two": lambda before: (OTHER, role("tools", mode=Mode.OBSERVE)),
}


async def granted(before: Role) -> tuple[House, Workload]:
    house = await House.open(before, role("tools", mode=Mode.OBSERVE))
    await house.state.transact(lambda tx: tx.roles.record(before, house.now))
    return house, await house.attested()


def reload(house: House, how: str) -> None:
    before = house.people.book.roles["api"]
    house.people.book = book(*RELOADS[how](before))


def recorded(name: str, **changes: object) -> Role:
    """A role with as much of its text as is read again."""
    found = role(name, **changes)
    return replace(found, text=json.dumps({"after_revocation": found.after_revocation.value}))


@pytest.mark.parametrize("how", RELOADS)
async def test_a_credential_of_a_role_that_is_gone_dies_with_the_next_report(how: str) -> None:
    house, workload = await granted(recorded("api"))
    api = await workload.issue()
    reload(house, how)
    answer = await house.report(attestation=workload.id)
    assert answer.state is DetectionState.APPLIED
    assert not await workload.good(api)
    assert (await workload.row()).state is AttestationState.REVOKED
    decision = await house.look(lambda tx: tx.decisions.get(answer.decision_id))
    lease = await house.lease(api.lease.id)
    assert (decision.role, decision.role_version) == ("api", lease.role_version)
    assert (decision.effect, decision.mode, decision.application) == (
        Effect.REVOKED,
        Mode.ENFORCE,
        "payments",
    )


@pytest.mark.parametrize("how", RELOADS)
async def test_also_by_the_hook_of_the_workload_itself(how: str) -> None:
    house, workload = await granted(recorded("api"))
    api = await workload.issue()
    reload(house, how)
    assert (await workload.report_self()).state is DetectionState.APPLIED
    assert not await workload.good(api)


async def test_the_mode_of_the_lease_counts_and_not_that_of_any_role_of_today() -> None:
    house, workload = await granted(recorded("api", mode=Mode.OBSERVE))
    api = await workload.issue()
    house.people.book = book(OTHER)
    assert (await house.report(attestation=workload.id)).state is DetectionState.OBSERVED
    assert await workload.good(api)


async def test_what_its_manifest_approved_is_no_violation_later() -> None:
    house, workload = await granted(recorded("api"))
    api = await workload.issue()
    house.people.book = book(OTHER)
    answer = await house.report(attestation=workload.id, code="lib", kind=DetectionKind.MODULE)
    assert (answer.state, answer.reason) == (DetectionState.UNRELATED, "approved by the manifest")
    assert await workload.good(api)


@pytest.mark.parametrize("after", AfterRevocation)
async def test_the_version_that_was_granted_says_what_follows(after: AfterRevocation) -> None:
    before = recorded("api", after_revocation=after)
    house, workload = await granted(before)
    await workload.issue()
    house.people.book = book(OTHER)
    await house.report(attestation=workload.id)
    kinds = {entry.body.selector.kind for entry in await house.log()}
    assert (SelectorKind.IDENTITY in kinds) is (after is AfterRevocation.HOLD)


async def test_without_a_credential_what_admitted_it_counts() -> None:
    house, workload = await granted(recorded("api"))
    house.people.book = book(OTHER)
    assert (await house.report(attestation=workload.id)).state is DetectionState.APPLIED
    house.people.book = book(recorded("api"))
    assert (await house.issue_refusal(workload)).reason is Reason.REVOKED


async def test_a_credential_that_has_ended_says_nothing_any_more() -> None:
    house, workload = await granted(recorded("api"))
    api = await workload.issue()
    await house.issuer.give_back(workload.caller(), api.lease.id)
    house.people.book = book(role("tools", mode=Mode.OBSERVE))
    assert (await house.report(attestation=workload.id)).state is DetectionState.OBSERVED


async def test_a_detector_of_other_roles_may_speak_of_it_no_more_than_before() -> None:
    house, workload = await granted(recorded("api"))
    await workload.issue()
    house.people.book = book(OTHER)
    answer = await house.report(detector=policy(roles=("tools",)), attestation=workload.id)
    assert answer.state is DetectionState.REJECTED
    answer = await house.report(detector=policy(roles=("api",)), attestation=workload.id)
    assert answer.state is DetectionState.APPLIED
