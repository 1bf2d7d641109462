"""Canaries: secrets that tests know of, and the search for them in whatever a run has left behind.

Whoever hands a secret out in a test says so (`keep`). At the end of the run nothing may hold one: no file of the
tests, no log of a broker, nothing that pytest has captured or written. Standard library only: every run loads it.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import urllib.parse
from collections.abc import Iterator, Sequence
from pathlib import Path

_LEAST = 12
"""A secret that is shorter stands in texts by accident."""

HOMES = ("*.key", "*.secret", "*.token", "*.e2e-token", "*token*.jwt")
"""Files that are there to hold a secret."""

_kept: dict[bytes, str] = {}
_logs: list[tuple[str, Sequence[str]]] = []


def keep(secret: str | bytes, what: str) -> None:
    """Remember a secret that must turn up nowhere; `what` says which it is, without it."""
    raw = secret.encode() if isinstance(secret, str) else secret
    if len(raw) >= _LEAST:
        _kept.setdefault(raw, what)


def keep_token(token: str, what: str) -> None:
    """Remember a signed token, by its signature: its claims may well be told."""
    keep(token.rpartition(".")[2], what)


def keep_keys(folder: Path) -> None:
    """Remember the private keys and shared secrets in a broker's folder."""
    for pattern in ("*.key", "*.secret"):
        for file in folder.glob(pattern):
            lines = [line for line in file.read_bytes().splitlines() if line and not line.startswith(b"-")]
            # Of a PEM file the last whole line: the first ones of all keys of a kind are alike.
            whole = lines[1:-1] or lines[-1:]
            for line in whole:
                keep(line.strip(), f"{file.name} of a broker")


def watch(name: str, lines: Sequence[str]) -> None:
    """Look through a log, as it is at the end of the run."""
    _logs.append((name, lines))


def spellings(secret: bytes) -> Iterator[bytes]:
    """As texts, dumps and encoders would write it."""
    yield secret
    yield secret.hex().encode()
    for shift in range(3):
        # base64 at each of the three places where it may begin; without the characters that neighbours have a part in.
        coded = base64.b64encode(bytes(shift) + secret)
        yield coded[-(-shift * 8 // 6) : len(coded) // 4 * 4 - 4]
    text = secret.decode("utf-8", "replace")
    yield json.dumps(text)[1:-1].encode()
    yield urllib.parse.quote(text, safe="").encode()


def needles() -> dict[bytes, str]:
    """Every spelling of every secret that was kept, and which secret it is."""
    return {
        spelling: what
        for secret, what in list(_kept.items())
        for spelling in spellings(secret)
        if len(spelling) >= _LEAST and b"\n" not in spelling
    }


def logs() -> Iterator[tuple[str, str]]:
    """What was watched: (name, text)."""
    for name, lines in _logs:
        yield name, "".join(list(lines))


def in_files(roots: Sequence[Path], wanted: dict[bytes, str], scratch: Path) -> list[str]:
    """Which file below `roots` holds which secret. `scratch` is a folder that is not below them.

    The search is grep's, which takes thousands of texts at once.
    """
    grep = shutil.which("grep")
    roots = [root for root in roots if root.exists()]
    if not wanted or not roots:
        return []
    assert grep is not None, "grep is needed to look for canaries"
    patterns = scratch / "needles"
    patterns.touch(mode=0o600)
    patterns.write_bytes(b"\n".join(wanted) + b"\n")
    command = [
        grep,
        "-rlaF",
        "--devices=skip",
        *(f"--exclude={home}" for home in HOMES),
        "-f",
        str(patterns),
        "--",
    ]
    try:
        done = subprocess.run(
            [*command, *map(str, roots)], env={"LC_ALL": "C"}, capture_output=True, timeout=120, check=False
        )
    finally:
        patterns.unlink()
    found = []
    for line in done.stdout.splitlines():
        file = Path(line.decode("utf-8", "surrogateescape"))
        found += [f"{what}: in {file}" for what in sorted(_hits(file.read_bytes(), wanted))]
    return found


def _hits(text: bytes, wanted: dict[bytes, str]) -> set[str]:
    return {what for needle, what in wanted.items() if needle in text}
