"""kill -9 before and after every call of issue and revoke, then a restart: no token, no lease, no login is left."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.actors import clean_environment

if TYPE_CHECKING:
    from tests.support.openbao import OpenBao
    from tests.support.postgres import Postgres
    from tests.support.postgres_ground import PostgresGround
    from tests.support.vault_ground import Ground

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[3]
ABREAST = 3
"""Lives at once: each is a process that mostly waits."""


@dataclass
class Place:
    """A namespace at Vault, a database and a state, for one life and the next."""

    vault: Ground
    target: PostgresGround
    path: str
    folder: Path

    def play(self, act: str, die: int | None = None, *, after: bool = False) -> tuple[int, list[str]]:
        """Run one act in a process; its exit status and what it called."""
        from tests.support.postgres_ground import cutter_options

        files = self.vault.approle()
        cutter = dataclasses.asdict(cutter_options(self.target.cutter, self.folder))
        order = {
            "act": act,
            "state": str(self.folder / "state.db"),
            "path": self.path,
            "cutter": cutter,
            "vault": {
                "addresses": [self.vault.server.address],
                "namespace": self.vault.namespace,
                "ca_file": str(self.vault.server.ca),
                "role_id_file": files["role_id_file"],
                "secret_id_file": files["secret_id_file"],
            },
            "die": die,
            "after": after,
        }
        file = self.folder / f"{act}.json"
        file.write_text(json.dumps(order))
        done = subprocess.run(
            [sys.executable, "-m", "tests.support.mortal", str(file)],
            cwd=ROOT,
            env=clean_environment({}),
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        if done.returncode not in (0, -9):
            raise AssertionError(f"{act} {die} {after}: {done.stderr[-3000:]}")
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        return done.returncode, lines[-1]["trace"] if lines else []

    def left(self) -> Any:
        """What could still be used."""
        from tests.support.vault_stage import left

        return left(self.vault, self.target, self.path)


NOTHING = {"tokens": [], "leases": [], "logins": []}


def settle(bao: OpenBao, postgres: Postgres, folder: Path) -> Place:
    """A place where nothing has been yet."""
    from tests.support.vault_stage import PATH, lay_out

    stage = lay_out(bao, postgres, folder)
    return Place(stage.vault, stage.target, PATH, folder)


@pytest.mark.parametrize("act", ["issue", "revoke"])
def test_whenever_it_dies_nothing_is_left(
    act: str, openbao_server: OpenBao, postgres_server: Postgres, tmp_path: Path
) -> None:
    first = settle(openbao_server, postgres_server, tmp_path / "first")
    status, trace = first.play(act)
    assert status == 0
    assert (
        {"open", "issue"} <= set(trace)
        if act == "issue"
        else {"freeze", "cut", "revoke", "close"} <= set(trace)
    )
    first.play("recover")
    assert first.left() == NOTHING
    points = [(number, after) for number in range(len(trace)) for after in (False, True)]
    places = [settle(openbao_server, postgres_server, tmp_path / f"{n}{after}") for n, after in points]

    def live_and_die(place: Place, point: tuple[int, bool]) -> str:
        number, after = point
        status, _ = place.play(act, number, after=after)
        place.play("recover")
        left = place.left()
        where = f"{'after' if after else 'before'} {number} ({trace[number]})"
        # What comes later in a life differs a little from one to the next: fewer calls may be made.
        return "" if left == NOTHING else f"{where}, status {status}: {left}"

    with ThreadPoolExecutor(ABREAST) as lives:
        faults = [fault for fault in lives.map(live_and_die, places, points) if fault]
    assert not faults, "\n".join(faults)
