"""Real brokers for tests: processes of their own, watched through their log, with throw-away keys in a folder."""

from __future__ import annotations

import base64
import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from broker.crypto.jwk import thumbprint
from broker.dev import pki
from broker.dev.issuer import AUDIENCE, ISSUER
from lockstep.formats import b64url
from lockstep_client.settings import Settings, load
from tests.support import canaries
from tests.support.actors import PATIENCE, Missing, clean_environment

CLUSTER = "lockstep-dev"


class Broker:
    """A broker process over a folder that ``lockstep-broker dev`` made; `start` again after `stop` or `kill`."""

    def __init__(self, folder: Path, command: Sequence[str], *, before: Sequence[str] = ()) -> None:
        """`before` is what starts it, where that is another program than Python."""
        self.folder = folder
        self._command = [*before, sys.executable, "-m", "broker", *command]
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._news = threading.Condition()
        self._ended = True
        self.lines: list[str] = []
        """Its log, over all starts."""
        canaries.watch(f"the log of the broker in {folder}", self.lines)

    # --- life ---------------------------------------------------------------------------------------

    def start(self) -> Mapping[str, Any]:
        """Start and wait until it is ready; the log's line."""
        mark = self.mark()
        self._process = process = subprocess.Popen(
            self._command,
            env=clean_environment({}),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        self._ended = False
        self._reader = threading.Thread(target=self._read, args=(process.stderr,), daemon=True)
        self._reader.start()
        ready = self.heard("ready", since=mark)
        canaries.keep_keys(self.folder)
        return ready

    def _read(self, stream: IO[str]) -> None:
        with stream:
            for line in stream:
                with self._news:
                    self.lines.append(line)
                    self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    @property
    def pid(self) -> int:
        """Of the process that runs."""
        assert self._process is not None
        return self._process.pid

    def signal(self, number: int) -> None:
        """Send a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def reload(self) -> bool:
        """SIGHUP; True once a new configuration is in force, False where it was refused."""
        mark = self.mark()
        self.signal(signal.SIGHUP)
        return self.heard("reloaded", "configuration refused", since=mark)["event"] == "reloaded"

    def wait(self, within: float = PATIENCE) -> int:
        """Its exit status, once it has ended."""
        process = self._process
        assert process is not None
        code = process.wait(within)
        assert self._reader is not None
        self._reader.join(5)
        self._process = None
        return code

    def stop(self) -> int:
        """SIGTERM, and its exit status; killed where it does not end."""
        if self._process is None:
            return 0
        self.signal(signal.SIGTERM)
        try:
            return self.wait(15)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self) -> None:
        """SIGKILL: a crash."""
        if self._process is not None:
            self._process.kill()
            self.wait(5)

    # --- log ----------------------------------------------------------------------------------------

    def mark(self) -> int:
        """Where the log ends now."""
        with self._news:
            return len(self.lines)

    def heard(self, *events: str, since: int = 0, within: float = PATIENCE) -> Mapping[str, Any]:
        """The first line of the log after `since` whose event is one of `events`."""
        deadline = time.monotonic() + within
        with self._news:
            while True:
                for line in self.lines[since:]:
                    found = _event(line)
                    if found.get("event") in events:
                        return found
                left = deadline - time.monotonic()
                if left <= 0 or self._ended:
                    how = "ended without" if self._ended else f"said in {within:.0f} s no"
                    tail = "".join(self.lines[since:][-40:])
                    raise Missing(f"the broker {how} {' or '.join(events)}\n{tail}")
                self._news.wait(left)

    @property
    def log(self) -> str:
        """Everything it wrote."""
        with self._news:
            return "".join(self.lines)

    # --- what its callers need --------------------------------------------------------------------------

    @property
    def ports(self) -> Mapping[str, int]:
        """tls, mtls, http."""
        found: Mapping[str, int] = json.loads((self.folder / "ports.json").read_bytes())
        return found

    @property
    def address(self) -> str:
        """The gRPC door for tokens."""
        return f"127.0.0.1:{self.ports['tls']}"

    @property
    def mtls_address(self) -> str:
        """The gRPC door for client certificates."""
        return f"127.0.0.1:{self.ports['mtls']}"

    @property
    def http_url(self) -> str:
        """The HTTP door."""
        return f"https://127.0.0.1:{self.ports['http']}"

    @property
    def ca(self) -> Path:
        """What to trust."""
        return self.folder / "ca.crt"

    def token(self, subject: str, *, headers: Mapping[str, Any] | None = None, **changes: Any) -> str:
        """An identity token of the folder's issuer; None in `changes` leaves a claim out."""
        key = load_pem_private_key((self.folder / "identity.key").read_bytes(), None)
        now = int(time.time())
        claims = {"iss": ISSUER, "sub": subject, "aud": AUDIENCE, "iat": now, "exp": now + 600} | changes
        kid = b64url(thumbprint(key.public_key()))  # type: ignore[arg-type]
        token = jwt.encode(
            {name: value for name, value in claims.items() if value is not None},
            key,  # type: ignore[arg-type]
            algorithm="ES256",
            headers={"kid": kid, **(headers or {})},
        )
        canaries.keep_token(token, f"an identity token of {subject}")
        return token

    def token_file(self, subject: str, **changes: Any) -> Path:
        """A private file with such a token."""
        path = self.folder / f"{subject}.e2e-token"
        path.touch(mode=0o600)
        path.write_text(self.token(subject, **changes))
        return path

    def env(self, subject: str = "dev-app", **changes: str) -> dict[str, str]:
        """``LOCKSTEP_*`` for a workload or a command; operator and signer are the folder's."""
        return {
            "LOCKSTEP_ADDRESS": self.address,
            "LOCKSTEP_CA_FILE": str(self.ca),
            "LOCKSTEP_CLUSTER": CLUSTER,
            "LOCKSTEP_IDENTITY_TOKEN_FILE": str(self.token_file(subject)),
            "LOCKSTEP_OPERATOR_TOKEN_FILE": str(self.folder / "operator.token"),
            "LOCKSTEP_SIGNER_KEY_FILE": str(self.folder / "signer.key"),
            "LOCKSTEP_HTTP_URL": self.http_url,
            **changes,
        }

    def settings(self, subject: str) -> Settings:
        """For the SDK inside a test's own process; without an operator's token."""
        environ = self.env(subject)
        del environ["LOCKSTEP_OPERATOR_TOKEN_FILE"]
        return load(environ=environ)

    def operator_settings(self) -> Settings:
        """For `lockstep_client.operator.Operator`."""
        return load(environ=self.env())

    def receipt(self, revocation_id: str) -> dict[str, Any]:
        """What the signed receipt of a revocation says, once it is settled; the signature is not looked at."""
        envelope = json.loads(self.cli("receipts", revocation_id, "--wait", "20", "--json"))
        found: dict[str, Any] = json.loads(base64.b64decode(envelope["payload"]))
        return found

    def cli(self, *arguments: str, expect: int = 0, subject: str = "dev-app", **env: str) -> str:
        """``lockstep …`` as the folder's operator; its standard output, or what it said where it should fail."""
        done = subprocess.run(
            [sys.executable, "-m", "lockstep_client", *arguments],
            env=clean_environment(self.env(subject, **env)),
            capture_output=True,
            text=True,
            timeout=45,
            check=False,
        )
        assert done.returncode == expect, f"exit {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout if expect == 0 else done.stdout + done.stderr


def _event(line: str) -> Mapping[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


@contextlib.contextmanager
def dev_broker(folder: Path, roles: Path, *options: str) -> Iterator[Broker]:
    """``lockstep-broker dev --with ROLES``, running."""
    broker = Broker(folder, ["dev", "--json", "--folder", str(folder), "--with", str(roles), *options])
    try:
        broker.start()
        yield broker
    finally:
        broker.stop()


def prepared(folder: Path) -> str:
    """A dev folder that nobody serves, and the configuration in it."""
    subprocess.run(
        [sys.executable, "-m", "broker", "dev", "--export", "--folder", str(folder)],
        env=clean_environment({}),
        stdout=subprocess.DEVNULL,
        timeout=30,
        check=True,
    )
    return (folder / "lockstep.toml").read_text()


@contextlib.contextmanager
def serving(folder: Path, configuration: str, *before: str) -> Iterator[Broker]:
    """``lockstep-broker serve`` with a configuration of the test's own, over a folder that `prepared` made."""
    file = folder / "serve.toml"
    file.touch(mode=0o600)
    file.write_text(configuration)
    broker = Broker(folder, ["serve", "--config", str(file)], before=before)
    try:
        broker.start()
        yield broker
    finally:
        broker.stop()


def fresh_certificate(broker: Broker) -> bytes:
    """A new certificate for the key of the doors, PEM, written in the place of the one that they show."""
    ca = pki.Authority(
        load_pem_private_key((broker.folder / "ca.key").read_bytes(), None),  # type: ignore[arg-type]
        x509.load_pem_x509_certificate(broker.ca.read_bytes()),
    )
    key = load_pem_private_key((broker.folder / "server.key").read_bytes(), None).public_key()
    fresh = pki.server_certificate(ca, key, time.time())  # type: ignore[arg-type]
    (broker.folder / "server.crt").write_bytes(fresh)
    return fresh
