"""JwtBackend: what its tokens say, and what no role can make them say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from broker.adapters.backends.jwt import RESERVED_CLAIMS, JwtBackend, check_parameters
from broker.crypto.ring import JwtRing
from broker.errors import Denied
from broker.model.credential import Grant
from broker.model.role import Mode, Revocability
from lockstep.formats import Reason, b64url
from tests.contract.backend_suite import grant_at

NOW = 1_800_000_000.75
ISSUER = "https://lockstep.example"
RING = JwtRing(ec.generate_private_key(ec.SECP256R1()), issuer=ISSUER)
BACKEND = JwtBackend(RING, ISSUER)


async def claims_of(grant: Grant) -> dict[str, Any]:
    token = (await BACKEND.issue(grant)).credential.token
    assert jwt.get_unverified_header(token)["typ"] == "at+jwt"
    return dict(RING.verify(token, audience="orders", now=NOW))


async def test_a_token_says_who_for_whom_how_long_and_on_what_it_rests() -> None:
    assert await claims_of(replace(grant_at(NOW), node="n1", pod_uid="p1", container_id="c1")) == {
        "iss": ISSUER,
        "sub": "spiffe://acme.example/pay",
        "client_id": "spiffe://acme.example/pay",
        "aud": "orders",
        "exp": 1_800_000_300,
        "iat": 1_800_000_000,
        "jti": "T-1",
        "cnf": {"jkt": b64url(b"k" * 32)},
        "lockstep": {
            "role": "orders",
            "mode": "enforce",
            "attestation": "A-1",
            "lease": "L-1",
            "assurance": "self",
            "manifests": [(b"m" * 32).hex()],
            "as_of": 41,
            "node": "n1",
            "pod": "p1",
            "container": "c1",
        },
    }


async def test_the_broker_says_nothing_of_a_place_that_it_does_not_know() -> None:
    facts = (await claims_of(grant_at(NOW, mode=Mode.OBSERVE)))["lockstep"]
    assert facts["mode"] == "observe"
    assert not {"node", "pod", "container"} & facts.keys()


async def test_possession_binds_the_token_to_the_key_and_bearer_says_so() -> None:
    bound = await BACKEND.issue(grant_at(NOW))
    bearer = await BACKEND.issue(grant_at(NOW, possession_required=False))
    assert bound.parameters == {"token_type": "DPoP"}
    assert bearer.parameters == {"token_type": "Bearer"}
    assert "cnf" not in RING.verify(bearer.credential.token, audience="orders", now=NOW)


async def test_two_issuers_with_one_subject_are_two_subjects() -> None:
    grant = replace(
        grant_at(NOW, identity="https://evil.example|spiffe://acme.example/pay"), subject="spiffe://x/y"
    )
    assert (await claims_of(grant))["sub"] == "https://evil.example|spiffe://acme.example/pay"


async def test_scope_and_static_claims_come_from_the_role_and_override_nothing() -> None:
    parameters = {"audience": "orders", "scope": "read write", "claims": {"tier": "gold"}}
    claims = await claims_of(replace(grant_at(NOW), parameters=parameters))
    assert (claims["scope"], claims["tier"]) == ("read write", "gold")
    # Even where a check was forgotten, what the broker says stands.
    forged = {
        "audience": "orders",
        "claims": dict.fromkeys(("sub", "exp", "jti", "cnf", "lockstep"), "forged"),
    }
    grant = replace(grant_at(NOW, possession_required=False), parameters=forged)
    assert "forged" not in str(await claims_of(grant))


async def test_a_role_without_an_audience_gets_no_token_for_everybody() -> None:
    for parameters in ({}, {"audience": ""}, {"audience": ["orders", "billing"]}):
        with pytest.raises(Denied) as caught:
            await BACKEND.issue(replace(grant_at(NOW), parameters=parameters))
        assert caught.value.reason is Reason.NOT_ENTITLED


async def test_a_renewed_token_is_of_the_same_lease_and_ends_later() -> None:
    renewed = await BACKEND.renew(grant_at(NOW, issued_at=NOW + 100, expires_at=NOW + 400))
    assert renewed is not None
    claims = RING.verify(renewed.credential.token, audience="orders", now=NOW + 350)
    assert (claims["jti"], claims["exp"]) == ("T-1", 1_800_000_400)


def test_it_is_instant_and_has_no_outside() -> None:
    assert BACKEND.revocability_of({}) is Revocability.INSTANT
    assert not BACKEND.outside


@pytest.mark.parametrize(
    "parameters",
    [
        {"audience": "orders"},
        {"audience": "orders", "scope": "read"},
        {"audience": "o", "claims": {"tier": "gold"}},
    ],
)
def test_sound_parameters_pass(parameters: dict[str, Any]) -> None:
    check_parameters(parameters)


@pytest.mark.parametrize(
    ("parameters", "names"),
    [
        ({}, "audience"),
        ({"audience": ""}, "audience"),
        ({"audience": ["a"]}, "audience"),
        ({"audience": "a" * 2000}, "audience"),
        ({"audience": "a\n"}, "audience"),
        ({"audience": "a", "scope": ["read"]}, "scope"),
        ({"audience": "a", "path": "x"}, "path"),
        ({"audience": "a", "claims": ["x"]}, "claims"),
        ({"audience": "a", "claims": {"x": 1}}, r"claims\.x"),
        ({"audience": "a", "claims": {str(n): "" for n in range(33)}}, "claims"),
        *(({"audience": "a", "claims": {name: "x"}}, rf"claims\.{name}") for name in sorted(RESERVED_CLAIMS)),
    ],
)
def test_parameters_that_no_token_could_be_made_of_are_named(parameters: dict[str, Any], names: str) -> None:
    with pytest.raises(ValueError, match=f"^{names}:"):
        check_parameters(parameters)
