"""Proofs of possession: for one key, one call, one message, one window of time."""

from __future__ import annotations

import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from broker.crypto import keyfiles
from broker.crypto.proof import RollingNonce, parse_instance_key, verify_proof
from broker.errors import Unauthenticated
from broker.model.caller import ProofUse
from broker.model.evidence import InstanceKey
from lockstep.formats import PROOF_TYPE, Reason, proof_claims
from tests.unit.crypto.tokens import b64, es256, hs256, twin

NOW = 1_800_000_000.0
METHOD = "/lockstep.v1.CredentialService/IssueCredential"
BODY = b"\x0a\x03pay\x12\x00"
JTI = "0123456789abcdef"
NONCES = RollingNonce(b"s" * 32, period=30)
P256 = ec.generate_private_key(ec.SECP256R1())
ED25519 = ed25519.Ed25519PrivateKey.generate()


def instance(key: keyfiles.PrivateKey) -> InstanceKey:
    return parse_instance_key(keyfiles.public_der(key.public_key()))


def claims(**changes: Any) -> dict[str, Any]:
    sound = proof_claims(
        method=METHOD, body=BODY, audience="lockstep", jti=JTI, issued_at=int(NOW), nonce=NONCES.current(NOW)
    )
    return {name: value for name, value in {**sound, **changes}.items() if value is not None}


def check(proof: str, key: keyfiles.PrivateKey = P256, *, now: float = NOW, body: bytes = BODY) -> ProofUse:
    return verify_proof(
        proof, key=instance(key), method=METHOD, body=body, audience="lockstep", nonces=NONCES, now=now
    )


def proof(**changes: Any) -> str:
    return es256(P256, {"alg": "ES256", "typ": PROOF_TYPE}, claims(**changes))


def refused(token: str, key: keyfiles.PrivateKey = P256, **changes: Any) -> None:
    with pytest.raises(Unauthenticated) as caught:
        check(token, key, **changes)
    assert caught.value.reason is Reason.PROOF_REJECTED
    assert not token or token not in str(caught.value)


@pytest.mark.parametrize(("key", "algorithm"), [(P256, "ES256"), (ED25519, "EdDSA")])
def test_a_proof_by_the_instance_key_is_good_for_its_call(key: keyfiles.PrivateKey, algorithm: str) -> None:
    token = jwt.encode(claims(), key, algorithm=algorithm, headers={"typ": PROOF_TYPE})
    use = check(token, key)
    assert use == ProofUse(instance(key).thumbprint, JTI, NONCES.check(NONCES.current(NOW), NOW) or 0)
    assert use.replay_key == instance(key).thumbprint + JTI.encode()


def test_another_key_another_message_or_another_clock_is_refused() -> None:
    assert check(proof())
    refused(proof(), ec.generate_private_key(ec.SECP256R1()))
    refused(proof(), ED25519)
    refused(proof(), body=BODY + b"\x00")
    refused(proof(), now=NOW + 60)


@pytest.mark.parametrize(
    "changes",
    [
        {"htm": METHOD.lower()},
        {"htm": METHOD[1:]},
        {"htm": "/" + METHOD},
        {"htm": None},
        {"dig": ""},
        {"dig": None},
        {"dig": "é" * 43},
        {"dig": 7},
        {"aud": "lockstep-2"},
        {"aud": ["lockstep"]},
        {"aud": None},
        {"iat": None},
        {"iat": "1"},
        {"iat": True},
        {"jti": None},
        {"jti": "0123456789abcde"},
        {"jti": "j" * 129},
        {"jti": "0123456789abcdeé"},
        {"jti": "0123456789abcde\n"},
        {"jti": 1234567890123456},
        {"nonce": None},
        {"nonce": ""},
        {"nonce": "\ud800"},
        {"nonce": NONCES.current(NOW - 60)},
        {"nonce": NONCES.current(NOW + 30)},
        {"nonce": RollingNonce(b"t" * 32, period=30).current(NOW)},
        {"nonce": [NONCES.current(NOW)]},
    ],
)
def test_a_claim_that_is_missing_or_says_something_else_is_refused(changes: dict[str, Any]) -> None:
    refused(proof(**changes))


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "ES256"},
        {"alg": "ES256", "typ": "at+jwt"},
        {"alg": "ES256", "typ": "dpop+jwt"},
        {"alg": "ES256", "typ": PROOF_TYPE.upper()},
        {"alg": "ES256", "typ": PROOF_TYPE, "jwk": {"kty": "EC"}},
        {"alg": "ES256", "typ": PROOF_TYPE, "crit": ["htm"]},
        {"alg": "EdDSA", "typ": PROOF_TYPE},
        {"alg": "none", "typ": PROOF_TYPE},
    ],
)
def test_a_header_of_another_kind_is_refused(header: dict[str, Any]) -> None:
    refused(es256(P256, header, claims()))


def test_a_public_key_is_no_hmac_secret() -> None:
    for algorithm in ("HS256", "ES256"):
        refused(hs256(instance(P256).spki, {"alg": algorithm, "typ": PROOF_TYPE}, claims()))


def test_junk_and_a_megabyte_are_refused() -> None:
    header, _, signature = proof().split(".")
    for token in (
        "",
        "a.b.c",
        "A" * 1_000_000,
        f"{header}..{signature}",
        f"{header}.{b64(b'[]')}.{signature}",
    ):
        refused(token)
    doubled = json.dumps(claims())[:-1] + f', "htm": "{METHOD}"}}'
    refused(es256(P256, {"alg": "ES256", "typ": PROOF_TYPE}, doubled))


def test_both_signatures_of_an_es256_twin_are_one_use() -> None:
    token = proof()
    assert twin(token) != token
    assert check(twin(token)).replay_key == check(token).replay_key


def test_a_nonce_is_good_for_its_window_and_the_next() -> None:
    start = NOW - NOW % 30
    nonce = NONCES.current(start)
    for moment in (start, start + 29.999, start + 30, start + 59.999):
        assert NONCES.check(nonce, moment) == start + 60
    for moment in (start - 0.001, start + 60, start + 600):
        assert NONCES.check(nonce, moment) is None
    assert NONCES.current(start + 29.999) == nonce
    assert NONCES.current(start + 30) != nonce
    assert RollingNonce(b"s" * 32, period=30).current(start) == nonce


def test_a_short_nonce_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        RollingNonce(b"s" * 31)


def test_instance_keys_of_another_type_or_spelling_are_refused() -> None:
    spki = instance(P256).spki
    for other in (
        b"",
        b"junk",
        spki + b"\x00",
        spki[:-1],
        b"\x00" * 4096,
        keyfiles.public_der(ec.generate_private_key(ec.SECP384R1()).public_key()),
        keyfiles.public_der(rsa.generate_private_key(65537, 2048).public_key()),  # type: ignore[arg-type]
        keyfiles.public_pem(P256.public_key()),
    ):
        with pytest.raises(ValueError, match="key"):
            parse_instance_key(other)
