"""Whoever begins at the index finds every page, and the head of the house leads there."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from tests.support.commands import ROOTS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
INDEX = set(re.findall(r"\]\(([\w./-]+)\)", (DOCS / "README.md").read_text()))


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.stem)
def test_every_page_is_in_the_index(page: Path) -> None:
    assert page.name == "README.md" or page.name in INDEX


def test_the_first_page_leads_to_the_index() -> None:
    assert "(docs/README.md)" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", ROOTS)
def test_every_command_is_on_its_page(name: str) -> None:
    page = (DOCS / "commands.md").read_text()
    table = page[page.index(f"| `{name}` |") :].partition("\n\n")[0]
    root = ROOTS[name]
    assert isinstance(root, click.Group)
    assert set(re.findall(r"^\| `([a-z-]+)` \|", table, re.M)[1:]) == set(
        root.list_commands(click.Context(root))
    )


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.+)$", prose, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    "page", [*ROOT.glob("*.md"), *sorted(DOCS.rglob("*.md"))], ids=lambda page: page.name
)
def test_a_link_into_a_page_leads_to_a_heading(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text()):
        there = (page.parent / target) if target else page
        if there.suffix == ".md":
            assert anchor in anchors(there), f"{target}#{anchor}"
