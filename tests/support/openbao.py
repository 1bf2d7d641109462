"""A real OpenBao (or Vault) for tests: a process of its own with TLS, initialised and unsealed through its API."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import requests

from tests.support import pki

PATIENCE = 30.0
"""Seconds that anything here may take."""

_STARTED = "server started!"
_ACTIVE = "post-unseal setup complete"
_STANDBY = "attempting leadership lock acquisition"


def server_binary() -> str:
    """What `LOCKSTEP_TEST_VAULT` names, else `bao` beside this Python."""
    return os.environ.get("LOCKSTEP_TEST_VAULT") or str(Path(sys.executable).parent / "bao")


class Refused(AssertionError):
    """The server answered with an error that the test did not ask for."""

    def __init__(self, status: int, errors: Sequence[str]) -> None:
        super().__init__(f"{status}: {' '.join(errors)}")
        self.status = status
        self.errors = tuple(errors)


@dataclass(frozen=True)
class Bao:
    """The API as one token sees it, below one namespace ("" is the root's)."""

    address: str
    ca: Path
    token: str
    namespace: str = ""

    def __repr__(self) -> str:
        return f"Bao({self.address}, namespace={self.namespace!r})"

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The answer as it came ({} for none). Raises `Refused`."""
        headers = {"X-Vault-Token": self.token} if self.token else {}
        if self.namespace:
            headers["X-Vault-Namespace"] = self.namespace
        # One connection a call: nothing to close, and a restarted server is no surprise.
        with requests.Session() as session:
            session.trust_env = False
            answer = session.request(
                method,
                f"{self.address}/v1/{path}",
                json=body,
                headers=headers,
                verify=str(self.ca),
                timeout=PATIENCE,
            )
        content: dict[str, Any] = answer.json() if answer.content else {}
        if not answer.ok:
            raise Refused(answer.status_code, content.get("errors", []))
        return content

    def read(self, path: str) -> dict[str, Any]:
        """GET; its ``data``."""
        return self.call("GET", path).get("data") or {}

    def write(self, path: str, /, **body: Any) -> dict[str, Any]:
        """POST; the whole answer."""
        return self.call("POST", path, body)

    def listed(self, path: str) -> list[str]:
        """LIST; [] where there is nothing."""
        try:
            return list(self.call("LIST", path)["data"]["keys"])
        except Refused as refused:
            if refused.status == 404:
                return []
            raise

    def delete(self, path: str) -> None:
        """DELETE."""
        self.call("DELETE", path)

    def within(self, namespace: str) -> Bao:
        """The same token below a namespace."""
        return Bao(self.address, self.ca, self.token, namespace)

    def as_token(self, token: str) -> Bao:
        """Another token at the same place."""
        return Bao(self.address, self.ca, token, self.namespace)


class OpenBao:
    """One server process over a folder. `start` makes it ready: initialised, unsealed, active.

    With `storage` ``raft`` what it knows survives `kill` and `stop`; with ``inmem``
    a new start is a new server. Keys and root token are in this object's memory.
    """

    def __init__(
        self, folder: Path, *, storage: Literal["inmem", "raft"] = "inmem", max_request_duration: str = "30s"
    ) -> None:
        self.folder = folder
        self._storage = storage
        self._duration = max_request_duration
        folder.mkdir(parents=True, exist_ok=True)
        now = time.time()
        self.authority = pki.authority("OpenBao test authority", now=now)
        self.ca = folder / "ca.pem"
        self.ca.write_bytes(self.authority.pem)
        self._certificate, self._key = pki.server(self.authority, now=now).write(folder, "server")
        self.port, self._cluster_port = _free_ports(2)
        self.address = f"https://127.0.0.1:{self.port}"
        self._unseal_key = ""
        self._root_token = ""
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._news = threading.Condition()
        self._ended = True
        self.laid_out = False
        """True once a test has laid something out on it."""
        self.lines: list[str] = []
        """Its log, over all starts."""

    def __repr__(self) -> str:
        return f"OpenBao({self.address})"

    @property
    def root(self) -> Bao:
        """The API with the root token."""
        return Bao(self.address, self.ca, self._root_token)

    # --- life ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start and wait until it is active."""
        self.launch()
        nobody = Bao(self.address, self.ca, "")
        if self._storage == "inmem":
            self._unseal_key = ""
        if not self._unseal_key:
            made = nobody.call("PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1})
            self._unseal_key, self._root_token = made["keys_base64"][0], made["root_token"]
        self.unseal()

    def join(self, leader: OpenBao) -> None:
        """Start as a standby of another server's raft cluster, and wait until it is one."""
        self.launch()
        nobody = Bao(self.address, self.ca, "")
        offer = {"leader_api_addr": leader.address, "leader_ca_cert": leader.ca.read_text()}
        nobody.call("PUT", "sys/storage/raft/join", offer)
        self._unseal_key, self._root_token = leader._unseal_key, leader._root_token
        mark = self.mark()
        nobody.call("PUT", "sys/unseal", {"key": self._unseal_key})
        self.heard(_STANDBY, since=mark)

    def step_down(self) -> None:
        """Another node becomes the active one."""
        self.root.call("PUT", "sys/step-down")

    def launch(self) -> None:
        """Start and wait until it listens; it is sealed."""
        config = self.folder / "server.json"
        config.write_text(json.dumps(self._config()))
        mark = self.mark()
        self._process = process = subprocess.Popen(
            [server_binary(), "server", "-config", str(config), "-log-level", "info"],
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        self._ended = False
        self._reader = threading.Thread(target=self._read, args=(process.stdout,), daemon=True)
        self._reader.start()
        self.heard(_STARTED, since=mark)

    def unseal(self) -> None:
        """Unseal and wait until it is active."""
        mark = self.mark()
        Bao(self.address, self.ca, "").call("PUT", "sys/unseal", {"key": self._unseal_key})
        self.heard(_ACTIVE, since=mark)

    def seal(self) -> None:
        """Seal; it goes on answering, with 503."""
        self.root.call("PUT", "sys/seal")

    def stop(self) -> None:
        """SIGTERM, and wait."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL, and wait."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """`stop`, then `start`."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """SIGSTOP: it takes connections and answers nothing, until `thaw`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _end(self, number: int) -> None:
        if self._process is None:
            return
        self._process.send_signal(number)
        if number == signal.SIGTERM:
            # One that is frozen hears nothing else.
            self._process.send_signal(signal.SIGCONT)
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(PATIENCE)
        assert self._reader is not None
        self._reader.join(PATIENCE)
        self._process = None

    # --- its log ------------------------------------------------------------------------------------

    def mark(self) -> int:
        """A place in the log, for `heard`."""
        with self._news:
            return len(self.lines)

    def heard(self, text: str, *, since: int = 0) -> str:
        """The first line after a mark that has a text, as soon as it is there."""
        deadline = time.monotonic() + PATIENCE
        with self._news:
            while True:
                for line in self.lines[since:]:
                    if text in line:
                        return line
                left = deadline - time.monotonic()
                if self._ended or left <= 0:
                    raise AssertionError(f"never said {text!r}:\n{''.join(self.lines[since:][-30:])}")
                self._news.wait(left)

    def _read(self, stream: IO[str]) -> None:
        with stream:
            for line in stream:
                with self._news:
                    self.lines.append(line)
                    self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def _environment(self) -> dict[str, str]:
        # Of ours nothing: proxies, tokens and addresses in it are not the test's.
        return {"PATH": os.environ.get("PATH", ""), "HOME": str(self.folder)}

    def _config(self) -> dict[str, Any]:
        storage: dict[str, Any] = {"inmem": {}}
        if self._storage == "raft":
            data = self.folder / "raft"
            data.mkdir(exist_ok=True)
            storage = {"raft": {"path": str(data), "node_id": self.folder.name, "performance_multiplier": 1}}
        config: dict[str, Any] = {
            "storage": storage,
            "listener": {
                "tcp": {
                    "address": f"127.0.0.1:{self.port}",
                    "cluster_address": f"127.0.0.1:{self._cluster_port}",
                    "tls_cert_file": str(self._certificate),
                    "tls_key_file": str(self._key),
                    "max_request_duration": self._duration,
                }
            },
            "api_addr": self.address,
            "cluster_addr": f"https://127.0.0.1:{self._cluster_port}",
            "default_lease_ttl": "1h",
            "max_lease_ttl": "24h",
            "disable_standby_reads": True,
        }
        if "vault" in Path(server_binary()).name:
            del config["disable_standby_reads"]  # OpenBao's alone
            config["disable_mlock"] = True
        return config


def _free_ports(count: int) -> list[int]:
    # The server must know its port before it listens, and come back on it after a restart.
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [item.getsockname()[1] for item in sockets]


@contextlib.contextmanager
def openbao(folder: Path, **options: Any) -> Iterator[OpenBao]:
    """A server that is ready, and is ended at the end."""
    server = OpenBao(folder, **options)
    try:
        server.start()
        yield server
    finally:
        server.stop()
