"""Settle: when nothing is left to clean and every watcher knows, or has failed closed, the receipt is sealed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from broker.errors import Unavailable
from broker.model.account import Account
from broker.model.credential import Confirmation, Lease
from broker.model.receipt import receipt_payload
from broker.model.revocation import Revocation, RevocationState, SelectorKind, Unconfirmed
from broker.model.role import Revocability
from broker.model.step import Step
from broker.ports import Clock, ReceiptSigner, RevocationFeed, StateStore, Transaction
from broker.upkeep.cutting import MEND, missed
from broker.upkeep.faults import Aside, OnFault
from broker.upkeep.limits import BATCH, UpkeepLimits

MAX_STEPS: Final = 200
"""Steps that a receipt lists one by one; what could not be confirmed is listed without a bound."""

TURN: Final = 100
"""Revocations of each kind that one turn looks at: the newest, and the next of the walk over all."""
_ONE: Final = (SelectorKind.LEASE, SelectorKind.TOKEN)

Told = Mapping[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a revocation ended."""

    leases: Sequence[Lease]
    accounts: Sequence[Account]


class Settling:
    """A receipt says what was done, how it was confirmed, and what was not."""

    def __init__(
        self,
        clock: Clock,
        state: StateStore,
        feed: RevocationFeed,
        receipts: ReceiptSigner,
        on_fault: OnFault,
        limits: UpkeepLimits,
    ) -> None:
        self._clock = clock
        self._state = state
        self._feed = feed
        self._receipts = receipts
        self._limits = limits
        self._aside = Aside(on_fault, limits.backoff_most)
        self._walked = ""

    async def tick(self) -> bool:
        """One turn: the newest, which are the likeliest, and the next of all others, so that none waits for ever
        behind those that cannot settle. True where one was settled."""
        now = self._clock.now()
        self._walked, clean = await self._state.read(self._look)
        if not clean:
            return False
        # Who has acknowledged the last has acknowledged all of them, and is asked once.
        last = self._feed.told(max(revocation.last_seq for revocation in clean))
        settled = False
        for revocation in clean:
            if not self._aside.has(revocation.id, now):
                told = self._feed.told(revocation.last_seq) if _behind(last) else last
                settled = await self._try(revocation, told) or settled
        return settled

    async def _look(self, tx: Transaction) -> tuple[str, Sequence[Revocation]]:
        """Where the walk stands then, and those of this turn that nothing is left to clean of, oldest first."""
        newest = await tx.revocations.newest(TURN, RevocationState.CLEANING)
        walked = await tx.revocations.page(TURN, self._walked, RevocationState.CLEANING)
        turn = {revocation.id: revocation for revocation in (*newest, *walked)}
        clean = [turn[name] for name in sorted(turn) if await _clean(tx, turn[name])]
        return walked[-1].id if len(walked) == TURN else "", clean

    async def _try(self, revocation: Revocation, told: Told) -> bool:
        try:
            return await self._settle(revocation, told)
        except Unavailable:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this revocation's
            self._aside.put(revocation.id, f"settling {revocation.id}", error, self._clock.now())
            return False

    async def _settle(self, revocation: Revocation, told: Told) -> bool:
        now = self._clock.now()
        if _behind(told) and now < revocation.at + self._limits.settle:
            return False
        outcome = await self._outcome(revocation)
        if outcome is None:
            return False
        whole = self._feed.knows_verifiers
        unsure = not whole and any(_all_told(lease, told) for lease in outcome.leases)
        if unsure and now < revocation.at + self._limits.settle:
            # This process has just begun: a verifier of the one before may still take what it was not told of.
            return False
        told_at = self._feed.told_at(revocation.last_seq)
        done = _with_outcome(revocation, outcome, told, now, whole=whole, told_at=told_at)
        settled = replace(done, state=RevocationState.SETTLED)
        sealed = replace(settled, receipt=self._receipts.seal(receipt_payload(settled)))

        async def write(tx: Transaction) -> bool:
            current = await tx.revocations.get(revocation.id)
            if current is None or current.state is not RevocationState.CLEANING:
                return False
            await tx.revocations.put(replace(sealed, lifted_at=current.lifted_at))
            return True

        return await self._state.transact(write)

    async def _outcome(self, revocation: Revocation) -> Outcome | None:
        """Every lease and account that the revocation ended; None while one of them may still be good somewhere."""
        if revocation.selector.kind in _ONE:
            lease = await self._state.read(lambda tx: _lease(tx, revocation))
            if lease is not None and lease.state.live:
                return None
            return Outcome([lease] if lease is not None else [], [])
        leases: list[Lease] = []
        accounts: list[Account] = []
        after = ""
        while True:
            page = await self._page(revocation.id, after)
            if page is None:
                return None
            ids, found = page
            leases += found.leases
            accounts += found.accounts
            if len(ids) < BATCH:
                return Outcome(leases, accounts)
            after = ids[-1]

    async def _page(self, revocation_id: str, after: str) -> tuple[Sequence[str], Outcome] | None:
        async def work(tx: Transaction) -> tuple[Sequence[str], Outcome] | None:
            ids = await tx.revocations.hits(revocation_id, BATCH, after)
            if ids and (await tx.leases.unsettled(ids) or await tx.accounts.unsettled(ids)):
                return None
            return ids, Outcome(
                [lease for name in ids for lease in await tx.leases.of_attestation(name)],
                [account for name in ids for account in await tx.accounts.of_attestation(name)],
            )

        return await self._state.read(work)


async def _lease(tx: Transaction, revocation: Revocation) -> Lease | None:
    """Of a revocation that is aimed at one."""
    selector = revocation.selector
    if selector.kind is SelectorKind.LEASE:
        return await tx.leases.get(selector.value)
    return await tx.leases.by_handle(selector.value)


async def _clean(tx: Transaction, revocation: Revocation) -> bool:
    """True where nothing is left to be taken back."""
    if revocation.selector.kind in _ONE:
        lease = await _lease(tx, revocation)
        return lease is None or not lease.state.live
    after = ""
    while ids := await tx.revocations.hits(revocation.id, BATCH, after):
        if await tx.leases.unsettled(ids) or await tx.accounts.unsettled(ids):
            return False
        after = ids[-1]
    return True


def _behind(told: Told) -> bool:
    return any(of < all_of for all_of, of in told.values())


def _with_outcome(
    revocation: Revocation,
    outcome: Outcome,
    told: Told,
    now: float,
    *,
    whole: bool,
    told_at: float | None,
) -> Revocation:
    ended = sorted(
        (lease for lease in outcome.leases if lease.ended_at >= revocation.at),
        key=lambda lease: lease.ended_at,
    )
    done = [
        *(step for account in outcome.accounts for step in account.steps if step.at >= revocation.at),
        *(Step("cleaned", item.ended_at, f"{item.id} {item.state}: {item.detail}") for item in ended),
    ]
    done.sort(key=lambda step: step.at)
    steps = [*revocation.steps, *done[:MAX_STEPS]]
    if len(done) > MAX_STEPS:
        steps.append(Step("cleaned", done[-1].at, f"and {len(done) - MAX_STEPS} more steps"))
    # Who has acknowledged is counted when all is clean; where that is everybody, it is known since when.
    heard = now if told_at is None else max(revocation.at, told_at)
    steps.append(Step("told", heard, _told(told)))
    steps.sort(key=lambda step: step.at)
    steps.append(Step("confirmed", now, f"{len(ended)} leases ended"))
    unconfirmed = (
        *(item for lease in ended if (item := _unconfirmed(lease, told, whole)) is not None),
        *(item for lease in ended if (item := _uncut(lease, outcome.accounts)) is not None),
    )
    return replace(revocation, steps=tuple(steps), unconfirmed=unconfirmed, leases=len(ended))


def _unconfirmed(lease: Lease, told: Told, whole: bool) -> Unconfirmed | None:
    if lease.revocability is Revocability.INSTANT:
        if whole and _all_told(lease, told):
            return None
        # A verifier that neither watches nor introspects sees only the signature.
        what = f"verifiers of {lease.audience!r} without the feed"
        return Unconfirmed(lease.id, what, lease.expires_at)
    if lease.detail.startswith(Confirmation.UNTIL_EXPIRY.value):
        return Unconfirmed(lease.id, lease.detail, lease.expires_at)
    return None


def _uncut(lease: Lease, accounts: Sequence[Account]) -> Unconfirmed | None:
    """For one whose cutter saw nothing of its login: that nothing is left there was seen by nobody."""
    steps = [
        step
        for account in accounts
        if (account.attestation_id, account.backend) == (lease.attestation_id, lease.backend)
        for step in account.steps
    ]
    if not lease.cutter or not missed(steps, lease.cutter):
        return None
    what = (
        f"its sessions: cutter {lease.cutter} found no login of the instance at its database; "
        f"end them there by hand, then {MEND}"
    )
    return Unconfirmed(lease.id, what, lease.expires_at)


def _all_told(lease: Lease, told: Told) -> bool:
    """True where every verifier of a token that only its verifiers end has acknowledged."""
    all_of, of = told.get(lease.audience, (0, 0))
    return lease.revocability is Revocability.INSTANT and 0 < all_of == of


def _told(told: Told) -> str:
    if not told:
        return "nobody watches"
    watchers = (f"{name or 'broker'}: {of} of {all_of}" for name, (all_of, of) in sorted(told.items()))
    return f"acknowledged by {', '.join(watchers)}"
