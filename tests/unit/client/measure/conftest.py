"""Real interpreters that measure themselves and say what they found, as JSON."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

TELL = """
def tell():
    import json
    from lockstep_client.measure import measure_self
    found = measure_self()
    print("MEASURED " + json.dumps({
        "units": sorted((kind.value, digest.hex()) for kind, digest in found.units),
        "hints": [(hint.digest.hex(), hint.path, hint.name) for hint in found.hints],
        "unknown": [(item.name, item.reason) for item in found.unknown],
        "anonymous": [(item.permissions, item.deleted, item.name) for item in found.anonymous],
    }), flush=True)
"""


@dataclass
class Told:
    """What a measured process said."""

    units: set[tuple[str, str]]
    hints: list[tuple[str, str, str]]
    unknown: dict[str, str]
    anonymous: list[tuple[str, bool, str]]
    output: str = field(default="")

    def kinds_of(self, name: str) -> set[str]:
        """Kinds of the units whose hint has this name."""
        digests = {digest for digest, _, hint in self.hints if hint == name}
        return {kind for kind, digest in self.units if digest in digests}


@dataclass
class Lab:
    """A folder with an application, and a python to run it."""

    folder: Path

    def write(self, name: str, text: str, *, age: float = 100.0) -> Path:
        """A file that is `age` seconds old."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        self.age(path, age)
        return path

    def age(self, path: Path, age: float = 100.0) -> None:
        """Set a file's modification time back."""
        status = path.stat()
        os.utime(path, (status.st_atime - age, status.st_mtime - age))

    def run(
        self,
        *arguments: str,
        text: str | None = None,
        env: Mapping[str, str] | None = None,
        python: str = sys.executable,
    ) -> Told:
        """Run python with these arguments until it has told."""
        self.write("tell.py", TELL)
        variables = {"PATH": os.environ["PATH"], "PYTHONPATH": str(self.folder), **(env or {})}
        result = subprocess.run(
            [python, *arguments],
            input=text,
            env=variables,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=50,
        )
        for line in result.stdout.splitlines():
            if line.startswith("MEASURED "):
                said: dict[str, Any] = json.loads(line.removeprefix("MEASURED "))
                return Told(
                    units={(kind, digest) for kind, digest in said["units"]},
                    hints=[(digest, path, name) for digest, path, name in said["hints"]],
                    unknown=dict(said["unknown"]),
                    anonymous=[(a, b, c) for a, b, c in said["anonymous"]],
                    output=result.stdout,
                )
        raise AssertionError(f"told nothing: {result.stdout}{result.stderr}")


def digest_of(path: Path, skip: int = 0) -> str:
    """Hexadecimal SHA-256 of a file, without its first `skip` bytes."""
    return sha256(path.read_bytes()[skip:]).hexdigest()


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


@pytest.fixture
def digest() -> Callable[..., str]:
    return digest_of
