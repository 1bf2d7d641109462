"""Names of logins, from the template that a check prints to the cut: what the server makes is what the cutter ends."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psycopg
import pytest

from broker.adapters.backends.vault_setup import Finding, Level, Wanted, judge, look, opened
from broker.adapters.clock import SystemClock
from broker.adapters.entropy import SystemEntropy
from tests.support import vault_shell
from tests.support.vault_plug import account, grant, plug
from tests.support.vault_plug import opened as opened_account

if TYPE_CHECKING:
    from broker.adapters.backends.vault import VaultOptions
    from tests.support.openbao import OpenBao
    from tests.support.postgres import Postgres
    from tests.support.vault_stage import VaultStage

pytestmark = pytest.mark.integration

CONNECTION: Final = "database/config/orders"
LOWERED: Final = (
    '{{ printf "ls-%s-%s" (.DisplayName | replace "token-" "" | truncate 40) (random 12) | lowercase }}'
)


@pytest.fixture
def stage(openbao_server: OpenBao, postgres_server: Postgres, tmp_path: Path) -> VaultStage:
    from tests.support.vault_stage import lay_out

    return lay_out(openbao_server, postgres_server, tmp_path / "stage")


async def names(stage: VaultStage, options: VaultOptions) -> Finding:
    """What a check says of them."""
    from tests.support.vault_stage import PATH

    wanted = Wanted.of("vault", options, {"pay": {"path": PATH, "cutter": "payments-db"}})
    with opened(options, SystemClock(), stage.vault.server.root.token) as eyes:
        found = judge(wanted, await look(wanted, options.login, eyes))
    (finding,) = (item for item in found if item.key == "engine.username")
    return finding


async def test_the_mend_that_is_printed_makes_names_that_are_cut(stage: VaultStage, tmp_path: Path) -> None:
    from broker.adapters.cutters.postgres import PostgresCutter
    from tests.support.postgres_ground import cutter_options
    from tests.support.vault_stage import PATH

    vault = stage.vault
    vault.root.write(CONNECTION, username_template=LOWERED)
    options = vault.options()
    async with plug(options) as backend:
        held = await opened_account(backend)
        for _ in range(2):
            await backend.issue(grant(backend, held, PATH, {"cutter": "payments-db"}))
        (warned,) = backend.warned
        assert warned.startswith(f"backend vault: {PATH}: names of logins do not begin with the instance")
    found = await names(stage, options)
    assert found.level is Level.MISSING
    (mend,) = found.mends
    vault_shell.run(vault.server, vault.namespace, tmp_path, mend.command(vault_shell.tool()))
    assert (await names(stage, options)).level is Level.GOOD

    # As the broker makes them: with an upper-case letter in it.
    attestation = SystemEntropy().identifier("A", time.time())
    cutter = PostgresCutter(cutter_options(stage.target.cutter, tmp_path))
    try:
        async with plug(options) as backend:
            held = await opened_account(backend, account(attestation=attestation))
            issued = await backend.issue(grant(backend, held, PATH, {"cutter": "payments-db"}))
            fields = issued.credential.fields
            assert backend.warned == []
            with stage.session(fields["username"], fields["password"]) as session:
                assert session.execute("SELECT 1").fetchone() == (1,)
                remains = await cutter.cut(attestation)
                assert remains.gone
                with pytest.raises(psycopg.OperationalError):
                    session.execute("SELECT 1")
            with (
                pytest.raises(psycopg.OperationalError),
                stage.session(fields["username"], fields["password"]),
            ):
                pass
    finally:
        await cutter.close()
    assert stage.target.can_log_in(attestation) == []
