"""A process that has to leave leaves in time, whatever its own callbacks do."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from lockstep.v1 import revocation_pb2
from lockstep_client.connection import Connection, wait_for
from lockstep_client.evidence import EvidenceSource
from lockstep_client.settings import Settings
from tests.fakes.broker import FakeBroker

PROMISED = 5.0
"""Seconds that callbacks get (docs/sdk.md)."""


class Stuck:
    """A connection whose first callback hangs until the test ends; with the codes by which it wanted to leave."""

    def __init__(
        self, broker: FakeBroker, settings: Settings, evidence: Callable[[], EvidenceSource]
    ) -> None:
        self.codes: queue.Queue[int] = queue.Queue()
        self._over, hangs = threading.Event(), threading.Event()
        broker.policy.lease_ttl = broker.policy.attestation_ttl = 1.0
        self.connection = Connection(settings, on_revoked="exit", evidence=evidence, leave=self.codes.put)

        def hang() -> None:
            hangs.set()
            self._over.wait()

        wait_for(self.connection.attest())
        self.connection.on_rotated("db", hang)
        wait_for(self.connection.credential("db"))
        assert hangs.wait(10)

    def left(self) -> int:
        """The exit code; not before the time that callbacks get."""
        started = time.monotonic()
        code = self.codes.get(timeout=2 * PROMISED)
        assert time.monotonic() - started > PROMISED / 2
        return code

    def close(self) -> None:
        self._over.set()
        self.connection.close()


@pytest.fixture
def stuck(broker: FakeBroker, settings: Settings, evidence: Callable[[], EvidenceSource]) -> Iterator[Stuck]:
    broker.policy.then = "exit"
    made = Stuck(broker, settings, evidence)
    yield made
    made.close()


def test_revoked_it_leaves_behind_a_callback_that_hangs(broker: FakeBroker, stuck: Stuck) -> None:
    broker.wait_until(lambda: broker.watched != [])
    broker.revoke(revocation_pb2.Selector(attestation_id="A-1"))
    assert stuck.left() == 77


def test_in_silence_too(broker: FakeBroker, stuck: Stuck) -> None:
    broker.policy.grace = 0.5
    # A renewal tells of it.
    renewals = broker.calls.count("Reattest")
    broker.wait_until(lambda: broker.calls.count("Reattest") > renewals + 1)
    broker.stop()
    assert stuck.left() == 75


WRITES = """
import sys, threading
import lockstep_client

lockstep = lockstep_client.connect(wait=10, on_revoked="exit", guard="off")
lockstep.credential("a-token")


def write():
    while True:
        sys.stdout.write("x" * 65536)


threading.Thread(target=write, daemon=True).start()
sys.stderr.write("ready\\n")
threading.Event().wait()
"""


def test_output_that_nobody_reads_keeps_nobody(broker: FakeBroker, settings: Settings) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITES],
        env={**os.environ, **settings.environment(), "PYTHONUNBUFFERED": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stderr is not None
            assert process.stderr.readline() == "ready\n"
            broker.wait_until(lambda: broker.watched != [])
            broker.revoke(revocation_pb2.Selector(attestation_id="A-1"))
            assert process.wait(20) == 77
        finally:
            process.kill()
