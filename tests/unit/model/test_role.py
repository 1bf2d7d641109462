"""Roles, rights and scopes: what an operator wrote is what holds, no more."""

from __future__ import annotations

import pytest

from broker.model.evidence import Assurance
from broker.model.identity import IdentityMatch, WorkloadIdentity
from broker.model.role import (
    Action,
    DetectorPolicy,
    Operator,
    ResourceServer,
    Revocability,
    RoleBook,
)
from tests.support.house import policy, role

ANN = IdentityMatch("oidc", subject="ann")
WHO = WorkloadIdentity("oidc", "https://issuer.example", "ann", 1e12)


@pytest.mark.parametrize(
    ("least", "ttl", "level", "granted"),
    [
        (Assurance.SELF, {Assurance.SELF: 60.0}, Assurance.SELF, 60.0),
        (Assurance.SELF, {Assurance.SELF: 60.0}, Assurance.KERNEL, 60.0),
        (Assurance.SELF, {Assurance.SELF: 60.0, Assurance.WITNESSED: 300.0}, Assurance.WITNESSED, 300.0),
        (Assurance.SELF, {Assurance.SELF: 60.0, Assurance.WITNESSED: 300.0}, Assurance.HARDWARE, 300.0),
        (Assurance.SELF, {Assurance.WITNESSED: 300.0}, Assurance.SELF, None),
        (Assurance.WITNESSED, {Assurance.SELF: 60.0, Assurance.WITNESSED: 300.0}, Assurance.SELF, None),
        (Assurance.WITNESSED, {Assurance.SELF: 60.0}, Assurance.WITNESSED, 60.0),
        (Assurance.SELF, {}, Assurance.HARDWARE, None),
    ],
)
def test_time_is_granted_by_level_and_never_below_the_least(
    least: Assurance, ttl: dict[Assurance, float], level: Assurance, granted: float | None
) -> None:
    assert role("api", assurance=least, ttl=ttl).ttl_at(level) == granted


def test_a_class_of_revocability_has_a_rank() -> None:
    ranks = [item.rank for item in (Revocability.INSTANT, Revocability.AT_TARGET)]
    assert ranks == [0, 1]
    assert Revocability.UNTIL_EXPIRY.rank < Revocability.NEVER.rank


@pytest.mark.parametrize(
    ("may", "right", "permitted"),
    [
        ({"read"}, "read", True),
        ({"read"}, "Read", False),
        ({"read"}, "explain", False),
        ({"revoke:digest"}, "revoke:digest", True),
        ({"revoke:digest"}, "revoke:identity", False),
        ({"revoke:*"}, "revoke:identity", True),
        ({"revoke:*"}, "revoke", False),
        ({"*"}, "read", False),
        ({"*:*"}, "revoke:identity", False),
        (set(), "read", False),
    ],
)
def test_a_right_is_spelled_out(may: set[str], right: str, permitted: bool) -> None:
    assert Operator("ann", ANN, frozenset(may)).permits(right) is permitted


class TestDetectorPolicy:
    def test_the_action_is_the_kinds_or_the_default(self) -> None:
        found = policy(actions={"exec": Action.OBSERVE}, default_action=Action.QUARANTINE)
        assert found.action_for("exec") is Action.OBSERVE
        assert found.action_for("EXEC") is Action.QUARANTINE
        assert found.action_for("library") is Action.QUARANTINE

    @pytest.mark.parametrize(
        ("scope", "name", "covered"),
        [
            ((), "api", True),
            (("api",), "api", True),
            (("api",), "api-2", False),
            (("api-*", "db"), "api-2", True),
            (("api-*", "db"), "web", False),
        ],
    )
    def test_a_scope_of_roles_and_of_nodes(self, scope: tuple[str, ...], name: str, covered: bool) -> None:
        found: DetectorPolicy = policy(roles=scope, nodes=scope)
        assert found.covers(name) is covered
        assert found.covers_node(name) is covered

    def test_an_unknown_node_is_in_a_scope_of_all_alone(self) -> None:
        assert policy().covers_node("")
        assert not policy(nodes=("**",)).covers_node("")


def test_a_book_finds_by_identity_in_name_order() -> None:
    found = RoleBook(
        {
            "b": role("b", identity=ANN),
            "a": role("a", identity=ANN),
            "c": role("c", identity=IdentityMatch("oidc", subject="bob")),
        },
        {"falco": policy(identity=ANN), "none": policy("none")},
        {"ann": Operator("ann", ANN, frozenset({"read"}))},
        {"api": ResourceServer("api", ANN, frozenset({"https://api"}))},
        {},
    )
    assert [item.name for item in found.roles_for(WHO)] == ["a", "b"]
    assert [item.name for item in found.operator_for(WHO)] == ["ann"]
    server = found.resource_server_for(WHO)
    assert server is not None
    assert server.name == "api"
    detector = found.detector_for(WHO)
    assert detector is not None
    assert detector.name == "falco"
    stranger = WorkloadIdentity("oidc", "https://issuer.example", "eve", 1e12)
    assert found.roles_for(stranger) == ()
    assert found.operator_for(stranger) == ()
    assert found.resource_server_for(stranger) is None
    assert found.detector_for(stranger) is None
