"""Whoever begins at the index finds every page, and the head of the house leads there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
INDEX = set(re.findall(r"\]\(([\w./-]+)\)", (DOCS / "README.md").read_text()))


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.stem)
def test_every_page_is_in_the_index(page: Path) -> None:
    assert page.name == "README.md" or page.name in INDEX


def test_the_first_page_leads_to_the_index() -> None:
    assert "(docs/README.md)" in (ROOT / "README.md").read_text()
