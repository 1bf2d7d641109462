"""What is exposed holds before the strict parser of OpenMetrics, with names, units and labels that keep its rules."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from broker.api.metrics import Metrics
from broker.model.credential import LeaseState
from broker.model.detection import DetectionState

LABELS = {"method", "code", "reason", "detector", "state", "stage", "backend", "le"}
"""Each has few values: of the wire, of an enum, or of the settings."""
RESERVED = ("_total", "_created", "_info", "_count", "_sum", "_bucket")


def filled() -> Metrics:
    """Each series has a sample."""
    found = Metrics()
    found.call("/a/B", "OK", found.started())
    found.refused("/a/B", "revoked")
    found.failed("/a/B")
    found.stream("/a/B", 1)
    found.detection("falco", DetectionState.APPLIED, 0.01)
    found.stage("told", 0.02)
    found.contradicted()
    found.feed(3, 0.5)
    found.state({LeaseState.STUCK: 2}, 5, 1)
    found.given_up({"vault": 1})
    return found


def faults(families: Iterable[Metric]) -> list[str]:
    """What breaks a rule of names, units or labels."""
    found = []
    for family in families:
        name = family.name
        if not name.startswith("lockstep_") or name.endswith(RESERVED):
            found.append(f"{name}: name")
        if not family.documentation.endswith((".", ")")):
            found.append(f"{name}: help")
        if ("seconds" in name.split("_")) != (family.unit == "seconds"):
            found.append(f"{name}: unit")
        if family.type == "unknown" or not family.samples:
            found.append(f"{name}: kind")
        if not {label for sample in family.samples for label in sample.labels} <= LABELS:
            found.append(f"{name}: labels")
    return found


def test_the_strict_parser_takes_all_of_it() -> None:
    metrics = filled()
    text, media = metrics.answer("application/openmetrics-text")
    families = list(text_string_to_metric_families(text.decode()))
    assert media.startswith("application/openmetrics-text")
    assert {family.name for family in families} == {family.name for family in metrics.registry.collect()}
    assert len(families) >= 14
    assert faults(families) == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("# HELP lockstep_a_seconds A.\n# TYPE lockstep_a_seconds gauge\nlockstep_a_seconds 1\n", "unit"),
        ("# TYPE lockstep_a gauge\nlockstep_a 1\n", "help"),
        ('# HELP lockstep_a A.\n# TYPE lockstep_a gauge\nlockstep_a{subject="x"} 1\n', "labels"),
        ("# HELP other A.\n# TYPE other gauge\nother 1\n", "name"),
        ("# HELP lockstep_a A.\n# TYPE lockstep_a counter\n", "kind"),
    ],
)
def test_each_rule_is_seen_when_it_is_broken(text: str, fault: str) -> None:
    assert any(found.endswith(fault) for found in faults(text_string_to_metric_families(text + "# EOF\n")))


@pytest.mark.parametrize(
    ("accept", "openmetrics"),
    [
        ("application/openmetrics-text", True),
        ("text/plain;q=0.5, Application/OpenMetrics-Text; version=1.0.0; charset=utf-8", True),
        ("application/openmetrics-text;version=none;q=0.1", True),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=0.000", False),
        ("application/openmetrics-textual", False),
        ("text/plain;version=none", False),
        ("*/*", False),
        (";=,;\x00", False),
        ("", False),
    ],
)
def test_whoever_asks_for_openmetrics_gets_it(accept: str, openmetrics: bool) -> None:
    text, media = filled().answer(accept)
    assert media.startswith("application/openmetrics-text" if openmetrics else "text/plain")
    assert text.endswith(b"# EOF\n") is openmetrics
