"""Flaws of readers of signed tokens, at the door for identities; those of the other two readers are in the table."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from broker.adapters.identity.jwks import FileKeys
from broker.adapters.identity.oidc import OidcIdentity, OidcRules
from broker.crypto.jwk import public_jwk
from broker.crypto.keyfiles import public_der, public_pem
from broker.errors import Denied
from broker.model.identity import JwtProof
from tests.unit.crypto.tokens import b64, es256, hs256

NOW = 1_800_000_000.0
ISSUER = "https://issuer.example"
ES256 = frozenset({"ES256"})
KEY, OTHER = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
JWK = {**public_jwk(KEY.public_key()), "kid": "k1", "alg": "ES256", "use": "sig"}
HEADER = {"alg": "ES256", "typ": "JWT", "kid": "k1"}
CLAIMS: dict[str, Any] = {
    "iss": ISSUER, "sub": "pay", "aud": "lockstep", "iat": int(NOW), "exp": int(NOW) + 600,
}  # fmt: skip


@pytest.fixture
def identity(tmp_path: Path) -> OidcIdentity:
    file = tmp_path / "jwks.json"
    file.write_text(json.dumps({"keys": [JWK]}))
    rules = OidcRules(name="file", issuer=ISSUER, audience="lockstep", algorithms=ES256)
    return OidcIdentity(rules, FileKeys(file, ES256))


async def refused(identity: OidcIdentity, *tokens: str) -> None:
    """Each of them, beside a good one: nothing here may be refused for another reason."""
    assert (await identity.verify(JwtProof(es256(KEY, HEADER, CLAIMS)), NOW)).subject == "pay"
    for token in tokens:
        with pytest.raises(Denied) as caught:
            await identity.verify(JwtProof(token), NOW)
        assert token[:40] not in str(caught.value)


async def test_cve_2022_29217_the_algorithm_is_the_keys(identity: OidcIdentity) -> None:
    """PyJWT (and CVE-2017-11424): a token chose HMAC, and the public key was taken for its secret."""
    public = KEY.public_key()
    spellings = (public_pem(public), public_pem(public).strip(), public_der(public), b"", b"k1")
    header = {**HEADER, "alg": "HS256"}
    await refused(identity, *(hs256(secret, header, CLAIMS) for secret in spellings))


async def test_cve_2026_48526_a_public_jwk_is_no_secret(identity: OidcIdentity) -> None:
    """The JSON of a public key served as the secret of an HMAC."""
    spellings = (
        json.dumps(JWK),
        json.dumps(JWK, separators=(",", ":"), sort_keys=True),
        json.dumps({"keys": [JWK]}),
    )
    header = {**HEADER, "alg": "HS256"}
    await refused(identity, *(hs256(text.encode(), header, CLAIMS) for text in spellings))
    octets = {"kty": "oct", "k": b64(public_pem(KEY.public_key())), "kid": "k1"}
    await refused(identity, hs256(public_pem(KEY.public_key()), {**header, "jwk": octets}, CLAIMS))


@pytest.mark.parametrize(
    "alg", ["none", "None", "NONE", "", None, ["ES256"], {"ES256": 1}, "ES256 ", "es256", 7]
)
async def test_alg_none_and_its_spellings(identity: OidcIdentity, alg: object) -> None:
    """RFC 8725 section 2.1: no signature at all was a signature."""
    bare = ".".join(b64(json.dumps(part).encode()) for part in ({**HEADER, "alg": alg}, CLAIMS))
    signed = es256(KEY, {**HEADER, "alg": alg}, CLAIMS)
    await refused(identity, bare + ".", bare, bare + ".AA", signed)


@pytest.mark.parametrize(
    "brought",
    [
        {"jwk": {**public_jwk(OTHER.public_key()), "kid": "k1"}},
        {"jku": "https://evil.example/jwks"},
        {"x5u": "https://evil.example/chain"},
        {"x5c": ["MIIB"]},
        {"jwk": {**public_jwk(OTHER.public_key())}, "kid": None},
    ],
)
async def test_cve_2026_27962_a_token_brings_no_key(identity: OidcIdentity, brought: dict[str, Any]) -> None:
    """Authlib: where no key was found for a token, the key in its own header verified it."""
    header = {name: value for name, value in {**HEADER, **brought}.items() if value is not None}
    await refused(identity, es256(OTHER, header, CLAIMS), es256(KEY, header, CLAIMS))


@pytest.mark.parametrize(
    "rule", [{"crit": ["cnf"]}, {"crit": []}, {"crit": "exp"}, {"b64": False}, {"b64": True}, {"zip": "DEF"}]
)
async def test_cve_2025_59420_a_token_changes_no_rules(identity: OidcIdentity, rule: dict[str, Any]) -> None:
    """Authlib: extensions that were marked as critical, and not understood, were passed over."""
    await refused(identity, es256(KEY, {**HEADER, **rule}, CLAIMS))


@pytest.mark.parametrize(
    "kid",
    ["../../dev/null", "/dev/null", "k1' OR '1'='1", "k1\x00", "K1", "k1 ", "", "k" * 5000, 1, None, ["k1"]],
)
async def test_a_key_id_is_a_name_and_no_way_to_a_key(identity: OidcIdentity, kid: object) -> None:
    """Key ids were paths that were opened, or parts of a query."""
    header = {name: value for name, value in {**HEADER, "kid": kid}.items() if value is not None}
    await refused(identity, es256(KEY, header, CLAIMS))


@pytest.mark.parametrize(
    "exp",
    [
        "-1",
        "0",
        "1e999",
        "-1e999",
        "NaN",
        "Infinity",
        "true",
        "null",
        '"9999999999"',
        "[1]",
        "9" * 5000,
        "{}",
    ],
)
async def test_cve_2024_37568_an_end_that_is_none(identity: OidcIdentity, exp: str) -> None:
    """SPIRE 1.12.3 (37) took tokens without ``exp``; others took floats, infinities and truth values for times."""
    text = json.dumps(CLAIMS).replace(f'"exp": {CLAIMS["exp"]}', f'"exp": {exp}')
    without = json.dumps({name: value for name, value in CLAIMS.items() if name != "exp"})
    await refused(identity, es256(KEY, HEADER, text), es256(KEY, HEADER, without))


@pytest.mark.parametrize("member", ["sub", "aud", "iss", "exp"])
async def test_two_claims_of_one_name(identity: OidcIdentity, member: str) -> None:
    """One reader took the first, another the last."""
    value = json.dumps(CLAIMS[member])
    last = json.dumps(CLAIMS)[:-1] + f', "{member}": {value}}}'
    escaped = json.dumps(CLAIMS)[:-1] + f', "\\u{ord(member[0]):04x}{member[1:]}": {value}}}'
    twice = json.dumps(HEADER)[:-1] + ', "alg": "ES256"}'
    await refused(identity, es256(KEY, HEADER, last), es256(KEY, HEADER, escaped), es256(KEY, twice, CLAIMS))


async def test_cve_2020_16251_what_decides_is_inside_the_signature(identity: OidcIdentity) -> None:
    """Vault's GCP login mixed claims that were signed with some that were not."""
    good = es256(KEY, HEADER, CLAIMS)
    head, body, signature = good.split(".")
    other = b64(json.dumps({**CLAIMS, "sub": "admin"}).encode())
    header = es256(KEY, {**HEADER, "sub": "admin", "iss": "https://evil.example"}, CLAIMS)
    found = await identity.verify(JwtProof(header), NOW)
    assert (found.subject, found.issuer) == ("pay", ISSUER)
    await refused(
        identity, f"{head}.{other}.{signature}", f"{head}.{other}.{body}.{signature}", f"{good}.{other}"
    )


async def test_a_megabyte_is_refused_unread(identity: OidcIdentity) -> None:
    """Tokens without a bound, and JSON that is all depth, cost more to refuse than to send."""
    depth = "[" * 5000 + "]" * 5000
    tokens = [
        es256(KEY, HEADER, {**CLAIMS, "x": "y" * 1_000_000}),
        es256(KEY, HEADER, depth),
        es256(KEY, depth, CLAIMS),
        "." * 1_000_000,
        "a" * 1_000_000,
    ]
    began = time.process_time()
    await refused(identity, *tokens)
    assert time.process_time() - began < 1.0
