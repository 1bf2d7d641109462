"""The SQL of the store, by name: ``family.query`` is ``-- name: query`` in ``family.sql``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files

_NAME = re.compile(r"^-- name: ([a-z_]+)$", re.MULTILINE)


def load_queries() -> Mapping[str, str]:
    """Every query of this folder. Raises ``ValueError`` where a name is taken twice."""
    found: dict[str, str] = {}
    for file in files(__name__).iterdir():
        family, dot, kind = file.name.rpartition(".")
        if kind != "sql" or not dot:
            continue
        _, *parts = _NAME.split(file.read_text(encoding="utf-8"))
        for name, text in zip(parts[::2], parts[1::2], strict=True):
            if f"{family}.{name}" in found:
                raise ValueError(f"the query {family}.{name} is there twice")
            found[f"{family}.{name}"] = text.strip()
    return found
