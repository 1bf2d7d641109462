"""What a guard sees reaches the broker at once, once per event, over breaks too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import lockstep_client
from lockstep.v1 import detection_pb2
from lockstep_client.evidence import EvidenceSource
from lockstep_client.report import MOST_WAITING
from lockstep_client.settings import Settings
from tests.fakes.broker import FakeBroker

Evidence = Callable[[], EvidenceSource]


@dataclass(frozen=True)
class Seen:
    kind: str = "module"
    digest: bytes = bytes([7]) * 32
    path: str = "/tmp/x.py"
    name: str = "x"
    size: int = 12
    observed_at: float = 1_800_000_000.0


def test_a_report_names_the_attestation_and_the_code(
    broker: FakeBroker, settings: Settings, evidence: Evidence
) -> None:
    with lockstep_client.connect(settings=settings, evidence=evidence) as ls:
        ls.report(Seen())
        ls.report(Seen(kind="no such kind"))
        broker.wait_until(lambda: len(broker.reports) == 2)
    first, second = broker.reports
    assert first.subject.attestation_id == "A-1"
    assert first.kind == detection_pb2.DETECTION_KIND_MODULE
    assert first.object.digest == bytes([7]) * 32
    assert first.object.path == "/tmp/x.py"
    assert second.kind == detection_pb2.DETECTION_KIND_UNSPECIFIED
    assert first.event_id != second.event_id


def test_reports_wait_for_a_broker_that_is_away(
    broker: FakeBroker, settings: Settings, evidence: Evidence
) -> None:
    with lockstep_client.connect(settings=settings, evidence=evidence) as ls:
        ls.report(Seen())
        broker.wait_until(lambda: len(broker.reports) == 1)
        broker.stop()
        for _ in range(MOST_WAITING + 5):
            ls.report(Seen())
        broker.start()
        broker.wait_until(lambda: broker.lost >= 5)
        broker.wait_until(lambda: len({item.event_id for item in broker.reports}) >= MOST_WAITING)
