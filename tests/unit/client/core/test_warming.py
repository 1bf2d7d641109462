"""What is loaded before the first measurement, so that the SDK brings nothing of its own after it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
{before}
import lockstep_client.client
from lockstep_client import warming
from lockstep_client.messages import InstanceKey

if {warm}:
    warming.load_all()
before = set(sys.modules)
key = InstanceKey.generate()
key.seal(b"x")
key.proof(method="/a/B", body=b"", audience="a", issued_at=1.0, nonce=None)
key.dpop(method="GET", url="https://a.example/", token_hash="x", issued_at=1.0)
import logging
try:
    int("é".join("") + unknown_name)
except NameError:
    logging.getLogger("lockstep").exception("a callback failed")
if "sqlalchemy" in sys.modules:
    lockstep_client.sqlalchemy.bind
print(*sorted(set(sys.modules) - before))
"""


@pytest.mark.parametrize("before", ["", "import sqlalchemy"])
def test_nothing_is_imported_for_the_first_time_later(tmp_path: Path, before: str) -> None:
    program = tmp_path / "program.py"  # a file: tracebacks show its lines

    def later(*, warm: bool) -> list[str]:
        program.write_text(PROGRAM.format(before=before, warm=warm))
        done = subprocess.run(
            [sys.executable, str(program)], capture_output=True, text=True, timeout=50, check=True
        )
        assert "unknown_name" in done.stderr
        return done.stdout.split()

    assert later(warm=True) == []
    # The test sees what it is about: without it there is something.
    assert "cryptography.hazmat.backends.openssl" in later(warm=False)
