"""The import contracts bite: each planted fault breaks exactly the contracts that it should."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINTER = Path(sys.executable).with_name("lint-imports")

# A house with every room and nothing in it. Its lockstep has an __init__, unlike the real one, so that Python
# does not merge the real one into it.
ROOMS = [
    "broker/__init__.py",
    "broker/__main__.py",
    "broker/cli.py",
    "broker/bootstrap.py",
    "broker/settings.py",
    "broker/attest.py",
    "broker/issue.py",
    "broker/revoke.py",
    "broker/upkeep.py",
    "broker/ports.py",
    "broker/errors.py",
    "broker/model/__init__.py",
    "broker/model/identity.py",
    "broker/api/__init__.py",
    "broker/api/server.py",
    "broker/crypto/__init__.py",
    "broker/crypto/jose.py",
    "broker/adapters/__init__.py",
    "broker/adapters/clock.py",
    "broker/adapters/backends/__init__.py",
    "broker/adapters/backends/vault.py",
    "broker/adapters/cutters/__init__.py",
    "broker/adapters/cutters/postgres.py",
    "broker/adapters/evidence/__init__.py",
    "broker/adapters/evidence/sdk.py",
    "broker/adapters/feed/__init__.py",
    "broker/adapters/feed/local.py",
    "broker/adapters/state/__init__.py",
    "broker/adapters/state/sqlite.py",
    "lockstep/__init__.py",
    "lockstep/formats.py",
    "lockstep/v1/__init__.py",
    "lockstep/v1/evidence_pb2.py",
    "lockstep_client/__init__.py",
    "lockstep_client/client.py",
    "lockstep_client/cli.py",
]

SOUND = {
    "broker/cli.py": "import click, rich, broker.bootstrap",
    "broker/bootstrap.py": "import uvloop, broker.api.server, broker.adapters.clock, broker.upkeep",
    "broker/settings.py": "import pydantic",
    "broker/api/server.py": "import grpc.aio, starlette, lockstep.v1.evidence_pb2, broker.attest",
    "broker/adapters/backends/vault.py": "import hvac, tenacity, broker.ports, broker.errors",
    "broker/adapters/cutters/postgres.py": "import asyncpg, tenacity, broker.model, broker.errors",
    "broker/adapters/evidence/sdk.py": "import lockstep.v1.evidence_pb2, broker.crypto.jose, broker.model",
    "broker/attest.py": "import lockstep.formats, hashlib, broker.ports, broker.model, broker.errors",
    "lockstep_client/client.py": "import grpc, lockstep.v1.evidence_pb2, lockstep.formats",
    "lockstep_client/cli.py": "import click, rich, lockstep_client.client",
}

FAULTS = [
    ("broker/utils.py", "", {"arrow"}),
    ("broker/issue.py", "import broker.revoke", {"arrow"}),
    ("broker/attest.py", "import broker.crypto.jose", {"arrow"}),
    ("broker/model/identity.py", "import broker.ports", {"arrow"}),
    ("broker/api/server.py", "import broker.adapters.clock", {"arrow"}),
    ("broker/adapters/clock.py", "import broker.settings", {"arrow", "plugs-know-no-verbs"}),
    ("broker/adapters/backends/vault.py", "import broker.issue", {"plugs-know-no-verbs"}),
    ("broker/adapters/state/sqlite.py", "import broker.adapters.feed.local", {"families"}),
    ("broker/revoke.py", "import pydantic", {"core-without-vendors"}),
    ("broker/ports.py", "import grpc", {"core-without-vendors", "doors-only"}),
    ("broker/model/identity.py", "import lockstep.v1.evidence_pb2", {"core-without-vendors", "wire"}),
    ("broker/adapters/state/sqlite.py", "import lockstep.v1.evidence_pb2", {"wire"}),
    ("broker/adapters/state/sqlite.py", "import grpc", {"doors-only"}),
    ("broker/api/server.py", "import hvac", {"vault"}),
    ("broker/adapters/state/sqlite.py", "import asyncpg", {"postgres"}),
    ("broker/adapters/backends/vault.py", "import broker.adapters.cutters.postgres", {"families"}),
    ("lockstep_client/client.py", "import broker.model", {"client-without-broker"}),
    ("lockstep_client/client.py", "import rich", {"light-client"}),
    ("lockstep_client/client.py", "import securesystemslib", {"light-client"}),
    ("lockstep/formats.py", "import google.protobuf", {"formats"}),
    ("lockstep/formats.py", "import lockstep_client", {"protos-know-nobody", "client-without-broker"}),
]


def broken_contracts(house: Path) -> set[str]:
    config = tomllib.loads((house / "pyproject.toml").read_text())
    ids = {contract["name"]: contract["id"] for contract in config["tool"]["importlinter"]["contracts"]}
    result = subprocess.run(
        [LINTER, "--no-logo", "--no-cache"],
        cwd=house,
        env={**os.environ, "PYTHONPATH": str(house)},
        capture_output=True,
        text=True,
    )
    verdicts = {
        name: re.search(rf"^{re.escape(name)} (KEPT|BROKEN)", result.stdout, re.MULTILINE) for name in ids
    }
    broken = set()
    for name, verdict in verdicts.items():
        assert verdict, result.stdout + result.stderr
        if verdict[1] == "BROKEN":
            broken.add(ids[name])
    assert (result.returncode != 0) == bool(broken)
    return broken


@pytest.fixture
def house(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for room in ROOMS:
        module = tmp_path / room
        module.parent.mkdir(parents=True, exist_ok=True)
        module.write_text(SOUND.get(room, "") + "\n")
    return tmp_path


def test_a_sound_house_stands(house: Path) -> None:
    assert broken_contracts(house) == set()


@pytest.mark.parametrize(("room", "fault", "contracts"), FAULTS)
def test_a_planted_fault_breaks_its_contract(house: Path, room: str, fault: str, contracts: set[str]) -> None:
    with (house / room).open("a") as module:
        module.write(fault + "\n")
    assert broken_contracts(house) == contracts
