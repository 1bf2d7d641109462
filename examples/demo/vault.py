"""The same story with a database: OpenBao makes a login, and an open session is cut when a plugin loads.

``python examples/demo/vault.py`` (what ``make demo-vault`` runs); ``--json`` prints the timeline for a program.
Starts a real OpenBao and a real PostgreSQL on free ports of this machine, and leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cast import HERE, StageError, acting, beside, plugin_market
from telling import ROOT, Story, approve, moments, perform, receipt_of, signed, since, webhook

sys.path.insert(0, str(ROOT))

from tests.support.openbao import openbao
from tests.support.postgres import postgres
from tests.support.vault_stage import VaultStage, lay_out

_ROLES = """
[manifests.ledger]
signers = ["dev"]

[roles.ledger-db]
owner = "ledger"
mode = "enforce"
identity = { from = "dev", subject = "dev-app" }
manifests = ["ledger"]
backend = { use = "vault", path = "database/creds/payments", cutter = "payments-db" }
ttl = "5m"
revocability = "at_target"
after_revocation = "hold"
"""


@dataclass(frozen=True, slots=True)
class Set:
    """What the act shares."""

    story: Story
    env: Mapping[str, str]
    stage: VaultStage
    market: str
    record: dict[str, Any]


def play(story: Story, folder: Path, record: dict[str, Any]) -> None:
    """The whole story, in a folder that is thrown away."""
    started = time.monotonic()
    with _servers(story, folder) as stage:
        roles = folder / "roles.toml"
        roles.touch(mode=0o600)
        roles.write_text(stage.backend() + stage.cutter() + _ROLES)
        story.chapter("A broker, for this laptop")
        dev = [
            beside("lockstep-broker"),
            "dev",
            "--json",
            "--folder",
            str(folder / "dev"),
            "--with",
            str(roles),
        ]
        with acting("broker", dev, {}) as broker:
            ready = broker.hear()
            story.say(
                f"gRPC on {ready['address']}, its only right at OpenBao: to make tokens, and to stop them"
            )
            approve(story, folder, ready["env"], "ledger", HERE / "ledger")
            with plugin_market() as market:
                act(Set(story, ready["env"], stage, market, record))
    story.chapter("Done")
    story.say(f"{since(started)} in all; every process has ended, and the folder is gone")


@contextlib.contextmanager
def _servers(story: Story, folder: Path) -> Iterator[VaultStage]:
    story.chapter("A real OpenBao and a real PostgreSQL")
    begun = time.monotonic()
    with openbao(folder / "openbao") as bao, postgres() as database:
        stage = lay_out(bao, database, folder / "stage")
        story.say(f"OpenBao on {bao.address}, PostgreSQL on port {database.port}, ready in {since(begun)}")
        story.say(
            "laid out with what deploy/vault ships: policies, token role, database role, the cutter's functions"
        )
        yield stage


def act(shared: Set) -> None:
    """The ledger books; then it imports a plugin that it fetched."""
    story = shared.story
    story.chapter("The ledger attests, gets a login of its own, and books over an open session")
    database = shared.stage.target.superuser
    env = {
        **shared.env,
        "LEDGER_DSN": f"host={database.host} port={database.port} dbname={database.database} "
        f"sslmode=verify-full sslrootcert={database.ca}",
    }
    with acting("ledger", [sys.executable, str(HERE / "ledger" / "ledger.py")], env) as ledger:
        ready = ledger.hear("ready", "denied")
        if ready["event"] == "denied":
            raise StageError(f"the ledger was denied: {ready}")
        story.say(f"attested as {ready['attestation']}, lease {ready['lease']}, login {ready['username']}")
        ledger.tell("book")
        story.say(f"line {ledger.hear('booked')['line']} booked")
        story.chapter("It fetches a plugin over HTTP and imports it")
        zero = time.time()
        story.note(zero, "ledger", f"fetches {shared.market}")
        ledger.tell("plugin", shared.market)
        told = ledger.hear("revoked")
        story.note(told["at"], "ledger", f"told: {told['reason']}; secrets dropped", "yellow")
        answer = webhook(shared.env, ledger.pid)
        story.note(time.time(), "webhook", f"the same, from outside: {answer}")
        cut = ledger.hear("cut")
        story.note(cut["at"], "ledger", f"{cut['what']}", "bold red")
        ledger.tell("book")
        ended = ledger.hear("session-ended", "booked")
        if ended["event"] == "booked":
            raise StageError("a session survived the revocation")
        story.note(ended["at"], "ledger", f"cannot book: {ended['why']}", "red")
        ledger.tell("replay")
        refused = ledger.hear("refused", "logged-in")
        if refused["event"] == "logged-in":
            raise StageError("a login survived the revocation")
        story.note(refused["at"], "database", f"refuses the copy of the login: {refused['why']}", "red")
        receipt = receipt_of(story, shared.env, told["decision"])
        story.timeline(zero)
        story.say(signed(receipt))
        shared.record["act"] = {
            "receipt": receipt,
            "moments": moments(story, zero),
            "username": ready["username"],
        }
        ledger.tell("quit")
        ledger.wait()
    _look(shared, str(ready["username"]))


def _look(shared: Set, username: str) -> None:
    """Nobody has to believe a receipt: ask the servers."""
    story = shared.story
    story.chapter("Ask them yourself")
    with shared.stage.target.superuser.connect() as session:
        found = session.execute("SELECT count(*) FROM pg_roles WHERE rolname = %s", (username,)).fetchone()
    leases = shared.stage.vault.leases("database/creds/payments")
    if found != (0,) or leases:
        raise StageError(f"something is left: {found}, {leases}")
    story.say(f"PostgreSQL: no role {username}; OpenBao: no lease under database/creds/payments")
    shared.record["left"] = {"roles": 0, "leases": leases}


if __name__ == "__main__":
    sys.exit(perform(__doc__ or "", play))
