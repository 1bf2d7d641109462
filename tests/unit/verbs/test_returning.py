"""What is given back or asked for again ends in the log, for verifiers of its audience; nothing else falls."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broker.api.viewing import ResourceServerView
from broker.errors import LimitExceeded, LockstepError, Unavailable
from broker.issue import IssueLimits
from broker.model.attestation import AttestationState
from broker.model.credential import LeaseState
from broker.model.decision import DecisionKind, Effect
from broker.model.identity import WorkloadIdentity
from broker.model.requests import IssueAnswer
from broker.model.revocation import EntryKind, LogEntry, Selector, SelectorKind
from broker.model.role import Revocability
from tests.support.house import DAY, START, House, Workload, role

AUDIENCE = "https://api.example"


def token_of(answer: IssueAnswer) -> Selector:
    return Selector(SelectorKind.TOKEN, answer.lease.handle)


async def seen(house: House, audience: str) -> list[str]:
    """The tokens and leases that a resource server of an audience is told of."""
    identity = WorkloadIdentity("oidc", "https://issuer.example", "shop", START + DAY)
    view = ResourceServerView(identity, frozenset({audience}), house.state)
    events = [await view.of("log", entry) for entry in await house.log()]
    return [event.selector.token_id or event.selector.lease_id for event in events if event is not None]


def one(entries: object) -> LogEntry:
    assert isinstance(entries, (list, tuple))
    [entry] = entries
    assert isinstance(entry, LogEntry)
    return entry


async def untouched(workload: Workload, *others: IssueAnswer) -> None:
    """The instance lives, may have more, and its other credentials are good."""
    assert (await workload.row()).state is AttestationState.ALIVE
    for answer in others:
        assert await workload.good(answer)
    await workload.reattest()
    assert await workload.good(await workload.issue())


class TestGivenBack:
    async def test_its_token_is_cut_for_its_audience_and_nothing_else_falls(self) -> None:
        house = await House.open()
        workload, sibling = await house.attested(), await house.attested()
        given, kept, siblings = await workload.issue(), await workload.issue(), await sibling.issue()
        await house.issuer.give_back(workload.caller(), given.lease.id)
        entry = one(await house.log())
        assert (entry.body.kind, entry.body.selector) == (EntryKind.REVOKED, token_of(given))
        assert (entry.body.cut, entry.body.ban, entry.body.audience) == (True, False, AUDIENCE)
        assert await seen(house, AUDIENCE) == [given.lease.handle]
        assert await seen(house, "https://other.example") == []
        assert house.feed.denials.seq == entry.seq  # watchers were told
        await untouched(workload, kept)
        await untouched(sibling, siblings)

    async def test_it_is_a_decision_with_a_receipt(self) -> None:
        house = await House.open()
        workload = await house.attested()
        answer = await workload.issue()
        await house.issuer.give_back(workload.caller(), answer.lease.id)
        revocation = await house.only_revocation()
        decision = await house.look(lambda tx: tx.decisions.get(revocation.decision_id))
        assert (decision.kind, decision.effect) == (DecisionKind.REVOKE, Effect.REVOKED)
        assert (decision.actor, decision.identity) == (answer.lease.identity, answer.lease.identity)
        assert decision in house.people.audit
        await house.tick()
        await house.tick(9)
        assert await house.settled(revocation.id)

    async def test_twice_is_once(self) -> None:
        house = await House.open()
        workload = await house.attested()
        answer = await workload.issue()
        for _ in range(2):
            await house.issuer.give_back(workload.caller(), answer.lease.id)
        await house.tick()
        await house.issuer.give_back(workload.caller(), answer.lease.id)
        one(await house.log())

    async def test_who_may_not_writes_nothing(self) -> None:
        house = await House.open()
        mine, other = await house.attested(), await house.attested()
        answer = await mine.issue()
        with pytest.raises(LockstepError):
            await house.issuer.give_back(other.caller(), answer.lease.id)
        caller = mine.caller()
        assert await house.log() == []
        await house.issuer.give_back(caller, answer.lease.id)
        with pytest.raises(LockstepError):
            await house.issuer.give_back(caller, answer.lease.id)
        one(await house.log())

    async def test_by_an_operator_it_names_the_lease_so_that_its_holder_hears_of_it(self) -> None:
        house = await House.open()
        workload = await house.attested()
        answer = await workload.issue()
        await house.issuer.give_back(house.operator("revoke:lease"), answer.lease.id)
        entry = one(await house.log())
        assert entry.body.selector == Selector(SelectorKind.LEASE, answer.lease.id)
        assert entry.body.actor.startswith("operator:ann")
        assert await seen(house, AUDIENCE) == [answer.lease.id]

    @pytest.mark.parametrize("name", ["api", "db"])
    async def test_by_an_operator_it_is_a_decision_with_a_receipt_whatever_made_it(self, name: str) -> None:
        house = await House.open()
        workload = await house.attested()
        answer, kept = await workload.issue(name), await workload.issue()
        before = len(house.people.audit)
        ended = await house.issuer.give_back(house.operator("revoke:lease"), answer.lease.id)
        assert ended.state is LeaseState.REVOKING
        revocation = await house.only_revocation()
        decision = await house.look(lambda tx: tx.decisions.get(revocation.decision_id))
        assert (decision.kind, decision.effect) == (DecisionKind.REVOKE, Effect.REVOKED)
        assert decision.actor == revocation.actor == house.operator().actor
        assert house.people.audit[before:] == [decision]
        assert one(await house.log()).body.selector == Selector(SelectorKind.LEASE, answer.lease.id)
        await house.tick()
        await house.tick(9)
        assert await house.settled(revocation.id)
        assert house.db.living == {}
        await untouched(workload, kept)

    @pytest.mark.parametrize("name", ["api", "db"])
    async def test_by_an_operator_who_comes_too_late_it_is_on_record(self, name: str) -> None:
        house = await House.open()
        workload = await house.attested()
        answer = await workload.issue(name)
        caller = house.operator("revoke:lease")
        await house.issuer.give_back(caller, answer.lease.id)
        again = await house.issuer.give_back(caller, answer.lease.id)
        assert again.state is LeaseState.REVOKING
        await house.tick()
        await house.issuer.give_back(caller, answer.lease.id)
        first, second, third = [item for item in await house.decisions() if item.actor == caller.actor]
        assert [item.effect for item in (first, second, third)] == [Effect.REVOKED, *[Effect.RECORDED] * 2]
        assert [first, second, third] == house.people.audit[-3:]
        assert second.detail == f"lease:{answer.lease.id}: it was revoking before"
        assert third.detail == f"lease:{answer.lease.id}: it was revoked before"
        one(await house.log())

    async def test_what_only_a_target_checks_needs_no_entry(self) -> None:
        house = await House.open()
        workload = await house.attested()
        answer = await workload.issue("db")
        await house.issuer.give_back(workload.caller(), answer.lease.id)
        assert await house.log() == []
        await house.tick()
        assert house.db.living == {}

    async def test_what_an_outside_makes_for_an_audience_needs_one(self) -> None:
        there = {"backend": "db", "revocability": Revocability.AT_TARGET, "parameters": {"audience": "shop"}}
        house = await House.open(role("api"), role("shop", **there))
        workload = await house.attested()
        answer = await workload.issue("shop")
        await house.issuer.give_back(workload.caller(), answer.lease.id)
        assert one(await house.log()).body.selector == token_of(answer)
        assert await seen(house, "shop") == [answer.lease.handle]

    async def test_a_backend_that_is_gone_is_no_excuse(self) -> None:
        house = await House.open()
        workload = await house.attested()
        answer = await workload.issue()
        house.backends.pop("tokens")
        await house.issuer.give_back(workload.caller(), answer.lease.id)
        assert one(await house.log()).body.selector == token_of(answer)

    async def test_a_write_that_fails_changes_nothing(self) -> None:
        house = await House.open()
        workload = await house.attested()
        answer = await workload.issue()
        house.state.fail_write()
        with pytest.raises(Unavailable):
            await house.issuer.give_back(workload.caller(), answer.lease.id)
        assert await house.log() == []
        assert await workload.good(answer)

    async def test_an_answer_that_is_lost_after_the_commit_is_told_all_the_same(self) -> None:
        house = await House.open()
        workload = await house.attested()
        answer = await workload.issue()
        house.state.fail_write(committed=True)
        with pytest.raises(Unavailable):
            await house.issuer.give_back(workload.caller(), answer.lease.id)
        house.state.calm()
        assert not await workload.good(answer)
        await house.feed.catch_up()
        assert house.feed.denials.seq == one(await house.log()).seq


class TestAskedForAgain:
    async def test_the_first_token_is_cut_and_the_second_is_good(self) -> None:
        house = await House.open()
        workload = await house.attested()
        kept = await workload.issue()
        first = await workload.issue(request="again")
        second = await workload.issue(request="again")
        entry = one(await house.log())
        assert (entry.body.selector, entry.body.reason) == (token_of(first), "asked for again")
        assert (entry.body.cut, entry.body.ban, entry.body.audience) == (True, False, AUDIENCE)
        assert await seen(house, AUDIENCE) == [first.lease.handle]
        assert house.feed.denials.seq == entry.seq
        assert not await workload.good(first)
        await untouched(workload, second, kept)

    async def test_opened_and_cut_are_one_transaction(self) -> None:
        house = await House.open()
        workload = await house.attested()
        first = await workload.issue(request="again")
        house.state.fail_write()
        with pytest.raises(Unavailable):
            await workload.issue(request="again")
        assert await house.log() == []
        assert [lease.id for lease in await house.leases()] == [first.lease.id]
        assert await workload.good(first)
        house.state.fail_write(committed=True)
        with pytest.raises(Unavailable):
            await workload.issue(request="again")
        house.state.calm()
        one(await house.log())
        assert len(await house.leases(LeaseState.ACTIVE)) == 1
        assert not await workload.good(first)

    async def test_the_first_time_writes_no_entry_and_no_more_transactions(self) -> None:
        house = await House.open()
        workload = await house.attested()
        before = house.state.writes
        await workload.issue()
        assert house.state.writes == before + 1
        assert await house.log() == []

    async def test_a_first_one_that_has_ended_is_not_cut_again(self) -> None:
        house = await House.open()
        workload = await house.attested()
        first = await workload.issue(request="again")
        await house.issuer.give_back(workload.caller(), first.lease.id)
        await workload.issue(request="again")
        assert one(await house.log()).body.selector == token_of(first)

    async def test_no_room_for_the_second_ends_the_first_and_tells(self) -> None:
        house = await House.open(issue_limits=IssueLimits(leases=1))
        workload = await house.attested()
        first = await workload.issue(request="again")
        with pytest.raises(LimitExceeded):
            await workload.issue(request="again")
        assert house.feed.denials.seq == one(await house.log()).seq
        assert not await workload.good(first)

    async def test_where_the_role_has_moved_to_another_backend(self) -> None:
        house = await House.open()
        workload = await house.attested()
        first = await workload.issue(request="again")
        book = house.people.book
        moved = role("api", backend="db", revocability=Revocability.AT_TARGET, parameters={})
        house.people.book = replace(book, roles={**book.roles, "api": moved})
        await workload.issue(request="again")
        assert one(await house.log()).body.selector == token_of(first)
        assert await seen(house, AUDIENCE) == [first.lease.handle]
