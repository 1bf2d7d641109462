"""A real PgBouncer before a real PostgreSQL: a process of its own with TLS on both sides."""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import psycopg

from tests.support import pki, programs
from tests.support.postgres import PATIENCE, Login
from tests.support.postgres_ground import SHIPPED, PostgresGround, run

POOLER: Final = "lockstep_pooler"
_ADMIN: Final = "admin"
_READY: Final = "process up"

_CONFIG = """
[databases]
* = host={host} port={port} auth_user={pooler}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
pool_mode = {mode}
auth_type = scram-sha-256
auth_file = {users}
auth_query = SELECT login, verifier FROM lockstep.pooled($1)
admin_users = {admin}
client_tls_sslmode = require
client_tls_key_file = {key}
client_tls_cert_file = {certificate}
server_tls_sslmode = verify-full
server_tls_ca_file = {ca}
server_login_retry = 0.1
query_wait_timeout = 3
default_pool_size = 50
"""


class PgBouncer:
    """One pooler in one mode (``session``, ``transaction``, ``statement``), with `deploy/vault/postgres/pgbouncer.sql`.

    It refuses to run as root: there it runs as ``nobody``. Raises `programs.Absent` where there is none.
    """

    def __init__(self, ground: PostgresGround, mode: str) -> None:
        found = programs.pgbouncer()
        owner = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        self.folder = Path(tempfile.mkdtemp(prefix="lockstep-pgb-"))
        if owner is not None and not found.open:
            found = found.moved(self.folder / "programs")
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        now = time.time()
        authority = pki.authority("PgBouncer test authority", now=now)
        self.ca = self.folder / "ca.pem"
        self.ca.write_bytes(authority.pem)
        certificate, key = pki.server(authority, now=now).write(self.folder, "server")
        self._password = secrets.token_urlsafe(24)
        config = self.folder / "pgbouncer.ini"
        config.write_text(
            _CONFIG.format(
                host=ground.superuser.host,
                port=ground.superuser.port,
                listen=self.port,
                mode=mode,
                pooler=POOLER,
                users=self._users(ground),
                admin=_ADMIN,
                key=key,
                certificate=certificate,
                ca=ground.superuser.ca,
            )
        )
        identity = {}
        if owner is not None:
            for path in (self.folder, config, key, self.folder / "users"):
                os.chown(path, owner.pw_uid, owner.pw_gid)
            identity = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": ()}
        self._process = subprocess.Popen(
            [str(found.folder / "pgbouncer"), str(config)],
            env=found.environment,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            **identity,
        )
        assert self._process.stderr is not None
        said = []
        for line in self._process.stderr:
            said.append(line)
            if _READY in line:
                break
        else:
            raise AssertionError(f"PgBouncer did not start: {''.join(said)}")
        # Whatever else it says must not fill the pipe.
        self._drain = threading.Thread(target=self._process.stderr.read, daemon=True)
        self._drain.start()

    def through(self, login: Login) -> Login:
        """The same login, by way of this pooler."""
        return replace(login, port=self.port, ca=self.ca)

    def servers(self, user: str) -> int:
        """How many connections to the server it keeps for a user."""
        admin = Login("127.0.0.1", self.port, _ADMIN, self._password, "pgbouncer", self.ca)
        with admin.connect(cursor_factory=psycopg.ClientCursor) as console:
            cursor = console.execute("SHOW SERVERS")
            assert cursor.description is not None
            which = [column.name for column in cursor.description].index("user")
            return sum(row[which] == user for row in cursor.fetchall())

    def stop(self) -> None:
        """End it, and throw its folder away."""
        self._process.kill()  # asked kindly it waits for its clients
        self._process.wait(PATIENCE)
        self._drain.join(PATIENCE)
        assert self._process.stderr is not None
        self._process.stderr.close()
        shutil.rmtree(self.folder)

    def _users(self, ground: PostgresGround) -> Path:
        """Whom it knows without asking: its own login, its administrator, and the cutter's."""
        password = secrets.token_urlsafe(24)
        with ground.superuser.connect() as session:
            run(session, (SHIPPED / "pgbouncer.sql").read_text())
            session.execute(f"ALTER ROLE {POOLER} PASSWORD '{password}'")
        known = {POOLER: password, _ADMIN: self._password, ground.cutter.user: ground.cutter.password}
        path = self.folder / "users"
        path.touch(mode=0o600)
        path.write_text("".join(f'"{user}" "{secret}"\n' for user, secret in known.items()))
        return path


@contextlib.contextmanager
def pgbouncer(ground: PostgresGround, mode: str) -> Iterator[PgBouncer]:
    """A pooler that is ready, and is gone at the end."""
    pooler = PgBouncer(ground, mode)
    try:
        yield pooler
    finally:
        pooler.stop()
