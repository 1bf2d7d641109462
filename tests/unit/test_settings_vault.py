"""Vault backends and cutters in a configuration: what they become, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.adapters.backends.vault import AppRoleLogin, CertificateLogin, JwtLogin, KubernetesLogin
from broker.adapters.clock import SystemClock
from broker.dev import make
from broker.model.role import Revocability, Rotate
from broker.settings import ConfigurationRefused, Settings, load
from broker.settings.vault import VaultBackend

APPROLE = 'auth = { method = "approle", role_id_file = "role-id", secret_id_file = "secret-id" }'
BACKEND = f"""
[backends.vault]
kind = "vault"
address = "https://vault.example:8200"
{APPROLE}
"""
CUTTER = """
[cutters.orders]
kind = "postgres"
host = "db.example"
database = "orders"
password_file = "password"
"""
ROLE = """
[roles.orders]
mode = "observe"
identity = { from = "dev", subject = "orders" }
manifests = ["dev"]
backend = { use = "vault", path = "database/creds/orders", cutter = "orders" }
ttl = "5m"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A configuration with a Vault, a cutter and a role."""
    made = tmp_path / "dev"
    make(made, SystemClock())
    for name in ("role-id", "secret-id", "password"):
        (made / name).touch(mode=0o600)
        (made / name).write_text(f"the {name}")
    with (made / "lockstep.toml").open("a") as file:
        file.write(BACKEND + CUTTER + ROLE)
    return made


def edited(folder: Path, old: str, new: str) -> None:
    path = folder / "lockstep.toml"
    text = path.read_text()
    assert old in text, old
    path.write_text(text.replace(old, new, 1))


def vault(settings: Settings) -> VaultBackend:
    table = settings.tables.backends["vault"]
    assert isinstance(table, VaultBackend)
    return table


def test_it_becomes_options_and_a_role_names_its_cutter(folder: Path) -> None:
    settings = load(folder / "lockstep.toml", {})
    options = vault(settings).options()
    assert options.addresses == ("https://vault.example:8200",)
    assert options.login == AppRoleLogin(folder / "role-id", folder / "secret-id")
    assert (options.token_role, options.token_ttl, options.max_request_duration) == ("lockstep", 300.0, 30.0)
    assert settings.book.roles["orders"].parameters == {"path": "database/creds/orders", "cutter": "orders"}
    cutter = settings.tables.cutters["orders"].options()
    assert (cutter.host, cutter.port, cutter.user, cutter.tls) == (
        "db.example",
        5432,
        "lockstep_cutter",
        True,
    )
    assert cutter.password() == "the password"


@pytest.mark.parametrize(
    ("auth", "kind"),
    [
        ('{ method = "kubernetes", role = "r", token_file = "absent" }', KubernetesLogin),
        ('{ method = "jwt", role = "r", token_file = "absent", mount = "jwt/eu" }', JwtLogin),
        ('{ method = "cert", certificate = "server.crt", key = "server.key" }', CertificateLogin),
        ('{ method = "cert", certificate = "server.crt", key = "server.key", role = "r" }', CertificateLogin),
    ],
)
def test_every_method_of_logging_in(folder: Path, auth: str, kind: type) -> None:
    edited(folder, APPROLE, f"auth = {auth}")
    login = vault(load(folder / "lockstep.toml", {})).options().login
    assert isinstance(login, kind)
    assert login.mount == ("jwt/eu" if kind is JwtLogin else login.mount)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("https://vault.example:8200", "http://vault.example:8200", "is without TLS"),
        (
            'address = "https://vault',
            'addresses = ["http://x:1"]\naddress = "https://vault',
            "is without TLS",
        ),
        (', secret_id_file = "secret-id"', "", 'backends.vault.auth: method "approle" needs secret_id_file'),
        ('"approle",', '"approle", role = "x",', 'method "approle" does not use role; remove it'),
        ('"approle",', '"token",', 'backends.vault.auth.method: "token" is not one of'),
        ('method = "approle"', 'methd = "approle"', 'unknown key; did you mean "method"?'),
        (
            APPROLE,
            'auth = { method = "kubernetes", token_file = "t" }',
            'method "kubernetes" needs role',
        ),
        ('secret_id_file = "secret-id"', 'secret_id_file = "absent"', "absent: cannot be read"),
        (APPROLE, f'{APPROLE}\nca_file = "absent"', "backends.vault.ca_file: "),
        (APPROLE, f'{APPROLE}\nnamespace = "a b"', "backends.vault.namespace: "),
        (APPROLE, f'{APPROLE}\ntimeout = "0s"', "backends.vault.timeout: must be longer"),
        (APPROLE, f"{APPROLE}\nconnections = 0", "backends.vault.connections: "),
        ('path = "database/creds/orders", ', "", "roles.orders.backend.path: is missing"),
        ('path = "database/creds/orders"', 'path = "sys/raw/x"', "roles.orders.backend: path: sys/ makes no"),
        ('path = "database/creds/orders"', 'path = "x/creds/y"', "say engine"),
        ('path = "database/creds/orders"', 'path = "kv/data/x"', 'accept that with static = "accepted"'),
        (
            'path = "database',
            'audience = "a", path = "database',
            "roles.orders.backend.audience: unknown key",
        ),
        (
            'path = "database',
            'revocability = "instant", path = "database',
            'roles.orders.backend.revocability: "instant" is not one of',
        ),
        (
            'ttl = "5m"\n',
            'ttl = "5m"\nrotate = { every = "24h", overlap = "10m" }\n',
            "roles.orders.rotate: a lease ends with max_life",
        ),
        (
            'cutter = "orders"',
            'cutter = "orders", target = { port = 5432.5 }',
            "roles.orders.backend.target.port",
        ),
        (
            'cutter = "orders"',
            'cutter = "orders", target = { tls = true }',
            "roles.orders.backend.target.tls",
        ),
        (
            'cutter = "orders"',
            'cutter = "orders", target = { host = { name = "x" } }',
            "roles.orders.backend.target.host",
        ),
        (
            'cutter = "orders"',
            'cutter = "orders", target = { hosts = ["a", "b"] }',
            "roles.orders.backend.target.hosts",
        ),
        (
            'cutter = "orders"',
            'cutter = "orders", target = { host = "" }',
            "roles.orders.backend.target.host",
        ),
        ('cutter = "orders"', 'cutter = "orders", target = "db.example"', "roles.orders.backend.target"),
        (
            'cutter = "orders"',
            'cutter = "orders", target = { host = "h", password = "hunter2" }',
            "password: the backend makes the login, and a target is no secret; remove it",
        ),
        ('cutter = "orders"', 'cutter = "order"', 'there is no [cutters.order]; did you mean "orders"?'),
        ('ttl = "5m"\n', 'ttl = "5m"\npossession = "required"\n', 'say possession = "bearer"'),
        ('kind = "postgres"', 'kind = "mysql"', 'cutters.orders.kind: there is no kind "mysql"'),
        ('password_file = "password"', "", "cutters.orders: give password_file, or certificate and key"),
        ('password_file = "password"', 'password_file = "absent"', "cutters.orders: "),
        (
            'password_file = "password"',
            'password_file = "password"\ntls = false',
            "cutters.orders: tls = false",
        ),
    ],
)
def test_a_fault_is_told_with_its_place(folder: Path, old: str, new: str, expected: str) -> None:
    # The role is the last of its kind.
    path = folder / "lockstep.toml"
    head, mark, tail = path.read_text().partition("[backends.vault]")
    assert old in tail, old
    path.write_text(head + mark + tail.replace(old, new, 1))
    with pytest.raises(ConfigurationRefused) as refused:
        load(path, {})
    lines = [str(problem) for problem in refused.value.problems]
    assert any(expected in line for line in lines), lines


def test_a_secret_that_others_can_read_is_refused(folder: Path) -> None:
    (folder / "secret-id").chmod(0o644)
    with pytest.raises(ConfigurationRefused, match="chmod 600"):
        load(folder / "lockstep.toml", {})


def test_a_secret_in_place_of_its_file_is_refused_and_not_repeated(folder: Path) -> None:
    edited(folder, 'password_file = "password"', 'password_file = "-----BEGIN hunter2"')
    with pytest.raises(ConfigurationRefused) as refused:
        load(folder / "lockstep.toml", {})
    assert "hunter2" not in str(refused.value)


def test_static_secrets_are_taken_where_they_are_accepted(folder: Path) -> None:
    edited(folder, 'path = "database/creds/orders", cutter = "orders"', 'path = "kv/data/x"')
    # Of the last role.
    path = folder / "lockstep.toml"
    path.write_text(path.read_text() + 'static = "accepted"\nrevocability = "never"\n')
    settings = load(path, {})
    assert settings.book.roles["orders"].static_accepted
    assert settings.book.roles["orders"].revocability is Revocability.NEVER


TARGET = 'target = { host = "db.example", port = 5432, database = "orders", sslmode = "verify-full" }'


def test_a_target_is_told_as_it_is_written(folder: Path) -> None:
    edited(folder, 'cutter = "orders" }', f'cutter = "orders", {TARGET} }}')
    settings = load(folder / "lockstep.toml", {})
    assert settings.book.roles["orders"].parameters["target"] == {
        "host": "db.example",
        "port": 5432,
        "database": "orders",
        "sslmode": "verify-full",
    }


def test_a_rotation_is_part_of_what_a_role_says(folder: Path) -> None:
    before = load(folder / "lockstep.toml", {}).book.roles["orders"]
    assert before.rotate is None
    assert "rotate" not in before.text  # versions that are stored stay what they were
    edited(
        folder, ', cutter = "orders" }', ', cutter = "orders" }\nrotate = { every = "8h", overlap = "10m" }'
    )
    first = load(folder / "lockstep.toml", {}).book.roles["orders"]
    assert first.rotate == Rotate(28_800.0, 600.0)
    assert '"rotate":{"every":28800000,"overlap":600000}' in first.text
    edited(folder, 'every = "8h"', 'every = "480m"')
    assert load(folder / "lockstep.toml", {}).book.roles["orders"].version == first.version
    edited(folder, 'overlap = "10m"', 'overlap = "11m"')
    second = load(folder / "lockstep.toml", {}).book.roles["orders"]
    assert len({before.version, first.version, second.version}) == 3
