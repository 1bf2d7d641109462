"""Which engine is asked how, how soon it takes back, and which parameters of a role are refused."""

from __future__ import annotations

from typing import Any

import pytest

from broker.adapters.backends.vault import check_parameters, revocability_of, swept_path
from broker.adapters.backends.vault.engines import Method, plan
from broker.adapters.backends.vault.handles import FOREVER, Handle, parse_handle
from broker.model.role import Revocability

AT_TARGET, UNTIL, NEVER = Revocability.AT_TARGET, Revocability.UNTIL_EXPIRY, Revocability.NEVER


@pytest.mark.parametrize(
    ("path", "extra", "method", "revocability"),
    [
        ("database/creds/pay", {}, Method.READ, AT_TARGET),
        ("database/static-creds/pay", {}, Method.READ, NEVER),
        ("rabbitmq/creds/pay", {}, Method.READ, AT_TARGET),
        ("openldap/creds/pay", {}, Method.READ, AT_TARGET),
        ("ldap/static-cred/pay", {}, Method.READ, NEVER),
        ("kubernetes/creds/pay", {}, Method.WRITE, UNTIL),
        ("kubernetes/creds/pay", {"revocability": "at_target"}, Method.WRITE, AT_TARGET),
        ("pki/issue/pay", {}, Method.WRITE, UNTIL),
        ("ssh/sign/pay", {}, Method.WRITE, UNTIL),
        ("aws/sts/pay", {}, Method.WRITE, UNTIL),
        ("aws/creds/pay", {}, Method.READ, UNTIL),
        ("aws/creds/pay", {"revocability": "at_target"}, Method.READ, AT_TARGET),
        ("azure/creds/pay", {}, Method.READ, UNTIL),
        ("gcp/roleset/pay/token", {}, Method.READ, UNTIL),
        ("kv/data/pay", {}, Method.READ, NEVER),
        ("secret/data/pay", {}, Method.READ, NEVER),
        ("team/db/creds/pay", {}, Method.READ, AT_TARGET),
        ("elsewhere/x", {"engine": "generic"}, Method.READ, UNTIL),
        (
            "elsewhere/x",
            {"engine": "generic", "method": "write", "revocability": "at_target"},
            Method.WRITE,
            AT_TARGET,
        ),
        ("database/creds/pay", {"revocability": "never"}, Method.READ, NEVER),
    ],
)
def test_an_engine_is_known_by_its_mount_or_by_name(
    path: str, extra: dict[str, Any], method: Method, revocability: Revocability
) -> None:
    parameters = {"path": path, **extra}
    found = plan(parameters, {"team/db": "database"})
    assert (found.method, found.revocability) == (method, revocability)
    assert revocability_of(parameters, {"team/db": "database"}) is revocability
    assert swept_path(parameters, {"team/db": "database"}) == (path if revocability is AT_TARGET else "")


@pytest.mark.parametrize(
    ("path", "seconds"),
    [("kubernetes/creds/pay", 600), ("aws/sts/pay", 900), ("aws/creds/pay", 0), ("pki/issue/pay", 0)],
)
def test_nothing_shorter_is_asked_for_than_is_made(path: str, seconds: int) -> None:
    """TokenRequest of Kubernetes, AssumeRole of AWS STS."""
    assert plan({"path": path}, {}).engine.shortest == seconds


def test_the_longest_mount_counts() -> None:
    mounts = {"team": "kv", "team/pki": "pki"}
    assert plan({"path": "team/pki/issue/x"}, mounts).mount == "team/pki"
    assert plan({"path": "team/data/x"}, mounts).mount == "team"


@pytest.mark.parametrize(
    ("parameters", "fault"),
    [
        ({}, "path"),
        ({"path": ""}, "path"),
        ({"path": 7}, "path"),
        ({"path": "/database/creds/x"}, "path"),
        ({"path": "database/creds/x/"}, "path"),
        ({"path": "database//x"}, "path"),
        ({"path": "database/../sys/raw"}, "path"),
        ({"path": "database/creds/.x"}, "path"),
        ({"path": "database/creds/x?y=1"}, "path"),
        ({"path": "database/creds/x#y"}, "path"),
        ({"path": "database/creds/x%2f.."}, "path"),
        ({"path": "database/creds/x\n"}, "path"),
        ({"path": "database"}, "path"),
        ({"path": "database/" + "x" * 600}, "path"),
        ({"path": "sys/leases/lookup"}, "sys/"),
        ({"path": "auth/token/create"}, "auth/"),
        ({"path": "identity/oidc/token/x"}, "identity/"),
        ({"path": "cubbyhole/x"}, "cubbyhole/"),
        ({"path": "elsewhere/x"}, "say engine"),
        ({"path": "elsewhere/x", "engine": "consul"}, "engine"),
        ({"path": "elsewhere/x", "engine": 7}, "engine"),
        ({"path": "kv/data/x", "method": "list"}, "method"),
        ({"path": "kv/data/x", "data": ["a"]}, "data"),
        ({"path": "kv/data/x", "data": {"a": 1.5}}, "data.a"),
        ({"path": "kv/data/x", "data": {str(n): "x" for n in range(40)}}, "data"),
        ({"path": "kv/data/x", "revocability": "at_target"}, '"never" at most'),
        ({"path": "pki/issue/x", "revocability": "at_target"}, '"until_expiry" at most'),
        ({"path": "aws/sts/x", "revocability": "at_target"}, '"until_expiry" at most'),
        ({"path": "database/creds/x", "revocability": "instant"}, "at most"),
        ({"path": "database/creds/x", "revocability": "soon"}, "one of"),
        ({"path": "database/creds/x", "cutter": ""}, "cutter"),
        ({"path": "database/creds/x", "audience": "orders"}, "audience: not a parameter"),
    ],
)
def test_parameters_that_make_nothing_are_refused(parameters: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        check_parameters(parameters, {})


@pytest.mark.parametrize(
    "handle",
    [
        Handle(lease_id="database/creds/pay/Xk2.Ns1"),
        Handle(lease_id="aws/sts/pay/Xk2", until=1_800_000_000.0),
        Handle(mount="team/pki", serial="39:dd:2e:90", until=1_800_000_000.0),
        Handle(until=FOREVER),
    ],
)
def test_a_handle_is_read_back(handle: Handle) -> None:
    assert parse_handle(handle.text("L-1")) == handle


def test_a_handle_without_a_name_at_vault_has_the_leases() -> None:
    assert Handle(until=FOREVER).text("L-1") != Handle(until=FOREVER).text("L-2")
