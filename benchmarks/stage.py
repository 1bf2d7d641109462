"""Everything that runs while it is measured: a real broker, the bare server, and the load, each a process."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any

import tenacity

from benchmarks.cases import Ground
from benchmarks.machine import cpu_seconds
from benchmarks.workload import digests
from lockstep.formats import UnitKind
from lockstep_client.manifest.model import CodeManifest, ManifestUnit

PATIENCE = 120.0
MANIFEST_UNITS = 8_000
"""Of the manifest in force: about what a Python application with its packages has."""
ROLE = "bench"
_EXTRA = """\
# What the benchmark adds to a dev folder: a role that enforces, and a detector without a ceiling.
[manifests.bench]
signers = ["dev"]
[roles.bench]
owner = "bench"
mode = "enforce"
identity = { from = "dev", subject = "dev-app" }
manifests = ["bench"]
backend = { use = "jwt", audience = "dev" }
ttl = "5m"
revocability = "instant"
after_revocation = "retry"
[detectors.bench]
kind = "standard"
keys = ["dev/detector.secret"]
default_action = "revoke"
rate = { reports = 1000000, per = "1m" }
cap = { instances = 1000000, share = 1.0, per = "1m" }
"""
# Ceilings are part of the product and not what is measured here; SQLite's synchronous=FULL has no switch.
_LIMITS = dict.fromkeys(
    (
        "CALLS_PER_ADDRESS",
        "CALLS_PER_IDENTITY",
        "ATTESTATIONS_PER_ADDRESS",
        "REPORTS_PER_WORKLOAD",
        "REFUSALS",
        "LEASES_PER_ATTESTATION",
        "STREAMS_PER_CALLER",
    ),
    "1000000",
)


class StageError(RuntimeError):
    """Something that has to run does not; the message has its last words."""


class Child:
    """A process that answers in lines."""

    def __init__(self, name: str, command: Sequence[str], env: Mapping[str, str], log: Path) -> None:
        self._name = name
        self._log = log
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        self._lines: queue.Queue[str] = queue.Queue(1000)
        assert self._process.stdout is not None
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            self._lines.put(line)
        self._lines.put("")

    def tell(self, line: str) -> None:
        """One line to its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def hear(self, patience: float = PATIENCE) -> str:
        """The next line that it says."""
        try:
            line = self._lines.get(timeout=patience)
        except queue.Empty:
            line = ""
        if not line:
            raise StageError(f"{self._name} says nothing: {self.log()[-3000:]}")
        return line.strip()

    def log(self) -> str:
        """Its standard error."""
        return self._log.read_text(errors="replace")

    def end(self) -> None:
        """Close its standard input, then ask, then insist."""
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        self._process.terminate()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(5)
        if self._process.stdout is not None:
            self._process.stdout.close()


@dataclass(frozen=True, slots=True)
class Stage:
    """The processes, and where they are."""

    ground: Ground
    broker: Child
    bare: Child
    load: Child
    beside: Child
    ready: float
    """Seconds from the start of the broker's process until it said that it is ready."""

    def measure(
        self, case: str, concurrency: int, seconds: float, *, rate: float = 0.0, beside_rate: float = 0.0
    ) -> dict[str, Any]:
        """One run of one case; `beside_rate` issues a second run meanwhile, from a process of their own.

        `server_cpu_us` is what the server under load used for one operation.
        """
        server = self.bare if case == "empty" else self.broker
        if beside_rate:
            self._order(self.beside, "issue", 16, seconds, beside_rate)
        self._order(self.load, case, concurrency, seconds, rate)
        before = cpu_seconds(server.pid)
        if beside_rate:
            self.beside.tell("")
        self.load.tell("")
        found: dict[str, Any] = json.loads(self.load.hear(seconds + PATIENCE))
        used = cpu_seconds(server.pid) - before
        if beside_rate:
            found["beside"] = json.loads(self.beside.hear(seconds + PATIENCE))
        else:
            found["server_cpu_us"] = used / max(1, found["operations"]) * 1e6
        return found

    def _order(self, load: Child, case: str, concurrency: int, seconds: float, rate: float) -> None:
        order = {
            "case": case,
            "concurrency": concurrency,
            "seconds": seconds,
            "rate": rate,
            "ground": asdict(self.ground),
        }
        load.tell(json.dumps(order))
        load.hear()


@contextlib.contextmanager
def stage(
    folder: Path, units: int, profile: Path | None = None, *, crowd: Callable[[Path], None] | None = None
) -> Iterator[Stage]:
    """Everything running, and an approved manifest of as many units; `crowd` writes into the state file before."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("LOCKSTEP_")}
    dev = folder / "dev"
    extra = folder / "bench.toml"
    extra.write_text(_EXTRA)
    (dev).mkdir(mode=0o700)
    made = [sys.executable, "-m", "broker", "dev", "--folder", str(dev), "--with", str(extra), "--export"]
    exports = _run(made, plain)
    settings = dict(
        line.removeprefix("export ").split("=", 1)
        for line in exports.splitlines()
        if line.startswith("export ")
    )
    if crowd is not None:
        crowd(dev / "state" / "lockstep.db")
    limits = {f"LOCKSTEP_LIMITS__{name}": value for name, value in _LIMITS.items()}
    limits["LOCKSTEP_LIMITS__ATTESTATION"] = "1h"
    python = [sys.executable]
    if profile is not None:
        python += ["-m", "cProfile", "-o", str(profile)]
    with contextlib.ExitStack() as running:

        def start(name: str, command: list[str], env: Mapping[str, str]) -> Child:
            child = Child(name, command, env, folder / f"{name}.log")
            running.callback(child.end)
            return child

        begun = time.monotonic()
        broker = start(
            "broker",
            [*python, "-m", "broker", "serve", "--config", str(dev / "lockstep.toml")],
            {**plain, **limits},
        )
        bare = start(
            "empty",
            [sys.executable, "-m", "benchmarks.empty", str(dev / "server.crt"), str(dev / "server.key")],
            plain,
        )
        load = start("load", [sys.executable, "-m", "benchmarks.load"], plain)
        beside = start("beside", [sys.executable, "-m", "benchmarks.load"], plain)
        ground = Ground(
            address=settings["LOCKSTEP_ADDRESS"],
            http_url=settings["LOCKSTEP_HTTP_URL"],
            empty_address=f"127.0.0.1:{bare.hear()}",
            ca_file=settings["LOCKSTEP_CA_FILE"],
            cluster=settings["LOCKSTEP_CLUSTER"],
            identity_token_file=settings["LOCKSTEP_IDENTITY_TOKEN_FILE"],
            resource_server_token_file=settings["LOCKSTEP_RESOURCE_SERVER_TOKEN_FILE"],
            detector_secret_file=settings["LOCKSTEP_DETECTOR_SECRET_FILE"],
            detector="bench",
            role=ROLE,
            units=units,
        )
        ready = _until_ready(ground, broker) - begun
        _publish(folder, units, {**plain, **settings})
        yield Stage(ground, broker, bare, load, beside, ready)


def _until_ready(ground: Ground, broker: Child) -> float:
    """The broker says by itself when it may be called; the monotonic time of that."""
    trust = ssl.create_default_context(cafile=ground.ca_file)

    @tenacity.retry(wait=tenacity.wait_fixed(0.01), stop=tenacity.stop_after_delay(60), reraise=True)
    def ask() -> float:
        with urllib.request.urlopen(f"{ground.http_url}/readyz", timeout=5, context=trust):
            return time.monotonic()

    try:
        return ask()
    except OSError as error:
        raise StageError(f"the broker is not ready: {error}\n{broker.log()[-3000:]}") from None


def _publish(folder: Path, units: int, env: Mapping[str, str]) -> None:
    now = datetime.now(UTC)
    manifest = CodeManifest(
        application="bench",
        version=1,
        units=tuple(
            ManifestUnit(UnitKind.PYTHON_BYTECODE, digest)
            for digest in {*digests(units), *digests(MANIFEST_UNITS)}
        ),
        not_before=now - timedelta(hours=1),
        not_after=now + timedelta(days=1),
    )
    (folder / "bench.json").write_bytes(manifest.payload())
    lockstep = [sys.executable, "-m", "lockstep_client", "manifest"]
    _run([*lockstep, "sign", str(folder / "bench.json"), "--output", str(folder / "bench.dsse")], env)
    _run([*lockstep, "publish", str(folder / "bench.dsse")], env)


def _run(command: Sequence[str], env: Mapping[str, str]) -> str:
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise StageError(f"$ {' '.join(command)}\nexit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout
