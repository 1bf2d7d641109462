"""Lines of the audit log, one by one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

LONGEST: Final = 64 * 1024 * 1024
"""Bytes of a line; a longer one is none of the log's."""

_BEGINNING: Final = b'{"chain":"'


def parsed(raw: bytes) -> dict[str, Any] | None:
    """A line as an object with a hash, or the head of an excerpt; None for anything else."""
    try:
        line = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    if not isinstance(line, dict):
        return None
    return line if isinstance(line.get("hash"), str) or "export" in line else None


def is_withheld(line: Mapping[str, Any]) -> bool:
    """True for a link of the chain whose content an excerpt leaves out."""
    return "digest" in line and "decision" not in line and "checkpoint" not in line


def is_torn(raw: bytes) -> bool:
    """True for what may be the beginning of a line, whose names are sorted."""
    text = raw.rstrip(b"\n")
    return text.startswith(_BEGINNING) or _BEGINNING.startswith(text)


def hashes_of(path: Path) -> Iterator[str]:
    """The hash that each line names."""
    with path.open("rb") as file:
        while raw := file.readline(LONGEST):
            line = parsed(raw)
            if line is not None and "hash" in line:
                yield line["hash"]
