"""The example configuration holds, and shows every key that there is."""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from broker.adapters.clock import SystemClock
from broker.crypto.keyfiles import public_pem
from broker.dev import make
from broker.dev.files import kept_key, kept_secret
from broker.settings import Settings, load
from broker.settings.operators import OperatorTable
from broker.settings.server import Server
from broker.settings.tables import (
    BACKEND_KINDS,
    CUTTER_KINDS,
    DETECTOR_KINDS,
    IDENTITY_KINDS,
    ApplicationTable,
    ResourceServerTable,
    RoleTable,
)

EXAMPLE = Path(__file__).parents[2] / "deploy" / "lockstep.example.toml"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """The example, as on a host of its own."""
    make(tmp_path / "dev", SystemClock())
    made = {
        "/etc/lockstep/tls/tls.crt": "server.crt",
        "/etc/lockstep/tls/tls.key": "server.key",
        "/etc/lockstep/tls/client-ca.pem": "mesh-ca.crt",
        "/etc/lockstep/tls/issuer-ca.pem": "ca.crt",
        "/etc/lockstep/tls/vault-ca.pem": "ca.crt",
        "/etc/lockstep/vault/client.crt": "server.crt",
        "/etc/lockstep/vault/client.key": "server.key",
        "/run/spire/bundle.pem": "mesh-ca.crt",
        "/etc/lockstep/keys/pipeline.jwks": "identity.jwks",
    }
    text = EXAMPLE.read_text()
    for path in (*made, "/etc/lockstep/manifests/base-debian13", "/var/lib/lockstep/state.db"):
        assert f'"{path}"' in text
        (tmp_path / path[1:]).parent.mkdir(parents=True, exist_ok=True)
    for path, name in made.items():
        (tmp_path / path[1:]).write_bytes((tmp_path / "dev" / name).read_bytes())
        (tmp_path / path[1:]).chmod(0o600)
    (tmp_path / "etc/lockstep/manifests/base-debian13").mkdir()
    keys = tmp_path / "etc/lockstep/keys"
    for name in ("credentials", "receipts", "gate"):
        kept_key(keys / f"{name}.pem")
    for name in ("credentials-2025", "platform", "payments", "release"):
        (keys / f"{name}.pub").write_bytes(public_pem(kept_key(tmp_path / f"{name}.pem").public_key()))
    kept_secret(keys / "falco.hmac", prefix="whsec_")
    for name in ("role-id", "secret-id", "cutter-password"):
        kept_secret(tmp_path / "etc/lockstep/vault" / name, prefix="")
    for root in ("/etc/", "/var/", "/run/"):
        text = text.replace(f'"{root}', f'"{tmp_path}{root}')
    (tmp_path / "lockstep.toml").write_text(text)
    return load(tmp_path / "lockstep.toml", {})


def test_the_example_holds(settings: Settings) -> None:
    assert set(settings.book.roles) == {
        "payments-db",
        "payments-mesh",
        "ledger-db",
        "ledger-gate",
        "ledger-tls",
    }
    assert settings.book.roles["ledger-db"].parameters["cutter"] == "ledger-db"
    assert settings.book.roles["ledger-tls"].parameters["data"] == {"common_name": "ledger.acme.example"}
    assert settings.book.roles["ledger-gate"].parameters == {"role": "ledger"}
    assert settings.book.roles["payments-mesh"].parameters == {"audience": "orders", "scope": "orders:read"}
    assert settings.book.applications["payments"].includes == ("base-debian13",)


def test_limits_of_the_example_are_the_defaults(settings: Settings) -> None:
    assert settings.server.limits == type(settings.server.limits)()


def _keys(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        key = f"{prefix}.{field.alias or name}"
        yield key
        for table in _tables(field.annotation):
            yield from _keys(table, key)


def _tables(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _tables(argument)


def _written(value: Any, prefix: str) -> Iterator[str]:
    if isinstance(value, dict):
        for name, below in value.items():
            yield f"{prefix}.{name}"
            yield from _written(below, f"{prefix}.{name}")


def test_every_key_is_in_the_example() -> None:
    example = tomllib.loads(EXAMPLE.read_text())
    written = set(_written({key: example[key] for key in Server.model_fields}, "server"))
    for table in (
        "identity",
        "manifests",
        "backends",
        "cutters",
        "roles",
        "detectors",
        "operators",
        "resource_servers",
    ):
        for name, entry in example[table].items():
            kind = f"{table}:{entry['kind']}" if table in ("identity", "backends", "cutters") else table
            written |= set(_written(entry, kind))
            assert name
    known = set(_keys(Server, "server"))
    for kind, model in IDENTITY_KINDS.items():
        known |= set(_keys(model, f"identity:{kind}"))
    for kind, model in BACKEND_KINDS.items():
        known |= set(_keys(model, f"backends:{kind}"))
        known |= set(_keys(model.Parameters, "roles.backend"))
    for kind, cutter in CUTTER_KINDS.items():
        known |= set(_keys(cutter, f"cutters:{kind}"))
    for model in DETECTOR_KINDS.values():
        known |= set(_keys(model, "detectors"))
    for name, model in {
        "manifests": ApplicationTable,
        "roles": RoleTable,
        "operators": OperatorTable,
        "resource_servers": ResourceServerTable,
    }.items():
        known |= set(_keys(model, name))
    # One way of saying who is meant is enough for each of them.
    who = {f"{table}.identity" for table in ("roles", "detectors", "operators", "resource_servers")}
    optional = {f"{key}.{name}" for key in who for name in ("subject", "spiffe_id", "claims")}
    assert not known - written - optional
