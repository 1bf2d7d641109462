"""Policies as Vault reads them: rules written as HCL."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from broker.adapters.backends.vault_setup.rules import Rule


def render(rules: Iterable[Rule], *, about: str = "") -> str:
    """HCL that `bao policy write` takes, a comment above each stanza."""
    return "\n".join(_lines(rules, about)) + "\n"


def _lines(rules: Iterable[Rule], about: str) -> Iterator[str]:
    yield from _comment(about)
    first = not about
    for rule in rules:
        if not first:
            yield ""
        first = False
        yield from _comment(rule.why)
        yield f"path {_value(rule.path)} {{"
        yield f"  capabilities = {_value(sorted(rule.capabilities))}"
        if rule.allowed is not None:
            yield "  allowed_parameters = {"
            for name, values in rule.allowed.items():
                yield f"    {_value(name)} = {_value(list(values))}"
            yield "  }"
        if rule.needed:
            yield f"  required_parameters = {_value(list(rule.needed))}"
        yield "}"


def _comment(text: str) -> Iterator[str]:
    for line in text.splitlines():
        yield f"# {line}".rstrip()


def _value(value: Any) -> str:
    # JSON's strings, lists and booleans are HCL's, but for interpolation, which policies have as {{ }} only.
    return json.dumps(value, ensure_ascii=False)
