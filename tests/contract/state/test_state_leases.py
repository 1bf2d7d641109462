"""Contract: leases, which only ever move on from the state that somebody saw."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broker.errors import Conflict
from broker.model.credential import Lease, LeaseState
from broker.model.evidence import Assurance
from broker.model.role import Mode, Revocability
from broker.ports import StateStore
from tests.contract.state.calls import Call
from tests.contract.state.nouns import NOW, digest, lease

LIVE = [state for state in LeaseState if state.live]


def ids(found: list[Lease]) -> list[str]:
    return [item.id for item in found]


async def test_comes_back_as_it_was(state: StateStore) -> None:
    call = Call(state)
    await call.leases.open(lease())
    assert await call.leases.get(lease().id) == lease()
    assert await call.leases.get("lea-9") is None
    with pytest.raises(Conflict):
        await call.leases.open(lease())


async def test_replace_writes_everything_where_the_state_is_expected(state: StateStore) -> None:
    call = Call(state)
    await call.leases.open(lease(state=LeaseState.PENDING))
    new = replace(
        lease(),
        role="other",
        role_version=digest("other"),
        backend="jwt",
        state=LeaseState.ACTIVE,
        mode=Mode.OBSERVE,
        decision_id="dec-2",
        identity="spiffe://td/b",
        audience="other",
        assurance=Assurance.SELF,
        handle="new-handle",
        revocability=Revocability.NEVER,
        possession_required=False,
        issued_at=NOW + 1,
        expires_at=NOW + 2,
        max_expires_at=NOW + 3,
        as_of=77,
        renewable=True,
        ended_at=NOW + 4,
        attempts=9,
        next_attempt_at=NOW + 5,
        detail="new",
    )
    assert not await call.leases.replace(new, LeaseState.ACTIVE)
    assert (await call.leases.get(new.id)).state is LeaseState.PENDING
    assert await call.leases.replace(new, LeaseState.PENDING)
    assert await call.leases.get(new.id) == new
    assert not await call.leases.replace(new, LeaseState.PENDING)
    assert not await call.leases.replace(lease(2), LeaseState.ACTIVE)
    assert await call.leases.by_handle("new-handle") == new
    assert await call.leases.by_handle("handle-1") is None


async def test_look_ups(state: StateStore) -> None:
    call = Call(state)
    for number, request in ((1, "same"), (3, "same"), (2, "same"), (4, "")):
        await call.leases.open(lease(number, request_id=request, handle="" if number == 4 else f"h-{number}"))
    await call.leases.open(lease(5, attestation_id="att-other", request_id="same", handle="h-1"))
    assert (await call.leases.by_request("att-000001", "same")).id == "lea-000003"
    assert (await call.leases.by_request("att-other", "same")).id == "lea-000005"
    assert await call.leases.by_request("att-000001", "never") is None
    assert (await call.leases.by_handle("h-1")).id == "lea-000005"
    assert await call.leases.by_handle("") is None
    assert await call.leases.by_handle("never") is None
    await call.leases.open(lease(6, handle="creds/a:until:99"))
    await call.leases.open(lease(7, handle="creds/a:until:50"))
    await call.leases.open(lease(8, handle="creds/a;b"))
    assert (await call.leases.by_stem("creds/a")).id == "lea-000007"
    for nobodys in ("", "creds", "creds/", "creds/a:until:99", "creds/a;b", "h-1", "never"):
        assert await call.leases.by_stem(nobodys) is None, nobodys
    assert ids(await call.leases.of_attestation("att-000001")) == [
        f"lea-{n:06}" for n in (1, 2, 3, 4, 6, 7, 8)
    ]
    assert ids(await call.leases.of_attestation("never")) == []


async def test_begin_revoking_takes_what_could_still_be_used(state: StateStore) -> None:
    call = Call(state)
    for number, item in enumerate(LeaseState, 1):
        await call.leases.open(lease(number, state=item, next_attempt_at=NOW + 500))
    await call.leases.open(lease(9, attestation_id="att-000002", state=LeaseState.PENDING))
    await call.leases.open(lease(10, attestation_id="att-000003"))
    assert await call.leases.begin_revoking(["att-000001", "att-000002", "never"]) == 3
    assert await call.leases.begin_revoking(["att-000001", "att-000002"]) == 0
    assert await call.leases.begin_revoking([]) == 0
    changed = await call.leases.get("lea-000001")
    assert changed == lease(1, state=LeaseState.REVOKING, next_attempt_at=0.0)
    assert ids(await call.leases.due(NOW, 10)) == ["lea-000001", "lea-000002", "lea-000009"]
    assert (await call.leases.get("lea-000010")).state is LeaseState.ACTIVE
    # REVOKING, REVOKED, EXPIRED and STUCK ones are as they were.
    for number, item in enumerate(LeaseState, 1):
        if item not in (LeaseState.PENDING, LeaseState.ACTIVE):
            assert await call.leases.get(f"lea-{number:06}") == lease(
                number, state=item, next_attempt_at=NOW + 500
            )


@pytest.mark.parametrize("of", LeaseState, ids=str)
async def test_due(state: StateStore, of: LeaseState) -> None:
    call = Call(state)
    early, late = NOW + 10, NOW + 1000
    mine = {"expires_at": early} if of is LeaseState.ACTIVE else {"next_attempt_at": early}
    other = {"next_attempt_at": late} if of is LeaseState.ACTIVE else {"expires_at": late}
    await call.leases.open(lease(1, state=of, **mine, **other))
    assert ids(await call.leases.due(early - 0.001, 10)) == []
    assert ids(await call.leases.due(early, 10)) == (["lea-000001"] if of.live else [])


async def test_due_longest_first(state: StateStore) -> None:
    call = Call(state)
    for number, due in ((1, 30), (2, 10), (3, 20), (4, 10)):
        await call.leases.open(lease(number, state=LeaseState.STUCK, next_attempt_at=NOW + due))
    assert ids(await call.leases.due(NOW + 30, 3)) == ["lea-000002", "lea-000004", "lea-000003"]


async def test_pages(state: StateStore) -> None:
    call = Call(state)
    for number, item in enumerate([*LeaseState, *LeaseState], 1):
        await call.leases.open(lease(number, state=item, attestation_id=f"att-{number % 2}"))
    every = [f"lea-{number:06}" for number in range(1, 13)]
    assert ids(await call.leases.page([], 100)) == every
    assert ids(await call.leases.page([], 2, after=every[4])) == every[5:7]
    two = [LeaseState.ACTIVE, LeaseState.STUCK, LeaseState.ACTIVE]
    assert ids(await call.leases.page(two, 100)) == [every[i] for i in (1, 5, 7, 11)]
    assert ids(await call.leases.page(two, 2, after=every[1])) == [every[5], every[7]]
    assert ids(await call.leases.page(two, 1, attestation_id="att-0")) == [every[1]]
    assert ids(await call.leases.page([], 100, after=every[5], attestation_id="att-1")) == every[6::2]


async def test_counts(state: StateStore) -> None:
    call = Call(state)
    assert await call.leases.count() == {}
    for number, item in enumerate([*LeaseState, LeaseState.ACTIVE], 1):
        await call.leases.open(lease(number, state=item, attestation_id=f"att-{number % 2}"))
    assert await call.leases.count() == {item: 1 + (item is LeaseState.ACTIVE) for item in LIVE}
    assert await call.leases.unsettled(["att-0", "att-1", "att-1"]) == len(LIVE) + 1
    # lea-1 pending, lea-3 revoking, lea-7 active; lea-5 has expired
    assert await call.leases.unsettled(["att-1"]) == 3
    assert await call.leases.unsettled(["never"]) == 0
    assert await call.leases.unsettled([]) == 0
