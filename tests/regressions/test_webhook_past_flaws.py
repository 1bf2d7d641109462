"""Flaws of receivers of webhooks; those that other tests would find are in the table."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

BROKER = Path(__file__).parents[2] / "broker"
_SECRET = re.compile(r"(^|_)(mac|hmac|signature|sig|digest_of_secret|secret|token|nonce_mac)$")
FILES = [
    "crypto/webhooks.py",
    "crypto/proof.py",
    "crypto/ring.py",
    "crypto/jose.py",
    "adapters/challenges.py",
]


def compared(source: str) -> list[str]:
    """What is compared by ``==`` or ``!=`` in some code, and has the name of a secret."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare) and any(isinstance(how, ast.Eq | ast.NotEq) for how in node.ops):
            for side in (node.left, *node.comparators):
                name = getattr(side, "attr", getattr(side, "id", ""))
                if _SECRET.search(name):
                    found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize("file", FILES)
def test_cwe_208_what_is_secret_is_compared_in_constant_time(file: str) -> None:
    """A signature that is compared byte for byte tells, by how long it takes, how much of it was right."""
    source = (BROKER / file).read_text()
    assert compared(source) == []
    if "hmac.digest(" in source:
        assert "hmac.compare_digest(" in source


def test_a_comparison_that_tells_is_found() -> None:
    assert compared("if hmac.digest(a, b, c) == mac: pass") == ["hmac.digest(a, b, c) == mac"]
    assert compared("if len(nonce) != 57 or kid == other: pass") == []
