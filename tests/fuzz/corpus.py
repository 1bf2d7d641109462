"""The kept inputs: a file each, named by its content. `python -m tests.fuzz.corpus` writes what `seeds` gives."""

from __future__ import annotations

import hashlib
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"


def kept(target: str) -> list[Path]:
    """The inputs of a target."""
    return sorted(path for path in (CORPUS / target).glob("*") if path.is_file())


def keep(target: str, data: bytes) -> Path:
    """Add an input; the same one twice is one file."""
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / hashlib.sha256(data).hexdigest()[:16]
    path.write_bytes(data)
    return path


if __name__ == "__main__":
    from tests.fuzz.targets import seeds

    for name, inputs in seeds().items():
        if not kept(name):
            for item in inputs:
                keep(name, item)
