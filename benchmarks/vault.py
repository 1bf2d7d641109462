"""Credentials of a real OpenBao and PostgreSQL: straight from it, and through the broker, in one run.

``python -m benchmarks.vault``: the same hvac client on both sides.
"""

from __future__ import annotations

import asyncio
import json
import select
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import click
import hvac
import psycopg
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from rich.console import Console
from rich.table import Table

from benchmarks.detector import Detector
from benchmarks.machine import machine
from benchmarks.workload import Line, Workload, digests
from broker.crypto.keyfiles import public_pem
from lockstep.formats import UnitKind
from lockstep_client.manifest.model import CodeManifest, ManifestUnit
from tests.support.brokers import CLUSTER, Broker, dev_broker
from tests.support.openbao import openbao
from tests.support.postgres import postgres
from tests.support.vault_stage import VaultStage, lay_out

STRAIGHT: Final = "straight"
"""The database role of those who go straight: the same statements, names that are no attestation's."""
SIZES: Final = (1, 10, 100)
LOOK: Final = 0.001
"""Seconds between two looks at the catalogue: a watch that never rests would be what is measured."""
REST: Final = 0.5
"""Seconds after the last login of an instance is gone: what else there is to confirm of it takes less."""
SESSIONS: Final = 5
"""Open sessions of an instance, at most, that are watched until they end."""
ABREAST: Final = 16
"""Leases that go back at once when they are sent straight."""
_ROLES: Final = """
[manifests.app]
signers = ["dev"]
[roles.cut]
mode = "enforce"
identity = { from = "dev", subject = "dev-app" }
manifests = ["app"]
backend = { use = "vault", path = "database/creds/payments", cutter = "payments-db" }
ttl = "5m"
after_revocation = "retry"
[roles.plain]
mode = "enforce"
identity = { from = "dev", subject = "dev-app" }
manifests = ["app"]
backend = { use = "vault", path = "database/creds/payments" }
ttl = "5m"
after_revocation = "retry"
[detectors.bench]
kind = "standard"
keys = ["dev/detector.secret"]
default_action = "revoke"
rate = { reports = 1000000, per = "1m" }
cap = { instances = 1000000, share = 1.0, per = "1m" }
"""
_EPILOG: Final = """\b
How it is measured
  A real OpenBao (raft on disk, TLS), a real PostgreSQL (fsync on, TLS) and a
  real `lockstep-broker`, all on this machine, which they share with the load.
  Straight: hvac logs in with a JWT and asks for a database credential. Ours:
  attest with as many units, then issue; the broker speaks to OpenBao through
  the same hvac. The two take turns, one call at a time.
\b
  Taking back: an instance with 1, 10 and 100 logins, some with open sessions.
  The clock starts when the report is sent, and stops when the catalogue says
  that no login may log in and the last session's socket is closed. Straight:
  every lease sent to `sys/leases/revoke` with sync=true, 16 at once, with the
  same revocation statements.

Nothing here is asserted: no test fails because a machine is slow.
"""


@dataclass(frozen=True)
class Ground:
    """What runs."""

    stage: VaultStage
    broker: Broker
    detector: Detector
    units: list[bytes]

    def token(self) -> str:
        """An identity token of the workload, one that nobody has seen."""
        return self.broker.token("dev-app", jti=f"{time.time_ns()}")

    def workload(self, line: Line, role: str) -> Workload:
        """An instance that has not attested."""
        return Workload(line, self.token, self.units, role)

    def client(self) -> hvac.Client:
        """Somebody at OpenBao without a token."""
        vault = self.stage.vault
        client = hvac.Client(url=vault.server.address, verify=str(vault.server.ca), namespace=vault.namespace)
        client.session.trust_env = False
        return client


@contextmanager
def ground(folder: Path, units: int) -> Iterator[Ground]:
    """Everything running, and a JWT login at OpenBao for the same identities."""
    with ExitStack() as running:
        bao = running.enter_context(openbao(folder / "bao", storage="raft"))
        server = running.enter_context(postgres(settings={"fsync": "on"}))
        stage = lay_out(bao, server, folder / "stage")
        roles = folder / "roles.toml"
        roles.touch(mode=0o600)
        roles.write_text(stage.backend() + stage.cutter() + _ROLES)
        broker = running.enter_context(dev_broker(folder / "dev", roles))
        _straight(stage, folder / "dev")
        _publish(broker, folder, units)
        detector = Detector(broker.http_url, "bench", str(broker.ca), str(folder / "dev" / "detector.secret"))
        yield Ground(stage, broker, detector, digests(units))


def _straight(stage: VaultStage, dev: Path) -> None:
    root = stage.vault.root
    key = load_pem_private_key((dev / "identity.key").read_bytes(), None)
    root.write("sys/auth/jwt", type="jwt")
    root.write("auth/jwt/config", jwt_validation_pubkeys=[public_pem(key.public_key()).decode()])  # type: ignore[arg-type]
    settings = root.read("database/config/orders")
    admin = stage.target.vault
    root.write(
        "database/config/straight",
        plugin_name=settings["plugin_name"],
        allowed_roles=[STRAIGHT],
        connection_url=settings["connection_details"]["connection_url"],
        username=admin.user,
        password=admin.password,
        username_template='{{ printf "ls-straight-bench-%s" (random 12) }}',
    )
    ours = root.read("database/roles/payments")
    root.write(
        f"database/roles/{STRAIGHT}",
        db_name="straight",
        creation_statements=ours["creation_statements"],
        revocation_statements=ours["revocation_statements"],
        default_ttl="10m",
        max_ttl="1h",
    )
    root.write(
        "sys/policies/acl/bench",
        policy=f'path "database/creds/{STRAIGHT}" {{ capabilities = ["read"] }}\n'
        'path "sys/leases/revoke" { capabilities = ["update"] }',
    )
    root.write(
        "auth/jwt/role/bench",
        role_type="jwt",
        user_claim="sub",
        bound_subject="dev-app",
        bound_audiences=["lockstep-dev-identity"],
        token_policies=["bench"],
        token_ttl="10m",
    )


def _publish(broker: Broker, folder: Path, units: int) -> None:
    now = datetime.now(UTC)
    manifest = CodeManifest(
        application="app",
        version=1,
        units=tuple(ManifestUnit(UnitKind.PYTHON_BYTECODE, digest) for digest in digests(units)),
        not_before=now - timedelta(hours=1),
        not_after=now + timedelta(days=1),
    )
    (folder / "app.json").write_bytes(manifest.payload())
    broker.cli("manifest", "sign", str(folder / "app.json"), "--output", str(folder / "app.dsse"))
    broker.cli("manifest", "publish", str(folder / "app.dsse"))


# --- giving -------------------------------------------------------------------------------------------


async def giving(found: Ground, line: Line, rounds: int) -> dict[str, list[float]]:
    """Seconds of each: a first credential, and one more, on both sides in turns."""
    times: dict[str, list[float]] = {
        "straight first": [],
        "ours first": [],
        "straight next": [],
        "ours next": [],
    }
    client = found.client()
    for turn in range(rounds + 3):
        token = found.token()
        sample: dict[str, float] = {}
        begun = time.perf_counter()
        client.auth.jwt.jwt_login("bench", token)
        client.secrets.database.generate_credentials(STRAIGHT)
        sample["straight first"] = time.perf_counter() - begun
        begun = time.perf_counter()
        client.secrets.database.generate_credentials(STRAIGHT)
        sample["straight next"] = time.perf_counter() - begun
        workload = found.workload(line, "cut")
        begun = time.perf_counter()
        await workload.attest(await workload.challenge())
        await workload.issue()
        sample["ours first"] = time.perf_counter() - begun
        begun = time.perf_counter()
        await workload.issue()
        sample["ours next"] = time.perf_counter() - begun
        if turn >= 3:  # connections, caches and statements are warm
            for name, value in sample.items():
                times[name].append(value)
    return times


# --- taking back --------------------------------------------------------------------------------------


class Watch:
    """Sees logins of a name's beginning refused, and sessions end."""

    def __init__(self, found: Ground, users: Sequence[str], sessions: Sequence[psycopg.Connection]) -> None:
        self._users = list(users)
        self._sessions = list(sessions)
        self._look = found.stage.target.superuser.connect()
        self.refused = self.ended = 0.0
        self._threads = [
            threading.Thread(target=self._logins, daemon=True),
            threading.Thread(target=self._ends, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def _logins(self) -> None:
        query = "SELECT count(*) FROM pg_roles WHERE rolcanlogin AND rolname = ANY(%s)"
        deadline = time.perf_counter() + 60
        with self._look.cursor() as cursor:
            while time.perf_counter() < deadline:
                if cursor.execute(query, (self._users,)).fetchone() == (0,):
                    self.refused = time.perf_counter()
                    return
                time.sleep(LOOK)

    def _ends(self) -> None:
        waiting = {session.fileno() for session in self._sessions}
        while waiting:
            readable, _, _ = select.select(list(waiting), [], [], 60)
            if not readable:
                return
            waiting -= set(readable)
        self.ended = time.perf_counter()

    def wait(self, begun: float) -> tuple[float, float]:
        """Seconds until logins were refused, and until the last session had ended."""
        for thread in self._threads:
            thread.join(90)
        self._look.close()
        if not self.refused or not self.ended:
            raise RuntimeError("a login or a session survived")
        return self.refused - begun, self.ended - begun


async def taking(found: Ground, line: Line, how: str, size: int) -> tuple[float, float]:
    """One instance with so many logins, taken back: ``cut`` and ``plain`` by a report, ``straight`` at OpenBao."""
    back: Callable[[], Awaitable[object]]
    if how == "straight":
        client = found.client()
        client.auth.jwt.jwt_login("bench", found.token())
        leases, logins = [], []
        for _ in range(size):
            answer = client.secrets.database.generate_credentials(STRAIGHT)
            leases.append(answer["lease_id"])
            logins.append((answer["data"]["username"], answer["data"]["password"]))
        pool = ThreadPoolExecutor(ABREAST)

        def revoke(lease: str) -> None:
            client.write_data("sys/leases/revoke", data={"lease_id": lease, "sync": True})

        async def back() -> None:
            await asyncio.gather(
                *(asyncio.get_running_loop().run_in_executor(pool, revoke, lease) for lease in leases)
            )
    else:
        workload = found.workload(line, how)
        await workload.attest(await workload.challenge())
        logins = []
        for _ in range(size):
            fields = (await workload.issue()).credential.fields.values
            logins.append((fields["username"], fields["password"]))

        async def back() -> None:
            await found.detector.report(workload.attestation_id)

    with ExitStack() as open_ones:
        sessions = [open_ones.enter_context(found.stage.session(*login)) for login in logins[:SESSIONS]]
        watch = Watch(found, [user for user, _ in logins], sessions)
        begun = time.perf_counter()
        await back()
        taken = await asyncio.to_thread(watch.wait, begun)
    await asyncio.to_thread(_gone, found, [user for user, _ in logins])
    return taken


def _gone(found: Ground, users: Sequence[str]) -> None:
    """Wait until nothing is left to clean of them, so that one revocation is measured and not the end of another."""
    query = "SELECT count(*) FROM pg_roles WHERE rolname = ANY(%s)"
    deadline = time.perf_counter() + 60
    with found.stage.target.superuser.connect() as look:
        while look.execute(query, (list(users),)).fetchone() != (0,):
            if time.perf_counter() > deadline:
                raise RuntimeError("a login was not dropped")
            time.sleep(0.05)
    time.sleep(REST)


# --- the run ------------------------------------------------------------------------------------------


@click.command(epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@click.option(
    "--rounds", type=click.IntRange(2, 1000), default=60, show_default=True, help="Credentials a side."
)
@click.option(
    "--revocations", type=click.IntRange(2, 1000), default=20, show_default=True, help="Of each size and way."
)
@click.option("--units", type=click.IntRange(1, 50_000), default=500, show_default=True, help="Of an Attest.")
def main(as_json: bool, rounds: int, revocations: int, units: int) -> None:
    """A database credential from OpenBao, and taking it back: straight, and through the broker."""
    console = Console(stderr=True)
    with (
        tempfile.TemporaryDirectory(prefix="lockstep-bench-") as folder,
        console.status("starting OpenBao, PostgreSQL and a broker", spinner="dots") as status,
        ground(Path(folder), units) as found,
    ):
        given, taken = asyncio.run(_run(found, rounds, revocations, status.update))
    result = {
        "machine": machine(),
        "settings": {"rounds": rounds, "revocations": revocations, "units": units},
        "giving": {name: _figures(times) for name, times in given.items()},
        "ratios": {
            step: statistics.median(given[f"ours {step}"]) / statistics.median(given[f"straight {step}"])
            for step in ("first", "next")
        },
        "taking": {
            label: {
                "logins refused": _figures([a for a, _ in times]),
                "sessions ended": _figures([b for _, b in times]),
            }
            for label, times in taken.items()
        },
    }
    if as_json:
        click.echo(json.dumps(result, indent=2))
    else:
        _show(Console(width=None if sys.stdout.isatty() else 118), result)


async def _run(
    found: Ground, rounds: int, revocations: int, say: Callable[[str], None]
) -> tuple[dict[str, list[float]], dict[str, list[tuple[float, float]]]]:
    await found.detector.warm()
    line = Line(found.broker.address, found.broker.ca, CLUSTER)
    say("giving")
    given = await giving(found, line, rounds)
    taken: dict[str, list[tuple[float, float]]] = {}
    for size in SIZES:
        # Fewer of the large ones: making their logins takes most of the time.
        for turn in range(revocations if size < SIZES[-1] else max(2, revocations // 3)):
            for how in ("straight", "plain", "cut"):
                say(f"taking back: {size} logins, {how}, {turn + 1}")
                taken.setdefault(f"{size} {how}", []).append(await taking(found, line, how, size))
    await line.close()
    return given, taken


def _figures(times: Sequence[float]) -> dict[str, float]:
    """Milliseconds."""
    ordered = sorted(times)
    return {
        "p50": statistics.median(ordered) * 1000,
        "p99": ordered[min(len(ordered) - 1, round(0.99 * len(ordered)))] * 1000,
        "count": len(ordered),
    }


def _show(console: Console, result: Mapping[str, Any]) -> None:
    where = result["machine"]
    console.print(
        f"{where['cpu']}, {where['cores']} cores shared by everything, {where['kernel']}, Python {where['python']}, "
        f"hvac, OpenBao with raft and TLS, PostgreSQL with fsync and TLS, load {where['load_before']}",
        highlight=False,
    )
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("a credential", "p50 ms", "p99 ms", "× straight"):
        table.add_column(heading, justify="left" if heading == "a credential" else "right")
    words = {"first": "login or attest, then the first", "next": "one more"}
    for step, text in words.items():
        for side in ("straight", "ours"):
            figures = result["giving"][f"{side} {step}"]
            ratio = f"{result['ratios'][step]:.2f}" if side == "ours" else ""
            table.add_row(f"{text}, {side}", f"{figures['p50']:.1f}", f"{figures['p99']:.1f}", ratio)
    console.print(table, highlight=False)
    table = Table(box=None, padding=(1, 2, 0, 0))
    for heading in ("taken back", "logins refused p50 ms", "p99", "sessions ended p50 ms", "p99", "runs"):
        table.add_column(heading, justify="left" if heading == "taken back" else "right")
    for label, figures in result["taking"].items():
        size, how = label.split()
        refused, ended = figures["logins refused"], figures["sessions ended"]
        text = {
            "straight": "leases/revoke sync=true",
            "plain": "report, no cutter",
            "cut": "report, with the cutter",
        }[how]
        table.add_row(
            f"{size}: {text}",
            f"{refused['p50']:.1f}",
            f"{refused['p99']:.1f}",
            f"{ended['p50']:.1f}",
            f"{ended['p99']:.1f}",
            str(ended["count"]),
        )
    console.print(table, highlight=False)


if __name__ == "__main__":
    main()
