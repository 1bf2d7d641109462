"""JWK Sets: which keys are taken, for which algorithms, and which names are refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from broker.crypto.jwk import JwksError, VerificationKey, parse_jwks, public_jwk, thumbprint
from lockstep.formats import b64url

ALL = frozenset({"RS256", "PS256", "ES256", "ES384", "ES512", "EdDSA"})
P256 = ec.generate_private_key(ec.SECP256R1()).public_key()
RSA = rsa.generate_private_key(65537, 2048).public_key()
ED = ed25519.Ed25519PrivateKey.generate().public_key()


def jwk(key: Any, kid: str = "k", **more: Any) -> dict[str, Any]:
    return {**public_jwk(key), "kid": kid, **more}


def parse(*entries: Any, algorithms: frozenset[str] = ALL) -> dict[str, frozenset[str]]:
    keys = parse_jwks(json.dumps({"keys": list(entries)}).encode(), algorithms)
    return {kid: key.algorithms for kid, key in keys.keys.items()}


def test_a_key_verifies_its_own_types_algorithms_and_only_configured_ones() -> None:
    assert parse(jwk(P256)) == {"k": {"ES256"}}
    assert parse(jwk(ED)) == {"k": {"EdDSA"}}
    assert parse(jwk(RSA)) == {"k": {"RS256", "PS256"}}
    assert parse(jwk(RSA), algorithms=frozenset({"RS256", "ES256"})) == {"k": {"RS256"}}
    assert parse(jwk(RSA), algorithms=frozenset({"ES256"})) == {}


def test_an_algorithm_that_the_key_names_is_its_only_one() -> None:
    assert parse(jwk(RSA, alg="PS256")) == {"k": {"PS256"}}
    assert parse(jwk(RSA, alg="ES256")) == {}
    assert parse(jwk(P256, alg="HS256")) == {}
    assert parse(jwk(P256, alg=["ES256"])) == {}


def test_curves_fit_one_algorithm_each() -> None:
    for curve, algorithm in ((ec.SECP384R1(), "ES384"), (ec.SECP521R1(), "ES512")):
        assert parse(jwk(ec.generate_private_key(curve).public_key())) == {"k": {algorithm}}
    assert parse(jwk(ec.generate_private_key(ec.SECP256K1()).public_key())) == {}


def test_weak_costly_and_odd_rsa_keys_are_left_out() -> None:
    assert parse(jwk(rsa.generate_private_key(65537, 1024).public_key())) == {}
    assert parse(jwk(rsa.generate_private_key(3, 2048).public_key())) == {}
    huge = b64url((1 << 16383 | 1).to_bytes(2048, "big"))
    assert parse({"kty": "RSA", "kid": "k", "n": huge, "e": "AQAB"}) == {}
    assert parse(jwk(RSA) | {"e": b64url((2**256 + 1).to_bytes(33, "big"))}) == {}


def test_keys_for_another_use_and_secrets_are_left_out() -> None:
    assert parse(jwk(P256, use="enc")) == {}
    assert parse(jwk(P256, key_ops=["sign"])) == {}
    assert parse(jwk(P256, key_ops="verify")) == {}
    assert parse(jwk(P256, key_ops=["verify"], use="sig")) == {"k": {"ES256"}}
    assert parse(jwk(P256, use="jwt-svid")) == {"k": {"ES256"}}
    assert parse(jwk(P256, d="AAAA")) == {}
    assert parse({"kty": "oct", "kid": "k", "k": "c2VjcmV0"}) == {}


@pytest.mark.parametrize(
    "entry",
    [
        {},
        [],
        None,
        "k",
        {"kty": "EC", "kid": "k"},
        {"kty": "EC", "kid": "k", "crv": "P-256", "x": 7, "y": None},
        {"kty": "EC", "kid": "k", "crv": "P-256", "x": "AAAA", "y": "AAAA"},
        {"kty": "EC", "kid": "k", "crv": "P-256", "x": "A" * 43, "y": "A" * 43},
        {"kty": "RSA", "kid": "k", "n": "é", "e": "AQAB"},
        {"kty": "RSA", "kid": "k", "n": "AQAB", "e": []},
        {"kty": "OKP", "kid": "k", "crv": "Ed25519", "x": "AA"},
        {"kty": "OKP", "kid": "k", "crv": "X25519", "x": "A" * 43},
        {"kty": ["EC"], "kid": "k"},
        {"kty": "unheard-of", "kid": "k"},
        {**public_jwk(P256)},
        {**public_jwk(P256), "kid": ""},
        {**public_jwk(P256), "kid": 7},
        {**public_jwk(P256), "kid": "k" * 600},
    ],
)
def test_a_malformed_key_is_left_out_and_takes_no_other_with_it(entry: Any) -> None:
    assert parse(entry, jwk(ED, "good")) == {"good": {"EdDSA"}}


def test_a_name_that_two_keys_bear_is_refused_with_both() -> None:
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    keys = parse_jwks(json.dumps({"keys": [jwk(P256), jwk(other), jwk(ED, "good")]}).encode(), ALL)
    assert set(keys.keys) == {"good"}
    assert keys.refused == {"k"}
    # Also where only one of the two could have been used, and where they are the same key.
    assert parse(jwk(P256), jwk(RSA, use="enc")) == {}
    assert parse(jwk(P256), jwk(P256)) == {}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'{"keys": {}}',
        b'{"keys": null}',
        b'{"keys": [], "keys": []}',
        b"\xff",
        b'{"keys": [' + b"[" * 100_000,
        b'{"keys": [' + b"9" * 5000 + b"]}",
        b" " * 300_000,
        json.dumps({"keys": [{}] * 65}).encode(),
    ],
)
def test_what_is_no_key_set_is_an_error(data: bytes) -> None:
    with pytest.raises(JwksError):
        parse_jwks(data, ALL)


def test_a_key_cannot_be_given_another_types_algorithm() -> None:
    for key, algorithm in ((P256, "EdDSA"), (ED, "ES256"), (RSA, "ES256"), (P256, "HS256"), (P256, "none")):
        with pytest.raises(JwksError):
            VerificationKey("k", key, frozenset({algorithm}))
    assert not VerificationKey("k", P256, frozenset({"ES256"})).verifies("RS256", b"", b"")


def test_the_thumbprint_is_that_of_rfc_7638_section_3_1() -> None:
    n = (
        "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3ok"
        "njhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6"
        "qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8aw"
        "apJzKnqDKgw"
    )
    (key,) = parse_jwks(
        json.dumps(
            {"keys": [{"kty": "RSA", "n": n, "e": "AQAB", "alg": "RS256", "kid": "2011-04-29"}]}
        ).encode(),
        ALL,
    ).keys.values()
    assert b64url(thumbprint(key.key)) == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
