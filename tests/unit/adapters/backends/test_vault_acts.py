"""Lines that are printed for every engine: words that the server knows, and what only a person knows as variables."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from broker.adapters.backends.vault import AppRoleLogin, VaultOptions
from broker.adapters.backends.vault.engines import ENGINES
from broker.adapters.backends.vault_setup import Wanted, engines, variables
from broker.adapters.backends.vault_setup.acts_engines import engine, role

PATHS: dict[str, dict[str, Any]] = {
    "database": {"path": "database/creds/pay"},
    "database with a cutter": {"path": "database/creds/pay", "cutter": "pay-db"},
    "database static": {"path": "database/static-creds/pay"},
    "rabbitmq": {"path": "rabbitmq/creds/pay"},
    "ldap": {"path": "ldap/creds/pay"},
    "ldap static": {"path": "ldap/static-cred/pay"},
    "openldap": {"path": "openldap/creds/pay"},
    "kubernetes": {"path": "kubernetes/creds/pay"},
    "kubernetes for the lease": {"path": "kubernetes/creds/pay", "revocability": "at_target"},
    "pki": {"path": "pki/issue/pay"},
    "ssh": {"path": "ssh/sign/pay"},
    "ssh otp": {"path": "ssh/creds/pay"},
    "aws": {"path": "aws/creds/pay"},
    "aws sts": {"path": "aws/sts/pay"},
    "azure": {"path": "azure/creds/pay"},
    "gcp": {"path": "gcp/roleset/pay/token"},
    "kv": {"path": "secret/data/pay"},
    "generic": {"path": "elsewhere/pay", "engine": "generic"},
    "at another mount": {"path": "team/db/creds/pay"},
}


def wanted(parameters: dict[str, Any]) -> Wanted:
    options = VaultOptions(
        ("https://vault.example",), AppRoleLogin(Path("r"), Path("s")), mounts={"team/db": "database"}
    )
    return Wanted.of("vault", options, {"pay": parameters})


def test_every_engine_is_here() -> None:
    shown = {wanted(parameters).uses[0].engine for parameters in PATHS.values()}
    assert shown == set(ENGINES)


@pytest.mark.parametrize("parameters", PATHS.values(), ids=PATHS)
def test_an_engine_is_enabled_by_one_word(parameters: dict[str, Any]) -> None:
    (use,) = wanted(parameters).uses
    words = shlex.split(engine(use.mount, use.engine).command("bao"))
    assert words[:4] == ["bao", "secrets", "enable", f"-path={use.mount}"]
    kind = [word for word in words[4:] if word != "-version=2"]
    assert len(kind) == 1
    assert kind[0] in ({*ENGINES} - {"generic"} | {"${ENGINE:?}"})


@pytest.mark.parametrize("parameters", PATHS.values(), ids=PATHS)
def test_a_role_is_written_where_its_engine_keeps_it(parameters: dict[str, Any]) -> None:
    (use,) = wanted(parameters).uses
    line = role(use).command("bao")
    if use.engine in ("gcp", "kv", "generic"):
        assert line == f"# {use.path}: make it as you like it; docs/vault.md, Engines"
        return
    words = shlex.split(line)
    assert words[:2] == ["bao", "write"]
    assert words[2].startswith(f"{use.mount}/")
    assert words[2].endswith("/pay")
    assert all("=" in word for word in words[3:])


@pytest.mark.parametrize("parameters", PATHS.values(), ids=PATHS)
def test_lines_name_everything_that_is_to_be_said(parameters: dict[str, Any]) -> None:
    acts = tuple(engines(wanted(parameters)))
    text = "\n".join(act.command("bao") for act in acts)
    assert text.count("${") == sum(text.count(f"${{{name}:?}}") for name in variables(acts))


def test_a_static_role_is_no_dynamic_one() -> None:
    (use,) = wanted(PATHS["database static"]).uses
    assert "database/static-roles/pay " in role(use).command("bao")
    assert "creation_statements" not in role(use).command("bao")


def test_statements_that_need_the_cutters_functions_are_for_those_who_have_them() -> None:
    with_it, without = (
        role(wanted(PATHS[name]).uses[0]).command("bao") for name in ("database with a cutter", "database")
    )
    assert "revocation_statements=@deploy/vault/postgres/revocation.sql" in with_it
    assert "revocation_statements=@deploy/vault/postgres/revocation-plain.sql" in without


def test_an_account_for_the_lease_is_made_where_the_role_counts_on_it() -> None:
    found, made = (
        role(wanted(PATHS[name]).uses[0]).command("bao")
        for name in ("kubernetes", "kubernetes for the lease")
    )
    assert "service_account_name=" in found
    assert "kubernetes_role_name=" in made


def test_connections_are_shared_where_the_cutter_is() -> None:
    roles = {
        "a": {"path": "database/creds/a", "cutter": "db", "target": {"host": "db.example", "port": 5433}},
        "b": {"path": "database/creds/b", "cutter": "db"},
        "c": {"path": "database/creds/c"},
    }
    options = VaultOptions(("https://vault.example",), AppRoleLogin(Path("r"), Path("s")))
    lines = [act.command("bao") for act in engines(Wanted.of("vault", options, roles))]
    connections = [line for line in lines if "database/config/" in line]
    assert len(connections) == 2
    assert "allowed_roles=a,b " in connections[0]
    assert "@db.example:5433/" in connections[0]
    # Two databases are asked for by two names.
    assert '"${DB_PASSWORD_FILE:?}"' in connections[0]
    assert '"${C_PASSWORD_FILE:?}"' in connections[1]
