"""A fake broker over real TLS, and a client's settings for it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from lockstep.formats import code_set_digest
from lockstep.v1 import evidence_pb2
from lockstep_client.evidence import EvidenceSource, Measured
from lockstep_client.settings import Settings
from tests.fakes.broker import FakeBroker
from tests.fakes.tls import ServerFiles, server_files


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> ServerFiles:
    return server_files(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def broker(tls: ServerFiles) -> Iterator[FakeBroker]:
    server = FakeBroker(tls).start()
    yield server
    server.stop()


@pytest.fixture
def settings(broker: FakeBroker, tls: ServerFiles, tmp_path: Path) -> Settings:
    token = tmp_path / "identity.jwt"
    token.write_text("header.claims.signature\n")
    return Settings(address=broker.address, ca_file=str(tls.ca_file), identity_token_file=str(token))


class Loaded:
    """Evidence of a made-up code set that a test can grow."""

    def __init__(self) -> None:
        self.digests: set[bytes] = {bytes([1]) * 32}

    def source(self) -> EvidenceSource:
        return Measured(self._measure, self._state)

    def _measure(self, base: frozenset[bytes] | None) -> frozenset[bytes]:
        return frozenset(self.digests) | (base or frozenset())

    def _state(
        self, found: frozenset[bytes], nonce: bytes, thumbprint: bytes, base: frozenset[bytes] | None
    ) -> bytes:
        kind = evidence_pb2.UNIT_KIND_PYTHON_SOURCE
        added: Sequence[bytes] = sorted(found - (base or frozenset()))
        return evidence_pb2.EvidenceStatement(
            nonce=nonce,
            key_thumbprint=thumbprint,
            units=[evidence_pb2.UnitSet(kind=kind, digests=added)],
            code_set_digest=_digest(found),
            base_digest=b"" if base is None else _digest(base),
        ).SerializeToString()


def _digest(found: frozenset[bytes]) -> bytes:
    return code_set_digest(("python_source", item) for item in found)


@pytest.fixture
def loaded() -> Loaded:
    return Loaded()


Run = Callable[..., subprocess.Popen[str]]
"""Starts ``lockstep run`` with some arguments, in the test's folder; `env` adds to the environment."""

READ = "import os\nprint(open(os.environ['LOCKSTEP_CREDENTIAL_FILE']).read().strip(), flush=True)\n"


@pytest.fixture
def run(settings: Settings, tmp_path: Path) -> Iterator[Run]:
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str, **env: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "lockstep_client", "run", *arguments],
            env={**os.environ, **settings.environment(), **env},
            cwd=tmp_path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # no terminal, whoever runs the tests
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:  # its test failed
            process.terminate()
            process.communicate(timeout=30)


def app(folder: Path, text: str, name: str = "app.py") -> str:
    """A program's file."""
    path = folder / name
    path.write_text(text)
    return str(path)


@pytest.fixture
def evidence(loaded: Loaded) -> Callable[[], EvidenceSource]:
    return loaded.source


def becomes(condition: Callable[[], bool], timeout: float = 10.0) -> None:
    """For what has no event of its own: looks until it is so, fails the test after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it never became so"
        threading.Event().wait(0.01)


def refusal(look: Callable[[], object], kind: type[Exception], timeout: float = 10.0) -> Exception:
    """The error of the first look that fails; it has to be of a kind."""
    found: list[Exception] = []

    def failed() -> bool:
        try:
            look()
        except kind as error:
            found.append(error)
        return bool(found)

    becomes(failed, timeout)
    return found[0]
