"""A real PostgreSQL for tests: a process of its own with TLS, its folder thrown away at the end."""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, urlencode

import psycopg

from tests.support import pki, programs

PATIENCE = 30.0
"""Seconds that anything here may take."""

SUPERUSER = "postgres"

# A standby goes on with "read-only".
_READY = "database system is ready to accept"
_RELOADED = "received SIGHUP, reloading configuration files"

# What a cautious server asks of everybody; lines that a test adds come before these.
_ACCESS = ("local all all scram-sha-256", "host all all 127.0.0.1/32 scram-sha-256")


@dataclass(frozen=True)
class Login:
    """Who comes with which password to which database; the repr hides the password."""

    host: str
    port: int
    user: str
    password: str
    database: str
    ca: Path
    tls: bool = True
    """False at a server that was built without."""

    def __repr__(self) -> str:
        return f"Login({self.user}@{self.host}:{self.port}/{self.database})"

    @property
    def dsn(self) -> str:
        """A URI for libpq and its kin, with TLS verified against the test's authority."""
        how = {"sslmode": "verify-full", "sslrootcert": str(self.ca)} if self.tls else {"sslmode": "disable"}
        query = urlencode(how)
        return f"{self.address}?{query}"

    @property
    def address(self) -> str:
        """The same URI without a word on TLS."""
        who = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}"
        return f"postgresql://{who}@{self.host}:{self.port}/{quote(self.database, safe='')}"

    def connect(self, **options: Any) -> psycopg.Connection:
        """A session that commits each statement by itself. Raises `psycopg.OperationalError`."""
        options = {"autocommit": True, "connect_timeout": int(PATIENCE), **options}
        return psycopg.connect(self.dsn, **options)


class Postgres:
    """One server over a folder of its own; `start` makes it ready, `remove` leaves nothing behind.

    It refuses to run as root: there it runs as ``nobody``, who owns the folder.
    """

    def __init__(
        self, *, version: int = programs.POSTGRES, settings: Mapping[str, str] | None = None
    ) -> None:
        """`settings` go to ``postgresql.conf``; what a crash would lose is not written through by default.

        Raises `programs.Absent` where there is no such version.
        """
        found = programs.postgres(version)
        self.host = "127.0.0.1"
        self.port = _free_port()
        self._password = secrets.token_urlsafe(24)
        self._settings = {"fsync": "off", "max_connections": "200", **(settings or {})}
        self._owner = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        # Not below pytest's folders, which are closed to every other user, and short: a socket's path has 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="lockstep-pg-"))
        self._data = self.folder / "data"
        now = time.time()
        self.authority = pki.authority("PostgreSQL test authority", now=now)
        self.ca = self.folder / "ca.pem"
        self.ca.write_bytes(self.authority.pem)
        certificate = pki.server(self.authority, now=now)
        self._certificate, self._key = certificate.write(self.folder, "server")
        if self._owner is not None:
            os.chown(self.folder, self._owner.pw_uid, self._owner.pw_gid)
            os.chown(self._key, self._owner.pw_uid, self._owner.pw_gid)
            self.folder.chmod(0o755)
        # An environment below a closed home.
        self._programs = found if self._owner is None or found.open else found.moved(self.folder / "programs")
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._news = threading.Condition()
        self._ended = True
        self.lines: list[str] = []
        """Its log, over all starts."""
        self.passwords: dict[str, str] = {}
        """Of roles that outlive a test's database."""

    def __repr__(self) -> str:
        return f"Postgres({self.host}:{self.port})"

    # --- who comes ----------------------------------------------------------------------------------

    @property
    def superuser(self) -> Login:
        """The superuser at the database ``postgres``."""
        return self.login(SUPERUSER, self._password, "postgres")

    def login(self, user: str, password: str, database: str) -> Login:
        """Anybody, anywhere."""
        return Login(self.host, self.port, user, password, database, self.ca, self._programs.tls)

    def connect(self, database: str = "postgres", **options: Any) -> psycopg.Connection:
        """A session of the superuser that commits each statement by itself."""
        return self.login(SUPERUSER, self._password, database).connect(**options)

    def create_database(self) -> Login:
        """A new, empty database, as the superuser sees it."""
        name = f"test_{secrets.token_hex(6)}"
        with self.connect() as session:
            session.execute(f'CREATE DATABASE "{name}" TEMPLATE template0')
        return self.login(SUPERUSER, self._password, name)

    def drop_database(self, name: str) -> None:
        """Ends every session there."""
        with self.connect() as session:
            session.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    @property
    def version(self) -> int:
        """The major version."""
        return int((self._data / "PG_VERSION").read_text())

    def program(self, name: str) -> Path:
        """A program of the server's own version, for example ``psql``."""
        return self._programs.folder / name

    # --- life ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start and wait until it takes connections."""
        if not self._data.exists():
            self._initialise()
        mark = self.mark()
        self._process = process = subprocess.Popen(
            [str(self.program("postgres")), "-D", str(self._data)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **self._identity(),
        )
        assert process.stdout is not None
        self._ended = False
        self._reader = threading.Thread(target=self._read, args=(process.stdout,), daemon=True)
        self._reader.start()
        self.heard(_READY, since=mark)

    def stop(self) -> None:
        """End every session, write everything down, and wait."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """End at once, as after a crash, and wait."""
        # Not SIGKILL: the orphans of it would keep the memory that the next start needs.
        self._end(signal.SIGQUIT)

    def restart(self) -> None:
        """`stop`, then `start`."""
        self.stop()
        self.start()

    def allow(self, *lines: str) -> None:
        """Lines of ``pg_hba.conf`` that come before all others, from now on; none takes them away again."""
        (self._data / "pg_hba.conf").write_text("\n".join([*lines, *_ACCESS]) + "\n")
        if self._process is not None:
            mark = self.mark()
            self._process.send_signal(signal.SIGHUP)
            self.heard(_RELOADED, since=mark)

    def freeze(self) -> None:
        """SIGSTOP to all of it: it takes connections and answers nothing, until `thaw`."""
        for pid in self._pids():
            os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        for pid in self._pids():
            os.kill(pid, signal.SIGCONT)

    def remove(self) -> None:
        """End it and throw its folder away."""
        self._end(signal.SIGQUIT)
        shutil.rmtree(self.folder)

    def _end(self, number: int) -> None:
        if self._process is None:
            return
        self.thaw()  # one that is frozen hears nothing
        self._process.send_signal(number)
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(PATIENCE)
        assert self._reader is not None
        self._reader.join(PATIENCE)
        self._process = None

    def _initialise(self) -> None:
        password_file = self.folder / "password"
        password_file.touch(mode=0o600)
        password_file.write_text(self._password)
        if self._owner is not None:
            os.chown(password_file, self._owner.pw_uid, self._owner.pw_gid)
        options = ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"]
        if "--locale-provider" in self._run("initdb", "--help"):
            options.append("--locale-provider=libc")
        self._run("initdb", "-D", str(self._data), "-U", SUPERUSER, f"--pwfile={password_file}", *options)
        password_file.unlink()
        settings = {
            "listen_addresses": self.host,
            "port": str(self.port),
            "unix_socket_directories": str(self.folder),
            **self._settings,
        }
        if self._programs.tls:
            settings |= {
                "ssl": "on",
                "ssl_cert_file": str(self._certificate),
                "ssl_key_file": str(self._key),
                "ssl_ca_file": str(self.ca),
            }
        lines = [f"{name} = '{value}'" for name, value in settings.items()]
        with (self._data / "postgresql.conf").open("a") as config:
            config.write("\n".join(lines) + "\n")
        self.allow()

    def _run(self, program: str, *arguments: str) -> str:
        ended = subprocess.run(
            [str(self.program(program)), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE * 2,
            check=False,
            **self._identity(),
        )
        assert ended.returncode == 0, f"{program}: {ended.stdout}"
        return ended.stdout

    def _identity(self) -> dict[str, Any]:
        environment = {**self._programs.environment, "HOME": str(self.folder)}
        identity: dict[str, Any] = {"env": environment, "cwd": self.folder}
        if self._owner is not None:
            identity |= {"user": self._owner.pw_uid, "group": self._owner.pw_gid, "extra_groups": []}
        return identity

    def _pids(self) -> list[int]:
        # Its children are sessions of their own (setsid): one signal to a group does not reach them.
        assert self._process is not None
        pid = self._process.pid
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        except OSError:
            children = ""
        return [pid, *map(int, children.split())] if self._process.poll() is None else []

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


def _free_port() -> int:
    # It must know its port before it listens, and come back on it after a restart.
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


@contextlib.contextmanager
def postgres(**options: Any) -> Iterator[Postgres]:
    """A server that is ready, and is gone at the end."""
    server = Postgres(**options)
    try:
        server.start()
        yield server
    finally:
        server.remove()
