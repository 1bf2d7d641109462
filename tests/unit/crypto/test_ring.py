"""JwtRing against every token that a lenient reader takes, and through rotations."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from broker.crypto import keyfiles
from broker.crypto.jwk import parse_jwks
from broker.crypto.ring import JwtRing, ring_from_files
from broker.errors import Denied
from lockstep.formats import Reason
from tests.unit.crypto.tokens import b64, der_signed, es256, hs256, twin

NOW = 1_800_000_000.0
ISSUER = "https://lockstep.example"
KEY = ec.generate_private_key(ec.SECP256R1())
CLAIMS: dict[str, Any] = {
    "iss": ISSUER,
    "sub": "spiffe://acme.example/pay",
    "aud": "orders",
    "exp": int(NOW) + 300,
    "iat": int(NOW),
    "jti": "j-1",
}


@pytest.fixture
def ring() -> JwtRing:
    return JwtRing(KEY, issuer=ISSUER)


def header(ring: JwtRing, **more: Any) -> dict[str, Any]:
    return {"alg": "ES256", "typ": "at+jwt", "kid": ring.key_id, **more}


def refused(ring: JwtRing, token: str, audience: str | None = "orders") -> str:
    with pytest.raises(Denied) as caught:
        ring.verify(token, audience=audience, now=NOW)
    assert caught.value.reason is Reason.IDENTITY_REJECTED
    return caught.value.message


@pytest.mark.parametrize("key", [KEY, ed25519.Ed25519PrivateKey.generate()])
def test_what_the_ring_signs_it_verifies_and_so_does_anybody_with_its_keys(key: keyfiles.PrivateKey) -> None:
    ring = JwtRing(key, issuer=ISSUER)
    token = ring.sign(CLAIMS)
    assert ring.verify(token, audience="orders", now=NOW) == CLAIMS
    assert ring.verify(token, audience=None, now=NOW) == CLAIMS
    (jwk,) = jwt.PyJWKSet.from_dict(dict(ring.jwks())).keys
    assert jwt.get_unverified_header(token) == {"alg": jwk.algorithm_name, "typ": "at+jwt", "kid": jwk.key_id}
    decoded = jwt.decode(
        token,
        jwk,
        algorithms=[jwk.algorithm_name],
        audience="orders",
        options={"verify_exp": False, "verify_iat": False},
    )
    assert decoded == CLAIMS


def test_the_key_set_has_nothing_private(ring: JwtRing) -> None:
    (key,) = ring.jwks()["keys"]  # type: ignore[index]
    assert key.keys() == {"kty", "crv", "x", "y", "kid", "alg", "use"}
    assert "PRIVATE" not in repr(ring)


def test_es256_by_hand_is_the_form_that_attacks_below_bend(ring: JwtRing) -> None:
    assert ring.verify(es256(KEY, header(ring), CLAIMS), audience="orders", now=NOW) == CLAIMS


PUBLIC_PEM = keyfiles.public_pem(KEY.public_key())
JWK_BYTES = json.dumps(JwtRing(KEY, issuer=ISSUER).jwks()["keys"][0]).encode()  # type: ignore[index]

HEADERS: dict[str, dict[str, Any]] = {
    "none": {"alg": "none"},
    "nOnE": {"alg": "nOnE"},
    "another algorithm of the family": {"alg": "ES384"},
    "an algorithm in lower case": {"alg": "es256"},
    "an algorithm that is a list": {"alg": ["ES256"]},
    "no algorithm": {"alg": None},
    "its own key": {"jwk": {"kty": "EC"}},
    "its own key set": {"jku": "https://evil.example/jwks"},
    "its own certificate": {"x5c": ["MIIB"]},
    "a certificate elsewhere": {"x5u": "https://evil.example/x"},
    "a critical extension": {"crit": ["exp"]},
    "no critical extension, said critically": {"crit": []},
    "an unencoded payload": {"b64": False},
    "compression": {"zip": "DEF"},
    "an unknown key": {"kid": "another"},
    "a key by path": {"kid": "../../dev/null"},
    "a key by query": {"kid": "x' UNION SELECT 'k"},
    "an empty key id": {"kid": ""},
    "a huge key id": {"kid": "k" * 1000},
    "a key id that is no text": {"kid": 1},
    "no key id": {"kid": None},
    "another type": {"typ": "JWT"},
    "a proof's type": {"typ": "lockstep-proof+jwt"},
    "an event's type": {"typ": "secevent+jwt"},
    "no type": {"typ": None},
    "a type in other case": {"typ": "AT+JWT"},
}


@pytest.mark.parametrize("case", HEADERS)
def test_a_header_that_a_lenient_reader_takes_is_refused(ring: JwtRing, case: str) -> None:
    bent = {name: value for name, value in header(ring, **HEADERS[case]).items() if value is not None}
    refused(ring, es256(KEY, bent, CLAIMS))


@pytest.mark.parametrize("secret", [PUBLIC_PEM, PUBLIC_PEM.strip(), JWK_BYTES, b""])
@pytest.mark.parametrize("algorithm", ["HS256", "ES256"])
def test_a_public_key_is_no_hmac_secret(ring: JwtRing, secret: bytes, algorithm: str) -> None:
    refused(ring, hs256(secret, header(ring, alg=algorithm), CLAIMS))


def test_none_without_signature_is_refused(ring: JwtRing) -> None:
    head = b64(json.dumps(header(ring, alg="none")).encode())
    body = b64(json.dumps(CLAIMS).encode())
    for token in (f"{head}.{body}.", f"{head}.{body}", f"{head}.{body}.{b64(b'x')}"):
        refused(ring, token)


def _without(name: str) -> dict[str, Any]:
    return {key: value for key, value in CLAIMS.items() if key != name}


BAD_CLAIMS: dict[str, Any] = {
    **{f"no {name}": _without(name) for name in ("iss", "sub", "aud", "exp", "jti")},
    "exp now": CLAIMS | {"exp": NOW},
    "exp a moment ago": CLAIMS | {"exp": NOW - 0.001},
    "exp text": CLAIMS | {"exp": str(int(NOW) + 300)},
    "exp true": CLAIMS | {"exp": True},
    "exp null": CLAIMS | {"exp": None},
    "exp negative": CLAIMS | {"exp": -1},
    "exp in milliseconds": CLAIMS | {"exp": (NOW + 300) * 1000},
    "exp huge": CLAIMS | {"exp": 10**400},
    "exp of more digits than Python reads": json.dumps(CLAIMS).replace(str(CLAIMS["exp"]), "9" * 5000),
    "exp infinite": json.dumps(CLAIMS).replace(str(CLAIMS["exp"]), "1e999"),
    "exp Infinity": json.dumps(CLAIMS).replace(str(CLAIMS["exp"]), "Infinity"),
    "exp NaN": json.dumps(CLAIMS).replace(str(CLAIMS["exp"]), "NaN"),
    "exp a list": CLAIMS | {"exp": [int(NOW) + 300]},
    "nbf ahead": CLAIMS | {"nbf": NOW + 60},
    "nbf text": CLAIMS | {"nbf": "0"},
    "iat ahead": CLAIMS | {"iat": NOW + 60},
    "iat true": CLAIMS | {"iat": True},
    "another issuer": CLAIMS | {"iss": ISSUER + "/"},
    "another audience": CLAIMS | {"aud": "Orders"},
    "two audiences": CLAIMS | {"aud": ["orders", "billing"]},
    "one audience twice": CLAIMS | {"aud": ["orders", "orders"]},
    "no audience in the list": CLAIMS | {"aud": []},
    "an audience that is an object": CLAIMS | {"aud": {"orders": 1}},
    "an empty subject": CLAIMS | {"sub": ""},
    "a subject that is a number": CLAIMS | {"sub": 7},
    "a list": "[]",
    "text": '"x"',
    "two subjects": json.dumps(CLAIMS)[:-1] + ', "sub": "root"}',
    "a duplicate below": json.dumps(CLAIMS)[:-1] + ', "lockstep": {"role": "a", "role": "b"}}',
    "deep nesting": json.dumps(CLAIMS)[:-1] + ', "x": ' + "[" * 5000 + "]" * 5000 + "}",
    "a byte order mark": "﻿" + json.dumps(CLAIMS),
    "nothing": " ",
}


@pytest.mark.parametrize("case", BAD_CLAIMS)
def test_claims_that_are_missing_malformed_or_out_of_time_are_refused(ring: JwtRing, case: str) -> None:
    refused(ring, es256(KEY, header(ring), BAD_CLAIMS[case]))


def test_duplicate_header_keys_are_refused(ring: JwtRing) -> None:
    text = json.dumps(header(ring))[:-1] + f', "kid": "{ring.key_id}"}}'
    refused(ring, es256(KEY, text, CLAIMS))


BENT: dict[str, Callable[[str], str]] = {
    "a padded signature": lambda token: token + "==",
    "a padded payload": lambda token: ".".join(
        [*token.split(".")[:1], token.split(".")[1] + "=", token.split(".")[2]]
    ),
    "white space": lambda token: token + "\n",
    "white space inside": lambda token: token[:30] + " " + token[30:],
    "other alphabet": lambda token: token.replace("-", "+").replace("_", "/"),
    "a fourth segment": lambda token: token + ".x",
    "no signature": lambda token: token.rpartition(".")[0] + ".",
    "spare bits in the last character": lambda token: token[:-1] + _spare_bit(token[-1]),
    "a DER signature": der_signed,
    "a signature of another message": lambda token: token[:-86] + "A" * 86,
    "not ASCII": lambda token: token + "é",
    "nothing": lambda _: "",
    "a megabyte": lambda token: token + "A" * 1_000_000,
    "a megabyte of dots": lambda _: "." * 1_000_000,
}


def _spare_bit(last: str) -> str:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return alphabet[alphabet.index(last) ^ 1]


@pytest.mark.parametrize("case", BENT)
def test_another_spelling_of_a_token_is_refused(ring: JwtRing, case: str) -> None:
    # A token whose encoding has "-" and "_", so that the other alphabet makes a difference.
    token = next(
        token
        for number in range(1000)
        if {"-", "_"} <= set(token := es256(KEY, header(ring), CLAIMS | {"jti": f"j-{number}"}))
    )
    assert ring.verify(token, audience="orders", now=NOW)
    assert token not in refused(ring, BENT[case](token))


def test_an_error_carries_nothing_of_the_token(ring: JwtRing) -> None:
    token = es256(KEY, header(ring), CLAIMS | {"aud": "CANARY"})
    assert "CANARY" not in refused(ring, token)


def test_the_twin_of_an_es256_signature_verifies_so_only_the_jti_can_tell_a_replay(ring: JwtRing) -> None:
    token = es256(KEY, header(ring), CLAIMS)
    other = twin(token)
    assert other != token
    assert ring.verify(other, audience="orders", now=NOW)["jti"] == CLAIMS["jti"]


def test_rotation_with_overlap() -> None:
    old, new = KEY, ec.generate_private_key(ec.SECP256R1())
    ring = JwtRing(old, issuer=ISSUER)
    before = ring.sign(CLAIMS)
    ring.replace(old, [new.public_key()])  # announced
    announced = parse_jwks(json.dumps(ring.jwks()).encode(), frozenset({"ES256"}))
    ring.replace(new, [old.public_key()])  # in use
    after = ring.sign(CLAIMS)
    assert jwt.get_unverified_header(after)["kid"] in announced.keys
    for token in (before, after):
        assert ring.verify(token, audience="orders", now=NOW) == CLAIMS
    ring.replace(new)  # the overlap is over
    assert ring.verify(after, audience="orders", now=NOW) == CLAIMS
    refused(ring, before)


def test_an_active_key_among_the_others_is_one_key() -> None:
    ring = JwtRing(KEY, issuer=ISSUER, others=[KEY.public_key()])
    assert len(ring.jwks()["keys"]) == 1  # type: ignore[arg-type]
    assert ring.verify(ring.sign(CLAIMS), audience="orders", now=NOW) == CLAIMS


def test_files_are_reloaded_and_a_broken_one_leaves_the_ring_as_it_was(tmp_path: Path) -> None:
    first, second = tmp_path / "one.pem", tmp_path / "two.pem"
    keyfiles.write_private_key(first, KEY)
    keyfiles.write_private_key(second, ed25519.Ed25519PrivateKey.generate())
    old = tmp_path / "one.pub"
    old.write_bytes(keyfiles.public_pem(KEY.public_key()))
    ring = ring_from_files(first, issuer=ISSUER)
    token = ring.sign(CLAIMS)
    ring.load(second, [old])
    assert jwt.get_unverified_header(ring.sign(CLAIMS))["alg"] == "EdDSA"
    assert ring.verify(token, audience="orders", now=NOW) == CLAIMS
    second.write_bytes(b"broken")
    kid = ring.key_id
    with pytest.raises(keyfiles.KeyFileError):
        ring.load(second, [old])
    assert ring.key_id == kid


def test_another_rings_token_is_refused_even_with_the_same_key() -> None:
    gate = JwtRing(KEY, issuer=ISSUER, token_type="lockstep-gate+jwt")
    refused(JwtRing(KEY, issuer=ISSUER), gate.sign(CLAIMS))
    refused(JwtRing(KEY, issuer="https://other.example"), JwtRing(KEY, issuer=ISSUER).sign(CLAIMS))
