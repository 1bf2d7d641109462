"""The benchmarks run: every case against a real broker, each beside the empty call, and nothing fails."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.actors import clean_environment

ROOT = Path(__file__).parents[2]
CASES = {
    "attest c=1": {"challenge", "attest"},
    "issue c=1": {"issue"},
    "issue open loop": {"open"},
    "renew c=1": {"reattest", "renew"},
    "report c=1": {"answered", "inactive", "refused", "told"},
    "report under load": {"answered", "inactive", "refused", "told"},
}


def _ran(*arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", *arguments, "--json"],
        cwd=ROOT,
        env=clean_environment({}),
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_every_case_is_measured_against_the_empty_call() -> None:
    # The shortest runs there are: what they say of speed is nothing, and nothing of it is asserted.
    found = _ran("benchmarks", "--rounds", "1", "--seconds", "0.05", "--units", "5")
    cases = found["cases"]
    assert found["machine"]["cpu"]
    for label, measures in CASES.items():
        assert set(cases[label]["measures"]) == measures
    for label, case in cases.items():
        assert not case["failures"], label
        for measure in case["measures"].values():
            assert 0 < measure["p50"] <= measure["p99"]
            assert measure["ratio"] > 0
    assert cases["empty c=1"]["measures"]["empty"]["ratio"] == 1.0


def test_a_build_is_measured_beside_a_plain_loop() -> None:
    found = _ran("benchmarks.manifest", "--files", "40", "--rounds", "1")
    assert (found["files"], found["units"]) == (40, 40)
    assert found["ratio"] == pytest.approx(found["seconds"]["build"] / found["seconds"]["sha256"])


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_brokers_with_live_leases_are_measured_in_turns() -> None:
    found = _ran("benchmarks.scale", "0", "30", "--rounds", "1", "--seconds", "0.05")
    assert [case["leases"] for case in found["cases"]] == [0, 30]
    for case in found["cases"]:
        assert min(case["ready_seconds"], case["resident_bytes"], case["issue_to_empty"]) > 0


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_workload_that_is_measured_is_measured() -> None:
    found = _ran("benchmarks.measuring", "--modules", "5", "--mapped", "4", "--units", "20", "--rounds", "1")
    assert found["units"] > 9  # its modules and mapped files, and what Python itself brings
    assert set(found["milliseconds"]) == {"sha256", "measure", "attest", "again"}
    assert min(*found["milliseconds"].values(), found["appraise"]["milliseconds"]) > 0


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_memory_and_open_files_stay_as_they_are_under_load() -> None:
    slices = _ran("benchmarks.soak", "--issues", "2400", "--slices", "6")["slices"]
    assert [each["issued"] for each in slices] == [400, 800, 1200, 1600, 2000, 2400]
    # The first slices fill caches; what a call leaves behind would be seen in the later ones.
    grown = slices[-1]["resident"] - slices[1]["resident"]
    assert grown < 24_000_000, grown
    assert slices[-1]["descriptors"] <= slices[1]["descriptors"] + 4
