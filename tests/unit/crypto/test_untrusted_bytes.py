"""Whatever bytes come in, parsers answer with their own error and nothing else."""

from __future__ import annotations

import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.adapters.evidence.sdk import SdkEvidence
from broker.crypto.jose import JoseError, open_jws, verify_jws
from broker.crypto.jwk import JwksError, parse_jwks
from broker.crypto.proof import RollingNonce, parse_instance_key, verify_proof
from broker.crypto.ring import JwtRing
from broker.crypto.x509 import CertificateError, parse_bundle, parse_chain
from broker.errors import Denied, InvalidRequest, Unauthenticated
from broker.model.evidence import InstanceKey, SealedEvidence
from lockstep.formats import b64url
from tests.unit.adapters.evidence.test_sdk_evidence import KEY, NONCE, NOW, P256, sign

RING = JwtRing(ec.generate_private_key(ec.SECP256R1()), issuer="https://lockstep.example")
TOKEN = RING.sign({"iss": RING.issuer, "sub": "s", "aud": "a", "exp": int(NOW) + 9, "jti": "j"})
NONCES = RollingNonce(b"s" * 32)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
PARTS = st.binary(max_size=60).map(b64url) | JSON.map(lambda value: b64url(json.dumps(value).encode()))
HEADERS = st.fixed_dictionaries(
    {},
    optional={
        name: JSON | st.just("ES256") | st.just(RING.key_id) for name in ("alg", "kid", "typ", "crit", "x")
    },
).map(lambda header: b64url(json.dumps(header).encode()))
TOKENS = (
    st.text(max_size=200)
    | st.tuples(HEADERS | PARTS, PARTS, PARTS).map(".".join)
    | st.tuples(st.integers(0, len(TOKEN) - 1), st.characters()).map(
        lambda change: TOKEN[: change[0]] + change[1] + TOKEN[change[0] + 1 :]
    )
)


@given(TOKENS)
@settings(max_examples=500, deadline=None)
def test_tokens(token: str) -> None:
    if token == TOKEN:
        return
    with pytest.raises(Denied):
        RING.verify(token, audience=None, now=NOW)
    with pytest.raises(Unauthenticated):
        verify_proof(token, key=KEY, method="/m", body=b"", audience="a", nonces=NONCES, now=NOW)
    try:
        jws = open_jws(token)
    except JoseError:
        return
    with pytest.raises(JoseError):
        verify_jws(jws, parse_jwks(b'{"keys": []}', frozenset({"ES256"})))


@given(
    JSON
    | st.fixed_dictionaries(
        {
            "keys": st.lists(
                JSON
                | st.dictionaries(
                    st.sampled_from(["kty", "kid", "crv", "x", "y", "n", "e", "use", "alg", "key_ops"]),
                    JSON | st.sampled_from(["EC", "RSA", "OKP", "P-256"]),
                )
            )
        }
    )
)
@settings(max_examples=300, deadline=None)
def test_key_sets(document: object) -> None:
    try:
        parse_jwks(json.dumps(document).encode(), frozenset({"ES256", "RS256", "EdDSA"}))
    except JwksError:
        pass


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_certificates_and_keys(data: bytes) -> None:
    pem = b"-----BEGIN CERTIFICATE-----\n" + b64url(data).encode() + b"\n-----END CERTIFICATE-----\n"
    for text in (data, pem):
        with pytest.raises(CertificateError):
            parse_chain(text, (text,))
        with pytest.raises(CertificateError):
            parse_bundle(text)
    with pytest.raises(ValueError, match="key"):
        parse_instance_key(data)


@given(st.binary(max_size=200), st.binary(max_size=80))
@settings(max_examples=200, deadline=None)
async def test_evidence(statement: bytes, signature: bytes) -> None:
    key: InstanceKey = KEY
    with pytest.raises(Denied):
        await SdkEvidence().verify(SealedEvidence(1, statement, signature), key, NONCE, NOW)
    with pytest.raises((Denied, InvalidRequest)):
        await SdkEvidence().verify(SealedEvidence(1, statement, sign(P256, statement)), key, NONCE, NOW)
