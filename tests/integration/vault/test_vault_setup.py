"""Set-up on a real server: printed commands make what is missing, and every planted flaw is seen and mended."""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from broker.adapters.backends.vault import AppRoleLogin, JwtLogin, VaultOptions
from broker.adapters.backends.vault_setup import (
    Finding,
    Level,
    Wanted,
    apply,
    compare,
    faulty,
    judge,
    look,
    opened,
    plan,
)
from broker.adapters.clock import SystemClock
from tests.support import vault_shell
from tests.support.openbao import Bao, OpenBao

if TYPE_CHECKING:
    from tests.support.postgres import Login
    from tests.support.postgres_ground import PostgresGround

pytestmark = pytest.mark.integration

ISSUER = "https://lockstep.example/gate"
ROLES: dict[str, dict[str, Any]] = {
    "pay": {"path": "database/creds/ls-pay"},
    "tls": {"path": "pki/issue/pay"},
    "settings": {"path": "secret/data/pay"},
}
_numbers = itertools.count(1)


@dataclass
class Site:
    """One namespace of a server, and a broker's configuration for it."""

    server: OpenBao
    folder: Path
    namespace: str
    roles: dict[str, dict[str, Any]] = field(default_factory=lambda: dict(ROLES))

    @property
    def root(self) -> Bao:
        return self.server.root.within(self.namespace)

    @property
    def options(self) -> VaultOptions:
        login = AppRoleLogin(self.folder / "role-id", self.folder / "secret-id")
        return VaultOptions((self.server.address,), login, namespace=self.namespace, ca_file=self.server.ca)

    @property
    def wanted(self) -> Wanted:
        return Wanted.of("vault", self.options, self.roles, gate_issuer=ISSUER)

    def check(self, *gated: str, operator: bool = True, token: str = "") -> tuple[Finding, ...]:
        async def looked() -> tuple[Finding, ...]:
            who = token or (self.server.root.token if operator else "")
            with opened(self.options, SystemClock(), who) as eyes:
                return judge(self.wanted, await look(self.wanted, self.options.login, eyes, gated))

        return asyncio.run(looked())

    def run(self, command: str, **say: str) -> str:
        """A printed command, with the real client; `say` is what it asks for."""
        return vault_shell.run(self.server, self.namespace, self.folder, command, **say)

    def mend(self, findings: Sequence[Finding]) -> None:
        """Run what the findings print, each once."""
        acts = dict.fromkeys(
            act.command(vault_shell.tool())
            for finding in findings
            if finding.level in (Level.TOO_WIDE, Level.MISSING)
            for act in finding.mends
        )
        assert acts
        for command in acts:
            self.run(command)

    def lay_out(self) -> None:
        """As `vault setup --dry-run` prints it; then the engines."""
        for act in plan(self.wanted):
            self.run(act.command(vault_shell.tool()))
        for mount, kind in (("database", "database"), ("pki", "pki"), ("secret", "kv-v2")):
            self.root.write(f"sys/mounts/{mount}", type=kind)
        self.root.write("database/roles/ls-pay", db_name="none", creation_statements=["SELECT 1"])
        self.root.write("pki/roles/pay", allow_any_name=True)

    def policy(self, name: str) -> str:
        return str(self.root.read(f"sys/policies/acl/{name}")["policy"])

    def add(self, name: str, stanza: str) -> None:
        """A flaw at the end of a policy."""
        self.root.write(f"sys/policies/acl/{name}", policy=f"{self.policy(name)}\n{stanza}\n")


def site_at(server: OpenBao, folder: Path) -> Site:
    folder.mkdir()
    namespace = f"s{next(_numbers)}"
    server.root.write(f"sys/namespaces/{namespace}")
    return Site(server, folder, namespace)


@pytest.fixture
def fresh(openbao_server: OpenBao, tmp_path: Path) -> Site:
    return site_at(openbao_server, tmp_path / "site")


@pytest.fixture(scope="module")
def shared(openbao_server: OpenBao, tmp_path_factory: pytest.TempPathFactory) -> Site:
    site = site_at(openbao_server, tmp_path_factory.mktemp("shared") / "site")
    site.lay_out()
    return site


@pytest.fixture
def site(shared: Site) -> Iterator[Site]:
    """Laid out and in order; whatever a test leaves is seen by the next, so that mending is whole."""
    assert not faulty(shared.check())
    yield shared
    asyncio.run(_put_back(shared))


async def _put_back(site: Site) -> None:
    with opened(site.options, SystemClock(), site.server.root.token) as eyes:
        await apply(await compare(plan(site.wanted), eyes), eyes)


def said(findings: Sequence[Finding], *levels: Level) -> str:
    return "\n".join(f"{finding.level}: {finding.what}" for finding in findings if finding.level in levels)


FLAWS = (Level.TOO_WIDE, Level.MISSING)


class TestAFreshServer:
    def test_everything_is_missing_then_printed_commands_make_it(self, fresh: Site) -> None:
        before = {finding.what for finding in fresh.check() if finding.level is Level.MISSING}
        assert before == {
            "policy lockstep-broker",
            "policy lockstep-credentials",
            "token role lockstep",
            "auth method approle at approle/",
            "database/creds/ls-pay (pay)",
            "pki/issue/pay (tls)",
            "secret/data/pay (settings)",
        }
        fresh.lay_out()
        after = fresh.check()
        assert said(after, *FLAWS, Level.UNSEEN) == ""

    def test_commands_of_the_findings_alone_make_it(self, fresh: Site) -> None:
        fresh.roles = {"settings": {"path": "secret/data/pay"}}
        fresh.mend(fresh.check())
        # The files come last: an AppRole must be there before its secret id.
        missing = next(finding for finding in fresh.check() if finding.key == "login.own")
        assert missing.level is Level.UNSEEN
        for act in missing.mends:
            fresh.run(act.command(vault_shell.tool()))
        assert said(fresh.check(), *FLAWS, Level.UNSEEN) == ""
        assert (fresh.folder / "secret-id").stat().st_mode & 0o077 == 0

    def test_setup_applies_and_does_nothing_the_second_time(self, fresh: Site) -> None:
        async def applied() -> list[str]:
            with opened(fresh.options, SystemClock(), fresh.server.root.token) as eyes:
                pending = await compare(plan(fresh.wanted), eyes)
                await apply(pending, eyes)
            return [item.state.value for item in pending]

        assert asyncio.run(applied()) == ["to be made"] * 5 + ["by hand"] * 2
        assert asyncio.run(applied()) == ["as it should be"] * 5 + ["by hand"] * 2
        fresh.root.write("auth/token/roles/lockstep", allowed_entity_aliases=["*"])
        assert asyncio.run(applied())[2] == "to be changed"
        assert asyncio.run(applied())[2] == "as it should be"

    def test_nothing_is_left_of_a_check(self, site: Site) -> None:
        tokens = site.root.listed("auth/token/accessors")
        entities = site.root.listed("identity/entity/id")
        site.check("default")
        assert len(site.root.listed("auth/token/accessors")) == len(tokens)
        assert site.root.listed("identity/entity/id") == entities


BROKER_FLAWS = {
    "an entity without the limit": (
        'path "identity/entity/id/*" { capabilities = ["update"] }',
        "update on identity/entity/id/* with any parameter",
    ),
    "an entity by name": (
        'path "identity/entity/name/*" { capabilities = ["update"] }',
        "update on identity/entity/name/*",
    ),
    "it reads what it hands out": (
        'path "database/creds/ls-pay" { capabilities = ["read"] }',
        "read on database/creds/ls-pay",
    ),
    "it reads what it hands out, by a wildcard": (
        'path "+/creds/*" { capabilities = ["read"] }',
        "read on +/creds/*",
    ),
    "sudo on every lease": (
        'path "sys/leases/lookup/*" { capabilities = ["list", "sudo"] }',
        "list, sudo on sys/leases/lookup/*",
    ),
    "any lease": (
        'path "sys/leases/revoke" { capabilities = ["update"] allowed_parameters = { "*" = [] } }',
        "update on sys/leases/revoke with the parameter *",
    ),
    "orphans": (
        'path "auth/token/create-orphan" { capabilities = ["update"] }',
        "update on auth/token/create-orphan",
    ),
    "policies": ('path "sys/policies/acl/*" { capabilities = ["create"] }', "update on sys/policies/acl/*"),
    "everything": ('path "*" { capabilities = ["read"] }', "read on *"),
}


class TestThePolicyOfTheBroker:
    @pytest.mark.parametrize("flaw", BROKER_FLAWS)
    @pytest.mark.parametrize("operator", [True, False], ids=["operator", "broker alone"])
    def test_what_is_too_wide(self, site: Site, flaw: str, operator: bool) -> None:
        stanza, words = BROKER_FLAWS[flaw]
        text = site.policy("lockstep-broker")
        if "identity/entity/id" in stanza:
            # Two stanzas on one path become one: the limit itself has to go.
            text = text.replace('allowed_parameters = {\n    "disabled" = [true]\n  }', "")
            text = text.replace('required_parameters = ["disabled"]', "")
        site.root.write("sys/policies/acl/lockstep-broker", policy=f"{text}\n{stanza}\n")
        found = site.check(operator=operator)
        if "+" in words and not operator:
            # The server lists no such path to the token itself: the broker is asked about the roles' own.
            words = "read on database/creds/ls-pay"
        assert words in said(found, Level.TOO_WIDE)
        site.mend(found)
        assert said(site.check(operator=operator), *FLAWS) == ""

    def test_what_is_missing(self, site: Site) -> None:
        text = site.policy("lockstep-broker")
        text = text.replace('"database/creds/ls-pay/*", ', "").replace("auth/token/revoke-accessor", "x/y")
        site.root.write("sys/policies/acl/lockstep-broker", policy=text)
        for operator in (True, False):
            missing = said(site.check(operator=operator), Level.MISSING)
            assert "update on auth/token/revoke-accessor" in missing
            assert "other values of lease_id on sys/leases/revoke than pki/issue/pay/*" in missing
        site.mend(site.check())
        assert said(site.check(), *FLAWS) == ""


def test_a_policy_of_workloads_that_gives_more(site: Site) -> None:
    site.add("lockstep-credentials", 'path "auth/token/create-orphan" { capabilities = ["update", "sudo"] }')
    site.add("lockstep-credentials", 'path "secret/+/other" { capabilities = ["read"] }')
    found = site.check()
    wide = said(found, Level.TOO_WIDE)
    assert "policy lockstep-credentials: sudo, update on auth/token/create-orphan" in wide
    assert "policy lockstep-credentials: read on secret/+/other" in wide
    site.mend(found)
    assert said(site.check(), *FLAWS) == ""


TOKEN_FLAWS: dict[str, tuple[dict[str, Any], str]] = {
    "batch": ({"token_type": "batch", "orphan": True, "renewable": False}, "token_type batch"),
    "whatever is asked for": ({"token_type": "default-service"}, "token_type default-service"),
    "the default policy": ({"token_no_default_policy": False}, "the policy default"),
    "any alias": ({"allowed_entity_aliases": ["*"]}, "allowed_entity_aliases *"),
    "more aliases": ({"allowed_entity_aliases": ["ls-*", "root"]}, "allowed_entity_aliases ls-*, root"),
    "more policies": ({"allowed_policies": ["lockstep-credentials", "lockstep-broker"]}, "lockstep-broker"),
    "policies by a pattern": ({"allowed_policies_glob": ["lock*"]}, "lock*"),
    "policies of whoever asks": ({"allowed_policies": []}, "none: those of whoever asks"),
    "no orphans": ({"orphan": False}, "orphan is off"),
    "periodic": ({"token_period": "24h"}, "token_period 86400 s"),
}


@pytest.mark.parametrize("flaw", TOKEN_FLAWS)
def test_a_token_role_that_is_too_wide(site: Site, flaw: str) -> None:
    body, words = TOKEN_FLAWS[flaw]
    site.root.write("auth/token/roles/lockstep", **body)
    found = site.check()
    assert words in said(found, *FLAWS)
    site.mend(found)
    assert said(site.check(), *FLAWS) == ""


LOGIN_FLAWS: dict[str, tuple[dict[str, Any], str]] = {
    "batch": ({"token_type": "batch"}, "it makes batch tokens"),
    "more policies": ({"token_policies": ["lockstep-broker", "other"]}, "it gives other"),
    "the default policy": ({"token_no_default_policy": False}, "it gives the policy default"),
    "another policy": ({"token_policies": ["other"]}, "it does not give lockstep-broker"),
    "few calls": ({"token_num_uses": 50}, "its tokens end after 50 calls"),
    "no secret id": ({"bind_secret_id": False, "secret_id_bound_cidrs": ["127.0.0.0/8"]}, "bind_secret_id"),
}


@pytest.mark.parametrize("flaw", LOGIN_FLAWS)
def test_a_login_that_is_too_wide(site: Site, flaw: str) -> None:
    body, words = LOGIN_FLAWS[flaw]
    site.root.write("auth/approle/role/lockstep", **body)
    found = site.check()
    assert words in said(found, *FLAWS)
    site.mend(found)
    assert said(site.check(), *FLAWS) == ""


def test_an_auth_method_that_makes_batch_tokens(site: Site) -> None:
    site.root.write("sys/auth/approle/tune", token_type="batch")
    found = site.check()
    assert "auth method approle makes batch tokens" in said(found, Level.TOO_WIDE)
    site.mend(found)
    assert said(site.check(), *FLAWS) == ""


def test_policies_that_the_brokers_entity_has(site: Site) -> None:
    site.root.write("sys/policies/acl/kin", policy='path "secret/*" { capabilities = ["read"] }')
    site.check()  # logs in: now there is an entity
    (entity,) = (
        key
        for key in site.root.listed("identity/entity/id")
        if site.root.read(f"identity/entity/id/{key}")["aliases"][0]["mount_path"] == "auth/approle/"
    )
    site.root.write(f"identity/entity/id/{entity}", policies=["kin"])
    found = site.check(operator=False)
    assert "the broker's entity has policies: kin" in said(found, Level.TOO_WIDE)
    site.run(next(finding for finding in found if "entity has" in finding.what).mends[0].command("bao"))
    assert said(site.check(operator=False), *FLAWS) == ""


def test_a_login_by_jwt_keeps_who_may_log_in(fresh: Site, tmp_path: Path) -> None:
    fresh.root.write("sys/auth/jwt", type="jwt")
    fresh.root.write("auth/jwt/config", jwt_validation_pubkeys=[PUBLIC])
    token = tmp_path / "token"
    wanted = Wanted.of("vault", replace(fresh.options, login=JwtLogin("lockstep", token)), fresh.roles)
    command = next(act for act in plan(wanted) if act.what == "login auth/jwt/role/lockstep").command("bao")
    with pytest.raises(AssertionError, match="AUDIENCE"):
        fresh.run(command)
    assert fresh.root.listed("auth/jwt/role") == []
    fresh.run(command, AUDIENCE="vault", SUBJECT="broker")
    fresh.root.write("auth/jwt/role/lockstep", role_type="jwt", token_no_default_policy=False)

    async def checked() -> tuple[Finding, ...]:
        with opened(fresh.options, SystemClock(), fresh.server.root.token) as eyes:
            return judge(wanted, await look(wanted, JwtLogin("lockstep", token), eyes))

    found = [item for item in asyncio.run(checked()) if item.key == "login.role"]
    assert said(found, *FLAWS) == "too wide: login auth/jwt/role/lockstep: it gives the policy default"
    fresh.mend(found)
    role = fresh.root.read("auth/jwt/role/lockstep")
    assert (role["bound_subject"], role["bound_audiences"]) == ("broker", ["vault"])
    assert role["token_no_default_policy"] is True


class TestGates:
    def test_a_gated_policy_leaves_no_way_past_a_cut(self, site: Site) -> None:
        text = """
path "auth/token/create-orphan" { capabilities = ["update", "sudo"] }
path "auth/token/create/payments" { capabilities = ["update"] }
path "identity/*" { capabilities = ["create", "update"] }
path "secret/data/pay" { capabilities = ["read"] }
"""
        site.root.write("sys/policies/acl/payments", policy=text)
        found = site.check("payments")
        wide = said(found, Level.TOO_WIDE)
        for path in ("auth/token/create-orphan", "auth/token/create/payments", "identity/entity/id/*"):
            assert f"gated policy payments allows {path}" in wide
        site.mend(found)
        after = site.check("payments")
        assert said(after, *FLAWS) == ""
        assert "gated policy payments leaves no way past a cut" in said(after, Level.GOOD)
        assert 'path "secret/data/pay"' in site.policy("payments")

    def test_roles_that_take_attestation_tokens_are_found(self, site: Site) -> None:
        site.root.write("sys/auth/gate", type="jwt")
        try:
            site.root.write("sys/policies/acl/orders", policy='path "a/b" { capabilities = ["read"] }')
            site.root.write("auth/gate/config", jwt_validation_pubkeys=[PUBLIC], bound_issuer=ISSUER)
            site.root.write(
                "auth/gate/role/orders",
                role_type="jwt",
                user_claim="lockstep_role",
                bound_audiences=["vault"],
                token_policies=["orders"],
                token_type="batch",
            )
            found = site.check()
            wide = said(found, Level.TOO_WIDE)
            assert "auth/gate/role/orders makes batch tokens" in wide
            assert "auth/gate/role/orders: user_claim lockstep_role" in wide
            assert "bound_claims name no role and no manifest" in wide
            assert "gated policy orders leaves no way past a cut" in said(found, Level.GOOD)
            site.mend(found)
            assert said(site.check(), *FLAWS) == ""
            assert site.root.read("auth/gate/role/orders")["bound_audiences"] == ["vault"]
        finally:
            site.root.delete("sys/auth/gate")


PUBLIC = """-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEaxfR8uEsQkf4vOblY6RA8ncDfYEt
6zOg9KE5RdiYwpZP40Li/hp/m47n60p8D54WK84zV2sxXs7LtkBoN79R9Q==
-----END PUBLIC KEY-----"""


class Loose(OpenBao):
    """As somebody installs it who has not read our page."""

    def _config(self) -> dict[str, Any]:
        config = {**super()._config(), "disable_standby_reads": False}
        del config["listener"]["tcp"]["max_request_duration"]
        return config


def test_standbys_that_answer_reads(tmp_path: Path) -> None:
    server = Loose(tmp_path / "server", storage="raft")
    try:
        server.start()
        deadline = time.monotonic() + 30
        while Bao(server.address, server.ca, "").call("GET", "sys/leader").get("is_self") is not True:
            assert time.monotonic() < deadline
        site = Site(server, tmp_path, "")
        wide = said(site.check(), Level.TOO_WIDE)
        assert "standbys answer reads" in wide
        assert "requests may last 90 s, and the configuration counts on 30 s" in wide
        # Nobody but an operator is told how the server is configured.
        assert "whether standbys answer reads" in said(site.check(operator=False), Level.UNSEEN)
    finally:
        server.stop()


def test_a_server_that_is_alone_has_no_standbys_whoever_looks(tmp_path: Path) -> None:
    server = Loose(tmp_path / "server", storage="inmem")
    try:
        server.start()
        site = Site(server, tmp_path, "")
        for operator in (True, False):
            found = site.check(operator=operator)
            assert "standbys answer no reads" in said(found, Level.GOOD), f"operator: {operator}"
            assert "standbys" not in said(found, *FLAWS, Level.UNSEEN)
    finally:
        server.stop()


def test_without_rights_a_check_says_what_it_could_not_see(site: Site) -> None:
    made = site.root.write("auth/token/create", policies=["default"], ttl="60s")
    found = site.check(token=made["auth"]["client_token"])
    assert said(found, *FLAWS) == ""
    unseen = said(found, Level.UNSEEN)
    assert "the token may not read auth/token/roles/lockstep" in unseen
    assert "policy lockstep-broker is what is needed" in said(found, Level.GOOD)


def test_names_of_logins_that_no_cutter_finds(fresh: Site, database: Login) -> None:
    fresh.roles = {"pay": {"path": "database/creds/ls-pay", "cutter": "db"}}
    fresh.lay_out()
    login = database
    fresh.root.write(
        "database/config/none",
        plugin_name="postgresql-database-plugin",
        allowed_roles=["ls-pay"],
        connection_url=f"postgresql://{{{{username}}}}:{{{{password}}}}@{login.host}:{login.port}/{login.database}"
        f"?sslmode=verify-full&sslrootcert={login.ca}",
        username=login.user,
        password=login.password,
    )
    found = fresh.check()
    assert "names of logins of database/config/none do not begin with" in said(found, Level.MISSING)
    # What the cutter itself says is asked by the command.
    assert "cutter db: it was not asked" in said(found, Level.UNSEEN)
    fresh.mend(found)
    assert said(fresh.check(), *FLAWS) == ""


# --- the command ------------------------------------------------------------------------------------


@dataclass
class Command:
    """`lockstep-broker vault` with a configuration of its own."""

    site: Site
    configuration: Path

    def say(self, backend: str, more: str = "") -> None:
        """More of the role's backend, and of the configuration."""
        file = self.configuration.parent.parent / "more.toml"
        text = file.read_text().replace(
            'path = "database/creds/ls-pay"', f'path = "database/creds/ls-pay", {backend}'
        )
        file.write_text(text + more)

    def __call__(
        self, *words: str, token: str | None = None, code: int = 0, answer: str = ""
    ) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.site.folder)}
        if token is not None:
            environment["BAO_TOKEN"] = token
        verb, *rest = words
        done = subprocess.run(
            [sys.executable, "-m", "broker", "vault", verb, str(self.configuration), *rest],
            env=environment,
            capture_output=True,
            text=True,
            input=answer,
            timeout=60,
            check=False,
        )
        assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "s." not in done.stdout.replace("ls.", "") or self.site.server.root.token not in done.stdout
        return done


CUTTER = """
[cutters.pay-db]
kind = "postgres"
host = "{cutter.host}"
port = {cutter.port}
database = "{cutter.database}"
user = "{cutter.user}"
password_file = "{cutter.password_file}"
ca_file = "{cutter.ca}"
"""


@pytest.fixture
def command(fresh: Site, tmp_path: Path) -> Command:
    from broker.dev import make

    more = tmp_path / "more.toml"
    more.write_text(
        f"""
[backends.vault]
kind = "vault"
address = "{fresh.server.address}"
namespace = "{fresh.namespace}"
ca_file = "{fresh.server.ca}"
auth = {{ method = "approle", role_id_file = "{fresh.folder}/role-id", secret_id_file = "{fresh.folder}/secret-id" }}

[roles.settings]
mode = "observe"
identity = {{ from = "dev", subject = "dev-app" }}
manifests = ["dev"]
backend = {{ use = "vault", path = "database/creds/ls-pay" }}
ttl = "5m"
"""
    )
    laptop = make(tmp_path / "dev", SystemClock(), enforce=False, port=0, includes=(more,), keep=True)
    return Command(fresh, laptop.configuration)


class TestTheCommand:
    def test_the_dry_run_is_a_script_that_sets_up(
        self, command: Command, postgres_ground: PostgresGround, tmp_path: Path
    ) -> None:
        from tests.support.postgres_ground import cutter_options

        site, admin = command.site, postgres_ground.vault
        cutter = cutter_options(postgres_ground.cutter, tmp_path)
        target = f'target = {{ host = "{admin.host}", port = {admin.port} }}'
        command.say(f'cutter = "pay-db", {target}', CUTTER.format(cutter=cutter))
        # It asks nobody, and needs no token.
        script = command("setup", "--dry-run").stdout
        with pytest.raises(AssertionError, match="PAY_DB_PASSWORD_FILE"):
            site.run(script)
        assert site.root.listed("sys/policies/acl") == ["default"], "nothing is done before all is said"
        password = site.folder / "vault-password"
        password.write_text(f"{admin.password}\n")
        said = {
            "PAY_DB_PASSWORD_FILE": str(password),
            "PAY_DB_DATABASE": admin.database,
            "PAY_DB_CA": str(admin.ca),
            "PAY_DB_OWNER": postgres_ground.owner,
        }
        site.run(script, **said)
        report = command("check", token=site.server.root.token).stdout
        assert "0 too wide, 0 missing, 0 could not be seen" in report
        assert "names of logins of database/config/pay-db begin with the instance" in report
        assert "cutter pay-db may cut at its target, and nothing else" in report
        made = site.root.call("GET", "database/creds/ls-pay")["data"]
        with postgres_ground.server.login(made["username"], made["password"], admin.database).connect() as it:
            assert it.execute("SELECT note FROM app.orders").fetchall() == [("first",)]

    def test_the_dry_run_says_everything_to_programs_too(self, command: Command) -> None:
        import json

        (backend,) = json.loads(command("setup", "--dry-run", "--json").stdout)["backends"]
        assert backend["variables"] == [
            *("LS_PAY_PASSWORD_FILE", "LS_PAY_HOST", "LS_PAY_DATABASE", "LS_PAY_CA", "LS_PAY_OWNER"),
        ]
        assert [act["what"] for act in backend["engines"]] == [
            *("engine database", "database/config/ls-pay", "role database/roles/ls-pay"),
        ]

    def test_it_asks_before_it_does(self, command: Command) -> None:
        root = command.site.server.root.token
        command("setup", token=root, answer="n\n", code=1)
        assert command.site.root.listed("auth/token/roles") == []
        command("setup", token=root, answer="y\n")
        assert command.site.root.listed("auth/token/roles") == ["lockstep"]
        again = command("setup", token=root).stdout
        assert "to be made" not in again
        assert again.count("as it should be") == 5

    def test_a_check_that_finds_something_says_so_to_scripts(self, command: Command, tmp_path: Path) -> None:
        import json

        report = json.loads(command("check", "--json", token=command.site.server.root.token, code=6).stdout)
        assert report["ok"] is False
        (backend,) = report["backends"]
        assert backend["environment"]["BAO_NAMESPACE"] == command.site.namespace
        missing = {item["key"]: item for item in backend["findings"] if item["level"] == "missing"}
        assert missing["token_role"]["mend"][0].startswith("bao write auth/token/roles/lockstep ")
        token = tmp_path / "operator-token"
        token.touch(mode=0o600)
        token.write_text(command.site.server.root.token)
        command("check", "--token-file", str(token), code=6)

    def test_what_could_not_be_seen_is_no_success(self, command: Command) -> None:
        import json

        site = command.site
        site.roles = {"settings": {"path": "database/creds/ls-pay"}}
        for act in plan(site.wanted):
            site.run(act.command(vault_shell.tool()))
        # Only the policies, the token role and the login are looked at: the broker's own login sees some of it.
        report = json.loads(command("check", "--json", code=8).stdout)
        levels = {item["level"] for item in report["backends"][0]["findings"]}
        assert levels == {"good", "could not be seen"}
        assert report["ok"] is False
        assert "could not be seen" in command("check", code=8).stdout

    def test_what_is_wrong_at_a_cutters_target_is_found(
        self, command: Command, database: Login, tmp_path: Path
    ) -> None:
        from tests.support.postgres_ground import cutter_options

        site = command.site
        # The database has no functions of ours, and its superuser is no cutter.
        cutter = cutter_options(database, tmp_path)
        command.say('cutter = "pay-db"', CUTTER.format(cutter=cutter))
        report = command("check", token=site.server.root.token, code=6).stdout
        assert "too wide           cutter pay-db: postgres has attributes, and needs none" in report
        assert "missing            cutter pay-db: postgres may not call lockstep's functions" in report
        assert f"psql -v ON_ERROR_STOP=1 -d {database.database} -f deploy/vault/postgres/cutter.sql" in report
        Path(cutter.password_file).unlink()
        report = command("check", token=site.server.root.token, code=6).stdout
        assert f"could not be seen  cutter pay-db: {cutter.password_file}" in report
        assert database.password not in report

    def test_what_cannot_be_done_is_one_line(self, command: Command) -> None:
        assert "no operator's token" in command("setup", code=2).stderr
        assert "no such backend" in command("check", "--backend", "other", code=2).stderr
        wrong = command("setup", "--yes", token="s.nobody", code=7).stderr
        assert wrong.strip() == "Vault: the token may not read sys/policies/acl/lockstep-broker"
