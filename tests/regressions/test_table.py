"""Every case of the table has its line, and every test that it names exists."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
TESTS = HERE.parent

# The cases that were collected; 3, 7, 11 and the other gaps concern nothing that we have.
CASES = {
    *(1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, 16, 17, 18, 20, 21, 22, 24, 25, 26, 28),  # Vault, OpenBao
    *(29, 30, 32, 33, 34, 36, 37),  # SPIRE
    *(38, 40, 41, 42, 44, 45),  # Keylime
    *(46, 48, 49, 50, 52, 53, 54, 56, 57, 58, 60),  # Teleport, Sigstore, TUF, in-toto, OPA
    *(61, 62, 64),  # JOSE
    *(65, 66, 68, 69),  # gRPC and HTTP
    *(70, 72, 73, 74),  # webhooks
}
WIRE = {f"wire {number}" for number in range(1, 6)}
"""What was reproduced on the library of our own wire."""

_ROW = re.compile(r"^\| ([^|]+?) \| ([^|]+?) \| ([^|]+?) \|$", re.MULTILINE)
_TEST = re.compile(r"`([^`]*\.py::[^`]*)`")


def rows() -> dict[str, str]:
    found: dict[str, str] = {}
    for case, _, tests in _ROW.findall((HERE / "README.md").read_text()):
        if case not in ("case", "---"):
            assert case not in found, f"case {case} has two lines"
            found[case] = tests
    return found


@cache
def defined(file: Path) -> frozenset[str]:
    def names(body: list[ast.stmt], prefix: str) -> Iterator[str]:
        for node in body:
            if isinstance(node, ast.ClassDef):
                yield from names(node.body, f"{prefix}{node.name}::")
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield prefix + node.name

    return frozenset(names(ast.parse(file.read_text()).body, ""))


def test_every_case_has_its_line() -> None:
    assert set(rows()) == {str(number) for number in CASES} | WIRE


def test_every_line_names_a_test_or_says_why_not() -> None:
    bare = [case for case, tests in rows().items() if not _TEST.search(tests) and len(tests.split()) < 4]
    assert bare == []


def test_every_test_that_is_named_exists() -> None:
    missing = []
    for case, tests in rows().items():
        for test in _TEST.findall(tests):
            file, _, name = test.partition("::")
            if not (TESTS / file).is_file() or name not in defined(TESTS / file):
                missing.append(f"{case}: {test}")
    assert missing == []


def test_every_test_of_this_folder_is_in_the_table() -> None:
    named = {test for tests in rows().values() for test in _TEST.findall(tests)}
    here = {
        f"regressions/{file.name}::{name}"
        for file in HERE.glob("test_*past*.py")
        for name in defined(file)
        if name.startswith("test_")
    }
    spare = {
        "regressions/test_webhook_past_flaws.py::test_a_comparison_that_tells_is_found",
        "regressions/test_jose_past_flaws.py::test_a_key_id_is_a_name_and_no_way_to_a_key",
        "regressions/test_jose_past_flaws.py::test_two_claims_of_one_name",
    }
    assert here - named - spare == set()
