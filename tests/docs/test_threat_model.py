"""docs/threat-model.md: each claim and each known miss names tests that are there; no known miss is left out."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "threat-model.md").read_text()
SHOWN = re.compile(r"\[`(test_\w+)`\]\(\.\./(tests/[\w/]+\.py)\)")
HEAD = re.compile(r"^\| .* \| shown by \|$")


@cache
def those_of(file: Path) -> dict[str, str]:
    """Its tests, and what each says of itself."""
    tree = ast.parse(file.read_text())
    return {
        node.name: ast.get_docstring(node) or ""
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }


def claims(page: str) -> list[tuple[str, str]]:
    """(section, row) of every table whose last column says what shows it."""
    found, section, inside = [], "", False
    for line in page.splitlines():
        if line.startswith("## "):
            section = line[3:]
        if HEAD.match(line):
            inside = True
        elif not line.startswith("|"):
            inside = False
        elif inside and not line.startswith("|---"):
            found.append((section, line))
    return found


def missing(row: str) -> list[str]:
    """Tests that a row names and that are not there; the row itself where it names none."""
    shown = SHOWN.findall(row)
    if not shown:
        return [row]
    return [
        f"{file}::{name}"
        for name, file in shown
        if not (ROOT / file).exists() or name not in those_of(ROOT / file)
    ]


@pytest.mark.parametrize(("section", "row"), claims(PAGE), ids=lambda text: text[2:40])
def test_a_claim_is_shown_by_tests_that_are_there(section: str, row: str) -> None:
    assert missing(row) == []


def test_a_claim_without_a_test_is_found() -> None:
    here = "tests/docs/test_threat_model.py"
    assert missing(f"| good | [`test_a_claim_without_a_test_is_found`](../{here}) |") == []
    assert missing(f"| gone | [`test_that_is_gone`](../{here}) |") == [f"{here}::test_that_is_gone"]
    assert missing("| nowhere | [`test_x`](../tests/no.py) |") == ["tests/no.py::test_x"]
    assert len(missing("| only words | trust us |")) == 1


def test_no_known_miss_is_left_out() -> None:
    known = set()
    for file in [*(ROOT / "tests" / "evasion").glob("*.py"), ROOT / "tests" / "e2e" / "test_known_misses.py"]:
        for name, text in those_of(file).items():
            if file.stem == "test_known_misses" or "miss" in name or text.startswith("Known miss"):
                known.add(name)
    said = "".join(row for section, row in claims(PAGE) if section == "What is not covered")
    assert len(known) > 5
    assert known - {name for name, _ in SHOWN.findall(said)} == set()
