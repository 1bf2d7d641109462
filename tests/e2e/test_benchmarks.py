"""The benchmarks run: every case against a real broker, each beside the empty call, and nothing fails."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

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


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_every_case_is_measured_against_the_empty_call() -> None:
    # The shortest runs there are: what they say of speed is nothing, and nothing of it is asserted.
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--json", "--rounds", "1", "--seconds", "0.05", "--units", "5"],
        cwd=ROOT,
        env=clean_environment({}),
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
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
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.manifest", "--json", "--files", "40", "--rounds", "1"],
        cwd=ROOT,
        env=clean_environment({}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["files"], found["units"]) == (40, 40)
    assert found["ratio"] == pytest.approx(found["seconds"]["build"] / found["seconds"]["sha256"])
