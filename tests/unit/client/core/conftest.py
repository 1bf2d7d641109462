"""A fake broker over real TLS, and a client's settings for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from lockstep.formats import code_set_digest
from lockstep.v1 import evidence_pb2
from lockstep.v1 import revocation_pb2 as rv
from lockstep_client.evidence import EvidenceSource, Measured
from lockstep_client.settings import Settings
from lockstep_client.verify import TokenVerifier
from tests.fakes.broker import FakeBroker
from tests.fakes.clock import START
from tests.fakes.introspection import IntrospectionServer
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
        self.measuring: Callable[[], None] = lambda: None

    def source(self) -> EvidenceSource:
        return Measured(self._measure, self._state)

    def _measure(self, base: frozenset[bytes] | None) -> frozenset[bytes]:
        self.measuring()
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


ISSUER = "https://broker.example"
URL = "https://api.example/pay?x=1"


class Clock:
    def __init__(self) -> None:
        self.ahead = 0.0

    def steady(self) -> float:
        return time.monotonic() + self.ahead

    def wall(self) -> float:
        return START + self.ahead


class Signer:
    """Signs what a test likes, as the broker's ring would."""

    def __init__(self, folder: Path) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        jwk = jwt.algorithms.ECAlgorithm.to_jwk(self.key.public_key(), as_dict=True)
        self.jwks = folder / "jwks.json"
        self.jwks.write_text(json.dumps({"keys": [{**jwk, "kid": "k1", "use": "sig", "alg": "ES256"}]}))

    def claims(self, **changed: Any) -> dict[str, Any]:
        facts = {
            "role": "pay",
            "mode": "enforce",
            "attestation": "A-1",
            "lease": "L-1",
            "assurance": "self",
            "manifests": ["ab" * 32],
            "as_of": 5,
            "node": "n1",
        }
        facts.update(changed.pop("facts", {}))
        claims = {
            "iss": ISSUER,
            "sub": "https://idp|me",
            "aud": "pay-api",
            "exp": int(START) + 300,
            "iat": int(START),
            "jti": "T-1",
            "scope": "read write",
            "lockstep": facts,
        }
        return {name: value for name, value in (claims | changed).items() if value is not None}

    def token(self, header: dict[str, Any] | None = None, key: Any = None, **changed: Any) -> str:
        headers = {"typ": "at+jwt", "kid": "k1"} | (header or {})
        return jwt.encode(self.claims(**changed), key or self.key, "ES256", headers=headers)


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return Signer(tmp_path)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def offline(signer: Signer, clock: Clock) -> TokenVerifier:
    return TokenVerifier(
        audience="pay-api", issuer=ISSUER, jwks=signer.jwks, feed=False, settings=Settings(), clock=clock
    )


@pytest.fixture
def introspection(tls: ServerFiles) -> Iterator[IntrospectionServer]:
    with IntrospectionServer(tls) as server:
        yield server


@pytest.fixture
def live(
    signer: Signer,
    clock: Clock,
    broker: FakeBroker,
    tls: ServerFiles,
    tmp_path: Path,
    introspection: IntrospectionServer,
) -> Iterator[TokenVerifier]:
    identity = tmp_path / "server.jwt"
    identity.write_text("resource.server.jwt")
    settings = Settings(
        address=broker.address,
        ca_file=str(tls.ca_file),
        identity_token_file=str(identity),
        http_url=introspection.url,
    )
    for _ in range(5):  # tokens of these tests are granted as of 5
        broker.append(rv.RevocationEvent(kind=rv.EVENT_KIND_LIFTED))
    with TokenVerifier(
        audience="pay-api", issuer=ISSUER, jwks=signer.jwks, settings=settings, clock=clock
    ) as it:
        it.wait_ready(5)
        yield it


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
