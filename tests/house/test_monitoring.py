"""Alerts and dashboard ask for what the broker exposes, in the language of the server that is asked."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from broker.api.metrics import Metrics

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus" / "lockstep.rules.yml"
BOARD = ROOT / "deploy" / "grafana" / "lockstep.json"
FOREIGN = {"up"}
"""Of the scraping server itself."""


def rules() -> list[dict[str, Any]]:
    [group] = yaml.safe_load(RULES.read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def board() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(BOARD.read_text())
    return found


def asked() -> Iterator[str]:
    for rule in rules():
        yield rule["expr"]
    for panel in board()["panels"]:
        for target in panel["targets"]:
            yield target["expr"].replace("$__rate_interval", "1m").replace("$instance", ".*")


def known() -> dict[str, set[str]]:
    """Every series that a broker exposes, with its labels."""
    suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
    return {
        family.name + suffix: set(metric._labelnames) | ({"le"} if suffix == "_bucket" else set())
        for metric in vars(Metrics()).values()
        if hasattr(metric, "_labelnames")
        for family in metric.describe()
        for suffix in suffixes[family.type]
    }


@pytest.mark.parametrize("expression", list(asked()))
def test_what_is_asked_parses_and_is_there(expression: str) -> None:
    promql_parser.parse(expression)
    exposed = known()
    named = set(re.findall(r"\b(lockstep_\w+|up)\b", expression)) - FOREIGN
    assert named <= exposed.keys()
    grouped = {
        label.strip() for found in re.findall(r"by \(([^)]*)\)", expression) for label in found.split(",")
    }
    matched = set(re.findall(r"[{,] *(\w+) *=~?\"", expression))
    labels = {label for name in named for label in exposed[name]} | {"instance", "job"}
    assert (grouped | matched) - {"job"} <= labels


def test_every_alert_says_what_to_do_and_is_on_the_page() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    for rule in rules():
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"].keys() == {"summary", "action"}
    assert "deploy/prometheus/lockstep.rules.yml" in page
    assert "deploy/grafana/lockstep.json" in page


def test_what_the_page_says_to_watch_has_a_rule() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    told = {
        name
        for line in page.splitlines()
        if line.startswith("| `") and "lockstep_" in line.split(" | ")[0]
        for name in re.findall(r"\blockstep_\w+", line.split(" | ")[0])
    }
    ruled = {name for rule in rules() for name in re.findall(r"\blockstep_\w+", rule["expr"])}
    assert len(told) >= 8
    assert told <= ruled


def test_nothing_is_exposed_that_nobody_looks_at() -> None:
    looked = {name for expression in asked() for name in re.findall(r"\blockstep_\w+", expression)}
    families = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in known()}
    assert families <= {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in looked}


def test_panels_have_names_and_places_of_their_own() -> None:
    panels = board()["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (place["x"] + right, place["y"] + down)
            for right in range(place["w"])
            for down in range(place["h"])
        }
        assert not cells & taken
        taken |= cells


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not here (Debian: prometheus)")
@pytest.mark.parametrize("command", [("check", RULES.name), ("test", "lockstep.rules.test.yml")])
def test_prometheus_own_tool_takes_them(command: tuple[str, str]) -> None:
    verb, file = command
    done = subprocess.run(
        ["promtool", verb, "rules", file],
        cwd=RULES.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
