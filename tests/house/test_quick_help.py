"""``--help`` answers at once: it imports none of the packages whose loading takes most of a second."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.actors import clean_environment

HEAVY = ("grpc", "google.protobuf", "cryptography", "jwt", "rich", "securesystemslib", "structlog")
CALL = """
import sys
from {module} import main
sys.argv = ["{name}", *{arguments!r}]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print(*sorted(name for name in {heavy!r} if name in sys.modules), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("name", "module"), [("lockstep", "lockstep_client.cli"), ("lockstep-broker", "broker.cli")]
)
@pytest.mark.parametrize("arguments", [["--help"], ["completion", "bash"]], ids=" ".join)
def test_nothing_heavy_is_imported(name: str, module: str, arguments: list[str]) -> None:
    code = CALL.format(module=module, name=name, arguments=arguments, heavy=HEAVY)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=clean_environment({}),
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stderr == "\n"
    assert name in done.stdout


def test_the_sdk_s_version_costs_no_more() -> None:
    code = CALL.format(module="lockstep_client.cli", name="lockstep", arguments=["--version"], heavy=HEAVY)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stderr == "\n"
    assert done.stdout.startswith("lockstep ")
