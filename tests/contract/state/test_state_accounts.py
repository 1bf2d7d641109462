"""Contract: accounts at backends, found by their attestation and by when their closing is due."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broker.errors import Conflict
from broker.model.account import Account, AccountState
from broker.model.step import Step
from broker.ports import StateStore
from tests.contract.state.calls import Call
from tests.contract.state.nouns import NOW


def account(number: int = 1, **changes: object) -> Account:
    """An account with every field set."""
    found = Account(
        id=f"acc-{number:06}",
        attestation_id="att-000001",
        backend="vault",
        replica="replica-1",
        state=AccountState.OPEN,
        opened_at=NOW,
        accessor=f"accessor-{number}",
        closing_at=NOW + 1,
        closed_at=NOW + 2,
        attempts=3,
        next_attempt_at=NOW + 3,
        detail="what was found",
        steps=(Step("frozen", NOW + 1, "entity disabled"),),
    )
    return replace(found, **changes)  # type: ignore[arg-type]


def ids(found: list[Account]) -> list[str]:
    return [item.id for item in found]


async def test_comes_back_as_it_was(state: StateStore) -> None:
    call = Call(state)
    await call.accounts.add(account())
    assert await call.accounts.get("acc-000001") == account()
    assert await call.accounts.get("acc-000002") is None
    with pytest.raises(Conflict):
        await call.accounts.add(account())


async def test_replace_writes_where_the_state_is_expected(state: StateStore) -> None:
    call = Call(state)
    await call.accounts.add(account(state=AccountState.OPENING, accessor=""))
    new = Account(
        id="acc-000001",
        attestation_id="att-000001",
        backend="vault",
        replica="replica-2",
        state=AccountState.STUCK,
        opened_at=NOW + 9,
        accessor="late",
        closing_at=NOW + 8,
        closed_at=NOW + 7,
        attempts=9,
        next_attempt_at=NOW + 6,
        detail="new",
        steps=(Step("frozen", NOW), Step("cut", NOW + 1, "1 login")),
    )
    assert not await call.accounts.replace(new, AccountState.OPEN)
    assert (await call.accounts.get(new.id)).state is AccountState.OPENING
    assert await call.accounts.replace(new, AccountState.OPENING)
    assert await call.accounts.get(new.id) == new
    assert not await call.accounts.replace(account(2), AccountState.OPEN)


async def test_what_an_account_is_of_never_changes(state: StateStore) -> None:
    call = Call(state)
    await call.accounts.add(account())
    assert await call.accounts.replace(
        account(attestation_id="att-other", backend="other"), AccountState.OPEN
    )
    assert await call.accounts.get("acc-000001") == account()


async def test_closing_begins_for_what_is_open_or_opening(state: StateStore) -> None:
    call = Call(state)
    for number, where in enumerate(AccountState, 1):
        await call.accounts.add(account(number, state=where, closing_at=0.0))
    await call.accounts.add(account(9, attestation_id="att-other"))
    assert await call.accounts.begin_closing(["att-000001", "att-none"], NOW + 50) == 2
    assert await call.accounts.begin_closing(["att-000001"], NOW + 60) == 0
    found = {item.id: item for item in await call.accounts.of_attestation("att-000001")}
    assert list(found) == sorted(found)
    opening, opened, closing, closed, stuck = found.values()
    for item in (opening, opened):
        assert (item.state, item.closing_at, item.next_attempt_at) == (AccountState.CLOSING, NOW + 50, 0.0)
    assert (closing.state, closing.closing_at) == (AccountState.CLOSING, 0.0)
    assert (closed.state, stuck.state) == (AccountState.CLOSED, AccountState.STUCK)
    assert (await call.accounts.get("acc-000009")).state is AccountState.OPEN


async def test_due_is_what_is_to_be_closed_longest_due_first(state: StateStore) -> None:
    call = Call(state)
    await call.accounts.add(account(1, state=AccountState.CLOSING, next_attempt_at=NOW))
    await call.accounts.add(account(2, state=AccountState.STUCK, next_attempt_at=NOW - 1))
    await call.accounts.add(account(3, state=AccountState.CLOSING, next_attempt_at=NOW + 1))
    for number, where in enumerate((AccountState.OPENING, AccountState.OPEN, AccountState.CLOSED), 4):
        await call.accounts.add(account(number, state=where, next_attempt_at=NOW - 9))
    assert ids(await call.accounts.due(NOW, 10)) == ["acc-000002", "acc-000001"]
    assert ids(await call.accounts.due(NOW, 1)) == ["acc-000002"]


async def test_unsettled_counts_what_is_not_closed(state: StateStore) -> None:
    call = Call(state)
    for number, where in enumerate(AccountState, 1):
        await call.accounts.add(account(number, state=where))
    assert await call.accounts.unsettled(["att-000001"]) == 4
    assert await call.accounts.unsettled(["att-other"]) == 0


async def test_pages_by_state(state: StateStore) -> None:
    call = Call(state)
    for number, where in enumerate(AccountState, 1):
        await call.accounts.add(account(number, state=where))
    assert ids(await call.accounts.page((), 3)) == ["acc-000001", "acc-000002", "acc-000003"]
    assert ids(await call.accounts.page((), 9, "acc-000003")) == ["acc-000004", "acc-000005"]
    some = (AccountState.STUCK, AccountState.OPEN)
    assert ids(await call.accounts.page(some, 9)) == ["acc-000002", "acc-000005"]
