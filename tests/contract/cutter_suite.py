"""What every cutter keeps to; each plug's test class says how the plug and its target are made."""

from __future__ import annotations

import asyncio
from typing import Protocol

from broker.adapters.entropy import SystemEntropy
from broker.model.account import Remains
from broker.ports import TargetCutter

ONE = "A-01jd00000000000000000000a1"
OTHER = "A-01jd00000000000000000000a2"


class Target(Protocol):
    """What a test does at the target."""

    def login(self, attestation_id: str) -> None:
        """A login that can log in."""

    def session(self, attestation_id: str) -> None:
        """A session of the latest login."""

    def remains(self, attestation_id: str) -> Remains:
        """What there is, seen past the plug."""


class CutterSuite:
    """Subclass, name it ``Test…``, give a `target` and a `cutter` fixture."""

    async def test_where_there_was_never_anything_there_is_nothing(self, cutter: TargetCutter) -> None:
        assert await cutter.cut(ONE) == Remains(0, 0)
        assert await cutter.confirm(ONE) == Remains(0, 0)

    async def test_confirming_counts_and_changes_nothing(self, cutter: TargetCutter, target: Target) -> None:
        target.login(ONE)
        target.session(ONE)
        target.session(ONE)
        for _ in range(2):
            found = await cutter.confirm(ONE)
            assert found == Remains(logins=1, sessions=2)
            assert not found.gone
        assert target.remains(ONE) == Remains(1, 2)

    async def test_a_cut_leaves_neither_login_nor_session(self, cutter: TargetCutter, target: Target) -> None:
        for _ in range(3):
            target.login(ONE)
            target.session(ONE)
        assert (await cutter.cut(ONE)).gone
        assert target.remains(ONE).gone
        assert (await cutter.confirm(ONE)).gone

    async def test_a_cut_says_whether_it_knew_any_login(self, cutter: TargetCutter, target: Target) -> None:
        # Not the ids of the others: logins may outlive a test.
        one, other = (SystemEntropy().identifier("A", 1_790_000_000.0) for _ in range(2))
        target.login(other)
        assert (await cutter.cut(one)).known == 0
        for _ in range(2):
            target.login(one)
        assert (await cutter.cut(one)).known == 2
        # They can log in no more, and are there all the same.
        assert (await cutter.cut(one)).known == 2

    async def test_a_cut_leaves_others_alone(self, cutter: TargetCutter, target: Target) -> None:
        for attestation_id in (ONE, OTHER):
            target.login(attestation_id)
            target.session(attestation_id)
        await cutter.cut(ONE)
        assert target.remains(OTHER) == Remains(1, 1)
        assert await cutter.confirm(OTHER) == Remains(1, 1)

    async def test_a_cut_may_be_asked_for_again_and_at_once(
        self, cutter: TargetCutter, target: Target
    ) -> None:
        for attestation_id in (ONE, OTHER):
            target.login(attestation_id)
            target.session(attestation_id)
        await asyncio.gather(*(cutter.cut(attestation_id) for attestation_id in (ONE, OTHER) * 4))
        assert target.remains(ONE).gone
        assert target.remains(OTHER).gone
        assert (await cutter.cut(ONE)).gone

    async def test_a_login_made_after_a_cut_is_found_and_cut(
        self, cutter: TargetCutter, target: Target
    ) -> None:
        await cutter.cut(ONE)
        target.login(ONE)
        assert await cutter.confirm(ONE) == Remains(1, 0)
        assert (await cutter.cut(ONE)).gone

    async def test_at_a_target_in_order_there_is_no_fault(self, cutter: TargetCutter) -> None:
        assert tuple(await cutter.faults()) == ()

    async def test_closing_may_be_asked_for_again(self, cutter: TargetCutter) -> None:
        await cutter.confirm(ONE)
        await cutter.close()
        await cutter.close()
