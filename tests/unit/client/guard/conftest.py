"""Real interpreters under a guard: what they load after the baseline, and what the guard told."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest

BEGIN = """
import json, sys, atexit
from lockstep_client.guard import Approved, Guard, GuardMode, CodeRefused
from lockstep_client.measure import measure_self
told = []
approved = Approved()
guard = Guard(told.append, approved, mode=GuardMode({mode!r}))
approved.add_measurement(measure_self())
guard.install()
def tell():
    guard.flush(5)
    lines = [[o.kind, o.digest.hex(), o.path, o.name, o.size] for o in list(told)]
    sys.stdout.write("TOLD " + json.dumps(lines) + chr(10) + f"LOST {{guard.lost}}" + chr(10))
    sys.stdout.flush()
"""
END = "\ntell()\n"


@dataclass(frozen=True)
class Seen:
    """One observation."""

    kind: str
    digest: str
    path: str
    name: str
    size: int


@dataclass
class Told:
    """All of them, and what else the process printed."""

    seen: list[Seen]
    output: str

    @property
    def kinds(self) -> list[str]:
        """The kinds, in order."""
        return [item.kind for item in self.seen]

    def digests(self) -> set[str]:
        """Hexadecimal."""
        return {item.digest for item in self.seen}


@dataclass
class Guarded:
    """A folder, and a process that runs text in it under a guard."""

    folder: Path

    def run(
        self,
        text: str,
        *,
        mode: str = "report",
        before: str = "",
        env: Mapping[str, str] | None = None,
    ) -> Told:
        """`before` runs before the guard comes, `text` after it. The script itself is in a file."""
        script = self.folder / "app.py"
        script.write_text(before + BEGIN.format(mode=mode) + text + END)
        variables = {"PATH": os.environ["PATH"], **(env or {})}
        result = subprocess.run(
            [sys.executable, str(script)],
            env=variables,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=50,
        )
        for line in result.stdout.splitlines():
            if line.startswith("TOLD "):
                seen = [Seen(*item) for item in json.loads(line.removeprefix("TOLD "))]
                return Told(seen, result.stdout + result.stderr)
        raise AssertionError(f"told nothing: {result.stdout}{result.stderr}")

    def write(self, name: str, text: str) -> Path:
        """A file in the folder."""
        path = self.folder / name
        path.write_text(text)
        return path

    def library(self, name: str = "evil.so") -> Path:
        """A shared library that nobody approved."""
        source = self.write("evil.c", "int evil(void) { return 42; }\n")
        path = self.folder / name
        try:
            subprocess.run(
                ["cc", "-shared", "-fPIC", "-o", str(path), str(source)], check=True, capture_output=True
            )
        except FileNotFoundError:
            pytest.skip("no C compiler here")
        return path


def text_digest(text: str) -> str:
    """Hexadecimal SHA-256 of UTF-8 text."""
    return sha256(text.encode()).hexdigest()


@pytest.fixture
def guarded(tmp_path: Path) -> Guarded:
    return Guarded(tmp_path)
