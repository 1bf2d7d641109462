"""The HTTP door answers as `docs/openapi.yaml` says, whatever it is asked (schemathesis)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from broker.api.access import HTTP, Who
from broker.api.faults import http_status
from broker.errors import InvalidRequest, LimitExceeded, NotFound, Unauthenticated, Unavailable
from lockstep.formats import Reason
from tests.support.actors import clean_environment
from tests.support.brokers import Broker

DESCRIPTION = Path(__file__).parents[2] / "docs" / "openapi.yaml"
# Nobody signs what is made up, and what is signed well is known by other tests; any text may be asked about.
LEFT_OUT = "positive_data_acceptance,negative_data_rejection"


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(DESCRIPTION.read_text())
    return found


def operations(described: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (method.upper(), path): operation
        for path, methods in described["paths"].items()
        for method, operation in methods.items()
    }


def test_it_has_every_path_and_no_other(described: dict[str, Any]) -> None:
    assert set(operations(described)) == set(HTTP)


def test_who_must_say_who_it_is_is_told_so(described: dict[str, Any]) -> None:
    for route, operation in operations(described).items():
        named = bool(HTTP[route].callers - {Who.PUBLIC, Who.SIGNED})
        assert bool(operation.get("security")) is named, route
        assert ("401" in operation["responses"]) is not HTTP[route].admits(Who.PUBLIC), route


def test_refusals_have_the_statuses_of_the_table(described: dict[str, Any]) -> None:
    refusals = {
        str(http_status(error))
        for error in (
            InvalidRequest("x"),
            Unauthenticated(Reason.NO_IDENTITY, "x"),
            NotFound("x"),
            LimitExceeded("x"),
            LimitExceeded("x", reason=Reason.TOO_LARGE),
            Unavailable(Reason.STATE_UNAVAILABLE, "x"),
        )
    }
    assert set(operations(described)["POST", "/v1/detections/{source}"]["responses"]) == refusals | {
        "202",
        "403",
    }


@pytest.mark.timeout(120)
def test_whatever_is_asked_is_answered_as_described(broker: Broker, tmp_path: Path) -> None:
    token = (broker.folder / "operator.token").read_text().strip()
    done = run(DESCRIPTION, broker, tmp_path, "-H", f"Authorization: Bearer {token}")
    assert done.returncode == 0, done.stdout[-6000:]
    assert "internal" not in broker.log


@pytest.mark.timeout(120)
def test_an_answer_that_is_not_described_is_found(
    broker: Broker, described: dict[str, Any], tmp_path: Path
) -> None:
    responses = described["paths"]["/healthz"]["get"]["responses"]
    spoilt = {**described, "paths": {"/healthz": {"get": {"responses": {**responses, "200": {
        "description": "x", "content": {"application/json": {"schema": {"required": ["nothing"]}}},
    }}}}}}  # fmt: skip
    file = tmp_path / "spoilt.yaml"
    file.write_text(yaml.safe_dump(spoilt))
    assert run(file, broker, tmp_path, "--max-failures", "1", "--no-shrink").returncode == 1


def run(file: Path, broker: Broker, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """The same questions in every run; the folder of the test is where it keeps its own files."""
    return subprocess.run(
        [
            *(os.path.join(os.path.dirname(sys.executable), "schemathesis"), "run", str(file)),
            *(
                "--url",
                broker.http_url,
                "--tls-verify",
                str(broker.ca),
                "--seed",
                "1",
                "--generation-deterministic",
            ),
            *(
                "--max-examples",
                "8",
                "--max-time",
                "15",
                "--phases",
                "examples,coverage,fuzzing",
                "--no-color",
            ),
            *("--exclude-checks", LEFT_OUT, "--request-timeout", "10"),
            *("--output-sanitize", "true", "--warnings", "off", "--max-response-time", "5"),
            *options,
        ],
        cwd=folder,
        env=clean_environment({"HYPOTHESIS_STORAGE_DIRECTORY": str(folder)}),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
