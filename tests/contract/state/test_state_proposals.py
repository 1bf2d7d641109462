"""Contract: revocations that take more than one operator."""

from __future__ import annotations

from dataclasses import replace

from broker.model.proposal import PreviewInstance, ProposalState
from broker.ports import StateStore
from tests.contract.state.calls import Call
from tests.contract.state.nouns import NOW, proposal


async def test_a_proposal_comes_back_as_it_was_without_what_is_only_shown(state: StateStore) -> None:
    call = Call(state)
    found = proposal(until=None)
    shown = replace(found.preview, instances=(PreviewInstance("att-000001", "x", ("shop",), 1),))
    await call.proposals.put(replace(found, preview=shown))
    assert await call.proposals.get(found.id) == found
    assert await call.proposals.get("never") is None


async def test_what_becomes_of_it_takes_its_place(state: StateStore) -> None:
    call = Call(state)
    await call.proposals.put(proposal())
    done = proposal(state=ProposalState.CONFIRMED, ended_by="operator:b:y", grown=False)
    await call.proposals.put(done)
    assert await call.proposals.get(done.id) == done
    assert await call.proposals.page(10) == [done]


async def test_pages_and_how_many_wait(state: StateStore) -> None:
    call = Call(state)
    states = [ProposalState.OPEN, ProposalState.WITHDRAWN, ProposalState.OPEN, ProposalState.CONFIRMED]
    for number, item in enumerate(states, 1):
        await call.proposals.put(proposal(number, state=item))
    assert [item.id for item in await call.proposals.page(2)] == ["rev-000001", "rev-000002"]
    assert [item.id for item in await call.proposals.page(9, "rev-000002")] == ["rev-000003", "rev-000004"]
    # They end one second after the other.
    assert await call.proposals.waiting(NOW) == 2
    assert await call.proposals.waiting(NOW + 1) == 1
    assert await call.proposals.waiting(NOW + 3) == 0
