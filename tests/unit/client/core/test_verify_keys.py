"""The issuer's keys: who has a known one never waits, nobody hammers the issuer, and no answer takes for ever."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lockstep_client import ConfigurationError, Denied, Unavailable
from lockstep_client.messages import InstanceKey
from lockstep_client.settings import Settings
from lockstep_client.verify import TokenVerifier
from lockstep_client.verify.https import Https
from lockstep_client.verify.keys import LIFESPAN, MOST_WAITING, PAUSE
from tests.fakes.introspection import IntrospectionServer
from tests.fakes.tls import ServerFiles
from tests.unit.client.core.conftest import ISSUER, Clock, Signer, becomes

ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture
def online(
    signer: Signer, clock: Clock, tls: ServerFiles, introspection: IntrospectionServer
) -> TokenVerifier:
    """Takes its keys from the door, and has read them once."""
    introspection.jwks = signer.jwks.read_bytes()
    settings = Settings(ca_file=str(tls.ca_file), http_url=introspection.url)
    it = TokenVerifier(audience="pay-api", issuer=ISSUER, feed=False, settings=settings, clock=clock)
    assert it.verify(signer.token())
    return it


class Many:
    """Callers at once, and how each of them fared."""

    def __init__(self, count: int, act: Callable[[], object]) -> None:
        self.outcomes: list[str] = []
        self._act = act
        self._threads = [threading.Thread(target=self._run) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        try:
            self._act()
        except (Denied, Unavailable) as error:
            self.outcomes.append(type(error).__name__)
        else:
            self.outcomes.append("good")

    def join(self, timeout: float = 10.0) -> list[str]:
        for thread in self._threads:
            thread.join(timeout)
        return self.outcomes


def test_whoever_has_a_known_key_waits_for_nobody(
    online: TokenVerifier, signer: Signer, clock: Clock, introspection: IntrospectionServer
) -> None:
    long = signer.token(exp=int(signer.claims()["exp"]) + 3600)
    introspection.open.clear()
    clock.ahead = LIFESPAN + 1
    many = Many(10, lambda: online.verify(long))
    assert many.join() == ["good"] * 10  # while the issuer has not answered yet
    becomes(lambda: introspection.key_reads == 2)
    introspection.open.set()
    clock.ahead += PAUSE + 1
    assert online.verify(long)
    assert introspection.key_reads == 2


def test_an_issuer_that_fails_is_asked_again_after_a_pause_only(
    online: TokenVerifier, signer: Signer, clock: Clock, introspection: IntrospectionServer
) -> None:
    clock.ahead = PAUSE + 1
    introspection.key_status = 500
    for number in range(5):
        with pytest.raises(Unavailable):  # it may be a new key: nobody knows
            online.verify(signer.token({"kid": f"made-up-{number}"}))
    assert introspection.key_reads == 2
    clock.ahead += PAUSE + 1
    with pytest.raises(Unavailable):
        online.verify(signer.token({"kid": "made-up"}))
    assert introspection.key_reads == 3
    assert online.verify(signer.token())


def test_keys_that_cannot_be_read_again_hold_for_one_lifespan_more(
    online: TokenVerifier, signer: Signer, clock: Clock, introspection: IntrospectionServer
) -> None:
    long = signer.token(exp=int(signer.claims()["exp"]) + 3600)
    introspection.key_status = 500
    clock.ahead = 2 * LIFESPAN - 60
    assert online.verify(long)
    clock.ahead = 2 * LIFESPAN + 60
    with pytest.raises(Unavailable):
        online.verify(long)
    introspection.key_status = 200
    clock.ahead += PAUSE + 1
    assert online.verify(long)


def test_those_who_bring_unknown_keys_do_not_fill_the_house(
    online: TokenVerifier, signer: Signer, clock: Clock, introspection: IntrospectionServer
) -> None:
    clock.ahead = PAUSE + 1
    introspection.open.clear()
    unknown = signer.token({"kid": "made-up"})
    many = Many(MOST_WAITING + 10, lambda: online.verify(unknown))
    becomes(lambda: many.outcomes == ["Unavailable"] * 10)
    assert online.verify(signer.token())
    introspection.open.set()
    assert many.join().count("Denied") == MOST_WAITING
    assert introspection.key_reads == 2


def test_the_first_callers_all_wait_for_the_first_reading(
    signer: Signer, clock: Clock, tls: ServerFiles, introspection: IntrospectionServer
) -> None:
    introspection.jwks = signer.jwks.read_bytes()
    introspection.open.clear()
    settings = Settings(ca_file=str(tls.ca_file), http_url=introspection.url)
    it = TokenVerifier(audience="pay-api", issuer=ISSUER, feed=False, settings=settings, clock=clock)
    token = signer.token()
    many = Many(MOST_WAITING + 10, lambda: it.verify(token))
    becomes(lambda: introspection.key_reads == 1)
    introspection.open.set()
    assert many.join() == ["good"] * (MOST_WAITING + 10)
    assert introspection.key_reads == 1


@pytest.mark.parametrize("part", ["head", "body"])
def test_an_answer_that_drips_is_not_waited_for(
    tls: ServerFiles, introspection: IntrospectionServer, part: str
) -> None:
    introspection.drips = part
    began = time.monotonic()
    with pytest.raises(Unavailable):
        Https(str(tls.ca_file)).json(f"{introspection.url}/keys", within=1.0)
    assert time.monotonic() - began < 5.0


def test_a_door_that_says_nothing_is_not_waited_for(tls: ServerFiles) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/"
        began = time.monotonic()
        with pytest.raises(Unavailable):
            Https(str(tls.ca_file)).json(url, within=1.0)
        assert time.monotonic() - began < 5.0


@pytest.mark.parametrize(
    "url", ["http://a.example/x", "ftp://a", "https://", "https://[x", "https://a:99999999/"]
)
def test_only_https_is_asked(url: str) -> None:
    with pytest.raises(ConfigurationError, match="only https"):
        Https("").json(url)


def test_an_authority_that_is_not_there_is_a_matter_of_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="LOCKSTEP_CA_FILE"):
        Https(str(tmp_path / "none.pem"))


@pytest.mark.parametrize(
    "document",
    [
        '{"keys": null}',
        '{"keys": 5}',
        '{"keys": {"a": 1}}',
        "{}",
        "[]",
        "null",
        "no json",
        "[" * 100_000,
        '{"keys": [null, 3, {"kty": "EC"}, {"kid": ["k1"]}, {"kid": "k1", "kty": ["EC"], "crv": {}}]}',
    ],
    ids=lambda text: text[:40],
)
def test_keys_of_no_form_that_is_known(offline: TokenVerifier, signer: Signer, document: str) -> None:
    token = signer.token()
    signer.jwks.write_text(document)
    with pytest.raises((Denied, Unavailable)):
        offline.verify(token)


def test_a_key_that_cannot_be_read_hides_no_other(offline: TokenVerifier, signer: Signer) -> None:
    jwk = InstanceKey.generate().jwk
    document = json.loads(signer.jwks.read_text())
    odd = [
        {**jwk, "kid": ["a"]},
        {**jwk, "kid": 5},
        {"kid": "z", "kty": "EC", "crv": "P-256", "x": 5, "y": None},
    ]
    document["keys"] = [*odd, *document["keys"], *odd]
    signer.jwks.write_text(json.dumps(document))
    assert offline.verify(signer.token())


def test_a_file_that_is_away_for_a_moment_says_nothing_about_a_token(
    offline: TokenVerifier, signer: Signer, clock: Clock
) -> None:
    kept = signer.jwks.rename(signer.jwks.with_suffix(".kept"))
    with pytest.raises(Unavailable):
        offline.verify(signer.token())
    kept.rename(signer.jwks)
    clock.ahead = PAUSE + 1
    assert offline.verify(signer.token())


FORKED = """
import os, signal, sys, threading
from lockstep_client import Unavailable
from lockstep_client.settings import Settings
from lockstep_client.verify import TokenVerifier
from tests.unit.client.core.conftest import ISSUER, Clock

pipe, keys, token = sys.argv[1:]
it = TokenVerifier(
    audience="pay-api", issuer=ISSUER, jwks=pipe, feed=False, settings=Settings(), clock=Clock()
)
threading.Thread(target=it.verify, args=(token,), daemon=True).start()
held = open(pipe, "wb")  # returns once the thread has begun to read, which it cannot end
pid = os.fork()
if pid == 0:
    signal.alarm(20)
    os.replace(keys, pipe)
    print(it.verify(token).subject, flush=True)
    os._exit(0)
_, status = os.waitpid(pid, 0)
print(os.waitstatus_to_exitcode(status), flush=True)
os._exit(0)
"""


def test_a_child_that_is_forked_during_a_reading_reads_for_itself(signer: Signer, tmp_path: Path) -> None:
    pipe = tmp_path / "keys.pipe"
    os.mkfifo(pipe)
    script = tmp_path / "program.py"
    script.write_text(FORKED)
    result = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), str(pipe), str(signer.jwks), signer.token()],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert (result.stdout, result.stderr) == ("https://idp|me\n0\n", "")
