"""``lockstep run`` hands over database logins as libpq reads them: psycopg and psql on a real PostgreSQL."""

from __future__ import annotations

import json
import os
import secrets
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from lockstep_client.settings import Settings
from tests.integration.databases.conftest import Stage
from tests.support import pki
from tests.unit.client.core.conftest import becomes

OUTPUTS = ("dsn", "dsn:PAY_URL", "pgpass", "pgservice")
FILES = {"pgpass": "PGPASSFILE", "pgservice": "PGSERVICEFILE"}

PROGRAM = """
import json, os, stat, sys
import psycopg

def look():
    source = os.environ.get("PAY_URL") or os.environ.get("DATABASE_URL") or ""
    try:
        with psycopg.connect(source, connect_timeout=10) as connection:
            (user,) = connection.execute("SELECT current_user").fetchone()
            found = connection.info.get_parameters()
            return {"user": user, "tls": connection.pgconn.ssl_in_use, "target": found}
    except psycopg.Error as error:
        return {"error": str(error)}

for line in sys.stdin:
    if line.strip() == "where":
        print(json.dumps({key: value for key, value in os.environ.items() if key.startswith("PG")}), flush=True)
    else:
        print(json.dumps(look()), flush=True)
"""


class Program:
    """One that connects whenever it is told to, under a launcher."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def ask(self, word: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, self.process.communicate(timeout=20)[1]
        found: dict[str, Any] = json.loads(line)
        return found

    def look(self) -> dict[str, Any]:
        return self.ask("look")

    def file(self, output: str) -> Path:
        return Path(self.ask("where")[FILES[output]])

    def end(self) -> str:
        return self.process.communicate(timeout=20)[1]


@pytest.fixture
def environment(settings: Settings) -> dict[str, str]:
    # Nothing of this machine's own database settings.
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
    return {**clean, **settings.environment()}


Run = Callable[..., Program]


def launched(options: Sequence[str], *program: str) -> list[str]:
    return [sys.executable, "-m", "lockstep_client", "run", "--role", "db", *options, "--", *program]


@pytest.fixture
def run(environment: dict[str, str], tmp_path: Path) -> Iterator[Run]:
    started: list[subprocess.Popen[str]] = []
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)

    def start(*options: str) -> Program:
        process = subprocess.Popen(
            launched(options, sys.executable, str(script)),
            env=environment,
            cwd=tmp_path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return Program(process)

    yield start
    for process in started:
        if process.poll() is None:
            process.terminate()
            process.wait(20)
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def awkward() -> str:
    return f"{secrets.token_urlsafe(6)}:\\ '\"%@/?#=+ü{secrets.token_urlsafe(6)}"


@pytest.mark.parametrize("output", OUTPUTS)
def test_a_program_logs_in_to_the_server_that_the_role_names(stage: Stage, run: Run, output: str) -> None:
    stage.password = awkward
    program = run("--output", output)
    found = program.look()
    assert found["user"] == stage.users[0]
    assert found["tls"]
    target = found["target"]
    assert (target["sslmode"], target["sslrootcert"]) == ("verify-full", str(stage.database.ca))
    assert (target["host"], target["port"]) == (stage.database.host, str(stage.database.port))
    assert target["dbname"] == stage.database.database
    if output in FILES:
        assert stat.S_IMODE(program.file(output).stat().st_mode) == 0o600
    err = program.end()
    assert program.process.returncode == 0, err
    assert "rotates" not in err
    assert not any(word in err for word in ("ü", "%@"))


@pytest.mark.parametrize("output", OUTPUTS)
def test_a_server_that_the_role_does_not_trust_is_refused(
    stage: Stage, run: Run, tmp_path: Path, output: str
) -> None:
    stranger = tmp_path / "stranger.pem"
    stranger.write_bytes(pki.authority("somebody else", now=time.time()).pem)
    stage.broker.policy.parameters = {**stage.broker.policy.parameters, "sslrootcert": str(stranger)}
    assert "certificate verify failed" in run("--output", output).look()["error"]


@pytest.mark.parametrize("output", OUTPUTS)
def test_what_libpq_does_not_know_starts_nothing(stage: Stage, run: Run, output: str) -> None:
    stage.broker.policy.parameters = {**stage.broker.policy.parameters, "tls": "on"}
    program = run("--output", output)
    out, err = program.process.communicate(timeout=20)
    assert (program.process.returncode, out) == (1, "")
    assert "target.tls" in err
    assert "unavailable" not in err


def test_a_role_without_a_host_starts_nothing(stage: Stage, run: Run) -> None:
    stage.broker.policy.parameters = {}
    program = run("--output", "dsn")
    _, err = program.process.communicate(timeout=20)
    assert program.process.returncode == 1
    assert "'db' names no host" in err


@pytest.mark.parametrize("output", FILES)
def test_psql_reads_it_too(stage: Stage, environment: dict[str, str], output: str) -> None:
    psql = str(stage.server.program("psql"))
    query = "SELECT current_user, ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
    done = subprocess.run(
        launched(["--output", output], psql, "--no-psqlrc", "-Atc", query),
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, f"{stage.users[0]}|t\n"), done.stderr


@pytest.mark.parametrize("output", FILES)
def test_the_file_is_at_a_path_of_ours(stage: Stage, run: Run, tmp_path: Path, output: str) -> None:
    program = run("--output", f"{output}:mine")
    assert program.look()["user"] == stage.users[0]
    assert program.file(output) == tmp_path / "mine"
    program.end()
    assert not (tmp_path / "mine").exists()


# --- taken back -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", FILES)
def test_the_file_is_gone_once_it_is_revoked(stage: Stage, run: Run, output: str) -> None:
    program = run("--output", output, "--on-revoked", "nothing")
    assert program.look()["user"] == stage.users[0]
    file = program.file(output)
    stage.revoke()
    becomes(lambda: not file.exists())
    assert "error" in program.look()
    assert "revoked: test" in program.end()
    assert list(file.parent.glob(f".{file.name}*")) == []


@pytest.mark.parametrize("output", FILES)
def test_the_file_is_gone_in_silence_and_comes_back(stage: Stage, run: Run, output: str) -> None:
    stage.broker.policy.grace = 0.5
    program = run("--output", output)
    first = program.look()["user"]
    file = program.file(output)
    stage.broker.stop()
    becomes(lambda: not file.exists())
    assert "error" in program.look()
    stage.broker.policy.grace = 30.0
    stage.broker.start()
    becomes(file.exists)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    # What was dropped is not there again; the login is a new one.
    assert first not in file.read_text()
    assert stage.users[-1] in file.read_text()
    if output == "pgservice":
        assert program.look()["user"] == stage.users[-1] != first


# --- rotation -------------------------------------------------------------------------------------------


def soon(stage: Stage) -> None:
    """The keeper of a launcher looks every second or two."""
    stage.broker.policy.lease_ttl = stage.broker.policy.attestation_ttl = 3.0


def rotate(stage: Stage, overlap: float) -> str:
    before = len(stage.users)
    stage.told = (28_800.0, overlap)
    stage.broker.policy.rotation = (0.001, overlap)
    stage.broker.wait_until(lambda: len(stage.users) > before)
    return stage.users[-1]


def test_a_service_file_follows_a_rotation(stage: Stage, run: Run) -> None:
    soon(stage)
    program = run("--output", "pgservice")
    assert program.look()["user"] == stage.users[0]
    file = program.file("pgservice")
    second = rotate(stage, 60)
    becomes(lambda: second in file.read_text())
    assert program.look()["user"] == second
    assert stage.users[0] not in file.read_text()


def test_a_password_file_keeps_the_old_line_for_the_overlap(stage: Stage, run: Run) -> None:
    soon(stage)
    program = run("--output", "pgpass")
    first = program.look()["user"]
    file = program.file("pgpass")
    second = rotate(stage, 3)
    becomes(lambda: second in file.read_text())
    # Its name is in the environment of a program that runs, and is good for the overlap.
    assert program.look()["user"] == first
    assert len(file.read_text().splitlines()) == 2
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    becomes(lambda: first not in file.read_text())
    assert second in file.read_text()
    assert "error" in program.look()


@pytest.mark.parametrize("output", ["dsn", "env", "fd", "pgpass"])
def test_an_output_that_follows_no_rotation_says_so(stage: Stage, run: Run, output: str) -> None:
    stage.told = (28_800.0, 600.0)
    program = run("--output", output)
    program.ask("where")
    err = program.end()
    assert f"db rotates every 8 h, and a running program learns nothing of it by --output {output}" in err
    assert "its login ends 10 min after that" in err
    assert "--on-rotated restart" in err


@pytest.mark.parametrize(
    "options",
    [("--output", "pgservice"), ("--output", "file"), ("--output", "dsn", "--on-rotated", "restart")],
)
def test_others_say_nothing(stage: Stage, run: Run, options: tuple[str, ...]) -> None:
    stage.told = (28_800.0, 600.0)
    program = run(*options)
    program.ask("where")
    assert "rotates" not in program.end()


def test_a_restart_brings_the_new_login(stage: Stage, environment: dict[str, str], tmp_path: Path) -> None:
    soon(stage)
    script = tmp_path / "once.py"
    script.write_text(
        "import os, threading, psycopg\n"
        "with psycopg.connect(os.environ['DATABASE_URL']) as connection:\n"
        "    print(connection.execute('SELECT current_user').fetchone()[0], flush=True)\n"
        "threading.Event().wait(60)\n"
    )
    process = subprocess.Popen(
        launched(["--output", "dsn", "--on-rotated", "restart"], sys.executable, str(script)),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    first = process.stdout.readline().strip()
    assert first == stage.users[0]
    rotate(stage, 60)
    second = process.stdout.readline().strip()
    # The first instance has given all of its own back.
    assert second == stage.users[2]
    assert stage.sessions(first) == 0
    process.terminate()
    process.communicate(timeout=20)


def test_a_slow_script_at_a_rotation_delays_no_revocation(stage: Stage, run: Run) -> None:
    soon(stage)
    program = run("--output", "pgservice", "--on-rotated", "command:sleep 20")
    assert program.look()["user"] == stage.users[0]
    file = program.file("pgservice")
    second = rotate(stage, 60)
    becomes(lambda: second in file.read_text())
    stage.revoke()
    assert program.process.wait(10) == 77
    assert not file.exists()
