"""A real process under the guard and the measurement, in which evil happens; what was told, and what was found."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest

HARNESS = """
import json, sys
from lockstep_client.guard import Approved, Guard
from lockstep_client.measure import measure_self
{before}
told, approved = [], Approved()
guard = Guard(told.append, approved)
baseline = measure_self()
approved.add_measurement(baseline)
guard.install()
guard.flush(5)
{evil}
guard._outbox.put(None)
guard.flush(5)
after = measure_self()
new = sorted((kind.value, digest.hex()) for kind, digest in after.units - baseline.units)
print("RESULT " + json.dumps({{
    "told": [[o.kind, o.digest.hex(), o.path, o.name] for o in told],
    "new": new,
    "unknown": [u.name for u in after.unknown if u not in baseline.unknown],
    "anonymous": [a.name for a in after.anonymous if a not in baseline.anonymous],
}}))
"""


@dataclass
class Result:
    """What the guard told, and what a second measurement found."""

    told: list[tuple[str, str, str, str]]
    new: set[tuple[str, str]]
    unknown: list[str]
    anonymous: list[str]
    output: str

    @property
    def kinds(self) -> set[str]:
        """Kinds that were told."""
        return {item[0] for item in self.told}

    @property
    def digests(self) -> set[str]:
        """Digests that were told."""
        return {item[1] for item in self.told}


class Range:
    """A folder where evil happens."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        os.utime(path, (1_700_000_000, 1_700_000_000))
        return path

    def library(self, body: str = "int evil(void) { return 42; }") -> Path:
        self.write("evil.c", body)
        path = self.folder / "evil.so"
        try:
            subprocess.run(
                ["cc", "-shared", "-fPIC", "-o", str(path), str(self.folder / "evil.c")],
                check=True,
                capture_output=True,
            )
        except FileNotFoundError:
            pytest.skip("no C compiler here")
        return path

    def run(
        self, evil: str, *, before: str = "", env: dict[str, str] | None = None, inherit: tuple[int, ...] = ()
    ) -> Result:
        script = self.write("app.py", HARNESS.format(before=before, evil=evil))
        result = subprocess.run(
            [sys.executable, str(script)],
            env={"PATH": os.environ["PATH"], **(env or {})},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=50,
            pass_fds=inherit,
        )
        for line in result.stdout.splitlines():
            if line.startswith("RESULT "):
                said = json.loads(line.removeprefix("RESULT "))
                return Result(
                    [(a, b, c, d) for a, b, c, d in said["told"]],
                    {(a, b) for a, b in said["new"]},
                    said["unknown"],
                    said["anonymous"],
                    result.stdout,
                )
        raise AssertionError(result.stdout + result.stderr)


def digest(data: bytes | str) -> str:
    return sha256(data.encode() if isinstance(data, str) else data).hexdigest()


@pytest.fixture
def scene(tmp_path: Path) -> Range:
    return Range(tmp_path)
