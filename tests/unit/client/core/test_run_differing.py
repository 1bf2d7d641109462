"""What a refused check is about: packages that were upgraded, and files that nobody shipped."""

from __future__ import annotations

import base64
import hashlib
import os
from pathlib import Path

import pytest

from lockstep.v1 import decision_pb2, evidence_pb2
from lockstep_client.run.differing import lines


def installed(site: Path, name: str, version: str, files: dict[str, str]) -> None:
    """A wheel, as an installer leaves it."""
    rows = []
    for path, text in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(text)
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        rows.append(f"{path},sha256={digest},{len(text)}")
    info = site / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\n")
    (info / "RECORD").write_text("\n".join([*rows, f"{info.name}/RECORD,,"]))


def refused(*paths: Path, nearest: tuple[str, ...] = ()) -> decision_pb2.ExplainDecisionResponse:
    """As a broker explains it."""
    findings = [
        decision_pb2.Finding(
            reason="unit_not_approved",
            kind=evidence_pb2.UNIT_KIND_PYTHON_SOURCE,
            digest=hashlib.sha256(path.read_bytes()).digest(),
            path=str(path),
        )
        for path in paths
    ]
    return decision_pb2.ExplainDecisionResponse(
        decision=decision_pb2.Decision(findings=findings), nearest=nearest
    )


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "lib" / "site-packages"


def test_an_upgrade_says_from_which_version_to_which(site: Path) -> None:
    installed(site, "httpx", "0.28.1", {"httpx/_a.py": "a = 1\n", "httpx/_b.py": "b = 1\n"})
    found = lines(refused(*site.glob("httpx/*.py"), nearest=("pkg:pypi/httpx@0.27.2",)))
    assert found == ["httpx 0.27.2 → 0.28.1, 2 units (RECORD matches 2 of 2)"]


def test_a_file_that_is_not_what_its_package_shipped_is_counted_against_it(site: Path) -> None:
    installed(site, "httpx", "0.28.1", {"httpx/_a.py": "a = 1\n", "httpx/_b.py": "b = 1\n"})
    (site / "httpx/_b.py").write_text("import evil\n")
    found = lines(refused(*site.glob("httpx/*.py"), nearest=("pkg:pypi/httpx@0.28.1",)))
    assert found == ["httpx 0.28.1, 2 units (RECORD matches 1 of 2)"]


def test_a_package_that_nobody_approved_before_has_no_version_before(site: Path) -> None:
    installed(site, "left_pad", "1.0+local", {"left_pad.py": "pad = 1\n"})
    assert lines(refused(site / "left_pad.py")) == ["left-pad 1.0+local, 1 unit (RECORD matches 1 of 1)"]


def test_files_of_no_package_stand_by_their_path_the_nearest_first(site: Path, tmp_path: Path) -> None:
    (tmp_path / "pay.py").write_text("p = 1\n")
    elsewhere = tmp_path.parent / f"{tmp_path.name}-elsewhere.py"
    elsewhere.write_text("e = 1\n")
    try:
        found = lines(refused(elsewhere, tmp_path / "pay.py"))
    finally:
        elsewhere.unlink()
    assert found == [f"2 units of no package: pay.py {elsewhere}"]


def test_the_interpreter_is_the_base() -> None:
    module = Path(os.__file__)
    assert lines(refused(module)) == ["base, 1 unit"]


def test_what_is_missing_and_what_has_no_digest_is_not_about_a_package(tmp_path: Path) -> None:
    nothing = decision_pb2.Decision(
        findings=[
            decision_pb2.Finding(reason="unit_missing", kind=evidence_pb2.UNIT_KIND_SCRIPT, digest=bytes(32)),
            decision_pb2.Finding(reason="unknown_code", path="x"),
        ]
    )
    assert lines(decision_pb2.ExplainDecisionResponse(decision=nothing)) == []
