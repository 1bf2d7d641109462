"""What a guard sees reaches the broker at once, once per event, over breaks too, whatever it is called."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import pytest

import lockstep_client
from lockstep.v1 import detection_pb2
from lockstep_client.evidence import EvidenceSource
from lockstep_client.observed import LONGEST_NAME, LONGEST_PATH, detection_of
from lockstep_client.report import MOST_WAITING
from lockstep_client.settings import Settings
from tests.fakes.broker import FakeBroker, Refused
from tests.unit.client.core.conftest import becomes

Evidence = Callable[[], EvidenceSource]


@dataclass(frozen=True)
class Seen:
    kind: str = "module"
    digest: bytes = bytes([7]) * 32
    path: str = "/tmp/x.py"
    name: str = "x"
    size: int = 12
    observed_at: float = 1_800_000_000.0


def seen(number: int, **changed: str) -> Seen:
    return replace(Seen(digest=bytes([number]) * 32), **changed)


def numbers(broker: FakeBroker) -> list[int]:
    return [report.object.digest[0] for report in broker.reports]


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


def test_an_over_long_name_is_cut_and_what_comes_after_it_is_told(
    broker: FakeBroker, settings: Settings, evidence: Evidence
) -> None:
    with lockstep_client.connect(settings=settings, evidence=evidence) as ls:
        ls.report(seen(1, path="x" * 200_000, name="y" * 200_000))
        ls.report(seen(2))
        broker.wait_until(lambda: len(broker.reports) == 2)
    long, _ = broker.reports
    assert (long.object.path, long.object.name) == ("x" * LONGEST_PATH, "y" * LONGEST_NAME)


@pytest.mark.parametrize(
    "name", [os.fsdecode(b"plugin_\xff.py"), "\ud800" * 9000], ids=["latin", "surrogates"]
)
def test_a_name_that_is_no_text_is_spelled_out(
    broker: FakeBroker, settings: Settings, evidence: Evidence, name: str
) -> None:
    with lockstep_client.connect(settings=settings, evidence=evidence) as ls:
        ls.report(seen(1, path=name, name=name))
        broker.wait_until(lambda: len(broker.reports) == 1)
    [report] = broker.reports
    assert report.object.path.startswith(("plugin_\\udcff.py", "\\ud800\\ud800"))
    assert len(report.object.path) <= LONGEST_PATH


@pytest.mark.parametrize(
    "odd",
    [
        {"digest": b"short"},
        {"size": -1},
        {"size": 2**70},
        {"observed_at": float("nan")},
        {"observed_at": 1e300},
        {"kind": "módulo\ud800"},
    ],
    ids=str,
)
def test_whatever_else_is_odd_is_told_too(odd: dict[str, object]) -> None:
    detection = detection_of(replace(Seen(), **odd))  # type: ignore[arg-type]
    assert detection.SerializeToString()
    assert len(detection.object.digest) in (0, 32)


def test_what_is_no_observation_is_counted_as_lost(
    broker: FakeBroker, settings: Settings, evidence: Evidence
) -> None:
    with lockstep_client.connect(settings=settings, evidence=evidence) as ls:
        ls.report(None)  # type: ignore[arg-type]
        ls.report(seen(2))
        broker.wait_until(lambda: len(broker.reports) == 1 and broker.lost == 1)


def test_a_report_that_the_broker_cannot_read_goes_without_its_names_and_then_goes(
    broker: FakeBroker, settings: Settings, evidence: Evidence
) -> None:
    """It must not stand in the way of all others."""

    def reads(report: detection_pb2.Detection) -> None:
        if report.object.path == "poison" or report.object.digest[0] == 3:
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "invalid_request")

    broker.policy.reads = reads
    with lockstep_client.connect(settings=settings, evidence=evidence) as ls:
        for number, path in ((1, "a"), (2, "poison"), (3, "b"), (4, "c")):
            ls.report(seen(number, path=path))
        broker.wait_until(lambda: numbers(broker) == [1, 2, 4] and broker.lost == 1, 20)
    assert [report.object.path for report in broker.reports] == ["a", "", "c"]


@pytest.mark.parametrize("reason", ["attestation_expired", "not_entitled"])
def test_reports_that_are_refused_are_kept_and_told_later(
    broker: FakeBroker, settings: Settings, evidence: Evidence, reason: str
) -> None:
    refused = threading.Event()

    def gate(method: str) -> None:
        if method == "Report" and not refused.is_set():
            refused.set()
            raise Refused(grpc.StatusCode.PERMISSION_DENIED, reason)

    broker.policy.gate = gate
    with lockstep_client.connect(settings=settings, evidence=evidence) as ls:
        ls.report(seen(1))
        broker.wait_until(lambda: numbers(broker) == [1], 20)
    assert broker.lost == 0
    assert "Reattest" not in broker.calls  # nobody had to attest again for it


def test_a_certificate_file_that_is_away_for_a_moment_ends_nothing(
    broker: FakeBroker,
    settings: Settings,
    evidence: Evidence,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    ca, kept = tmp_path / "ca.pem", tmp_path / "ca.kept"
    shutil.copy(settings.ca_file, ca)
    with lockstep_client.connect(settings=replace(settings, ca_file=str(ca)), evidence=evidence) as ls:
        ls.report(seen(1))
        broker.wait_until(lambda: numbers(broker) == [1])
        assert ls._connection.parts().keeper.flush_reports(10)  # else it is told again, rightly
        ca.rename(kept)
        broker.stop()
        broker.start()
        ls.report(seen(2))
        becomes(lambda: "reports are refused: LOCKSTEP_CA_FILE" in caplog.text, 20)
        kept.rename(ca)
        broker.wait_until(lambda: numbers(broker) == [1, 2], 20)


def test_losses_are_owned_up_to_once_somebody_listens_and_each_of_them_once(
    broker: FakeBroker, settings: Settings, evidence: Evidence
) -> None:
    with lockstep_client.connect(settings=settings, evidence=evidence) as ls:
        keeper = ls._connection.parts().keeper
        broker.stop()
        keeper.lose(3)
        broker.start()
        broker.wait_until(lambda: broker.lost == 3)
        keeper.lose(2)
        broker.wait_until(lambda: broker.lost == 5)
        keeper.lose(10**30)  # a child of `lockstep run` may say any number
        ls.report(seen(1))
        broker.wait_until(lambda: numbers(broker) == [1] and broker.lost > 5)
