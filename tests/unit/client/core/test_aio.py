"""The asyncio face: the same names, awaited; callbacks may be coroutine functions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

import lockstep_client
from lockstep.v1 import revocation_pb2
from lockstep_client import Denied, Revocation, Revoked
from lockstep_client.evidence import EvidenceSource
from lockstep_client.settings import Settings
from tests.fakes.broker import FakeBroker, denied, unavailable

Evidence = Callable[[], EvidenceSource]


async def test_hold_and_give_back(broker: FakeBroker, settings: Settings, evidence: Evidence) -> None:
    async with lockstep_client.aio.connect(settings=settings, evidence=evidence) as ls:
        db = await ls.credential("db")
        assert db is await ls.credential("db")
        assert db.password.reveal().startswith("canary-")
        assert ls.ready
    assert broker.leases == {}
    ls = await lockstep_client.aio.connect(settings=settings, evidence=evidence)
    assert ls.attestation is not None
    await ls.close()


async def test_callbacks_run_in_the_loop(broker: FakeBroker, settings: Settings, evidence: Evidence) -> None:
    broker.policy.lease_ttl = broker.policy.attestation_ttl = 1.5
    loop = asyncio.get_running_loop()
    rotated, revoked = asyncio.Event(), asyncio.Event()
    told: list[str] = []
    async with lockstep_client.aio.connect(settings=settings, evidence=evidence) as ls:
        db = await ls.credential("db")

        @db.on_rotated
        async def fresh() -> None:
            assert asyncio.get_running_loop() is loop
            rotated.set()

        @ls.on_revoked
        async def bye(revocation: Revocation) -> None:
            await asyncio.sleep(0)
            told.append(revocation.reason)
            revoked.set()

        async with asyncio.timeout(10):
            await rotated.wait()
        await asyncio.to_thread(broker.wait_until, lambda: broker.watched != [])
        broker.revoke(revocation_pb2.Selector(attestation_id="A-1"), reason="memfd")
        async with asyncio.timeout(5):
            await revoked.wait()
        assert told == ["memfd"]
        with pytest.raises(Revoked):
            await ls.credential("db")


async def test_a_blocked_loop_delays_no_revocation(
    broker: FakeBroker, settings: Settings, evidence: Evidence
) -> None:
    async with lockstep_client.aio.connect(settings=settings, evidence=evidence) as ls:
        db = await ls.credential("db")
        broker.wait_until(lambda: broker.watched != [])
        broker.revoke(revocation_pb2.Selector(attestation_id="A-1"))
        broker.wait_until(lambda: 1 in broker.acknowledged)  # on this thread: the loop stands still
        with pytest.raises(Revoked):
            _ = db.password


async def test_denied_and_unavailable(broker: FakeBroker, settings: Settings, evidence: Evidence) -> None:
    left = [1]

    def gate(method: str) -> None:
        if method == "Attest" and left[0]:
            left[0] -= 1
            raise unavailable()
        if method == "IssueCredential":
            raise denied("not_entitled")

    broker.policy.gate = gate
    async with lockstep_client.aio.connect(settings=settings, evidence=evidence, wait=10) as ls:
        with pytest.raises(Denied, match="not_entitled"):
            await ls.credential("db", wait=10)
    assert broker.calls.count("IssueCredential") == 1
