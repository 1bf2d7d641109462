"""Every event of the log is on the page with its level and its fields, and the page names no other."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
LEVELS = {"debug", "info", "warning", "error", "critical", "exception"}


def calls(source: str) -> Iterator[tuple[ast.Call, str]]:
    """Each call of a log's method, with the level."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LEVELS:
            owner = ast.unparse(node.func.value)
            if owner.rpartition(".")[2].lstrip("_") in ("log", "logger", "logging"):
                yield node, node.func.attr


def said() -> dict[tuple[str, str], set[str]]:
    """(event, level) → fields that the code names."""
    found: dict[tuple[str, str], set[str]] = defaultdict(set)
    for file in sorted((ROOT / "broker").rglob("*.py")):
        for call, level in calls(file.read_text()):
            [event] = call.args
            # A text that is made could have anything in it, and nobody could look for it.
            assert isinstance(event, ast.Constant), f"{file}:{call.lineno}: an event is a fixed text"
            fields = {keyword.arg for keyword in call.keywords if keyword.arg is not None}
            found[event.value, level] |= fields
    return dict(found)


def told() -> dict[tuple[str, str], set[str]]:
    """The same by the page."""
    page = (ROOT / "docs" / "operations.md").read_text()
    _, _, rest = page.partition("\n## The log\n")
    section, _, _ = rest.partition("\n## ")
    rows = re.findall(r"^\| `([^`]+)` \| (\w+) \| .* \|([^|]*)\|$", section, re.M)
    return {
        (event, level): set(re.findall(r"`(\w+)`", fields))
        for event, level, fields in rows
        if level in LEVELS
    }


def test_every_event_is_on_the_page() -> None:
    code, page = said(), told()
    assert len(code) >= 18
    assert code.keys() == page.keys()
    for event, fields in code.items():
        assert fields <= page[event], event


def test_nothing_logs_but_by_these_calls() -> None:
    """The standard library's logging and print would go past the JSON."""
    for file in sorted((ROOT / "broker").rglob("*.py")):
        tree = ast.parse(file.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("logging.getLogger", "print"):
                raise AssertionError(f"{file}:{node.lineno}")
