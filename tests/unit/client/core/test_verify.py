"""Tokens at a resource server: everything that must hold, each missing once; and the live feed over a real stream."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from lockstep.formats import b64url
from lockstep.v1 import revocation_pb2 as rv
from lockstep_client import ConfigurationError, Denied, Revoked, Unavailable
from lockstep_client.messages import InstanceKey
from lockstep_client.settings import Settings
from lockstep_client.verify import TokenVerifier
from tests.fakes.broker import FakeBroker
from tests.fakes.clock import START
from tests.fakes.introspection import IntrospectionServer
from tests.fakes.tls import ServerFiles
from tests.unit.client.core.conftest import ISSUER, URL, Clock, Signer, becomes, refusal


def test_a_good_token_says_who(offline: TokenVerifier, signer: Signer) -> None:
    found = offline.verify(signer.token())
    assert (found.subject, found.role, found.mode, found.lease) == ("https://idp|me", "pay", "enforce", "L-1")
    assert found.scope == {"read", "write"}
    assert "claims" not in repr(found)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"iss": "https://other"}, "issuer"),
        ({"iss": None}, "iss"),
        ({"aud": "other"}, "audience"),
        ({"aud": ["pay-api", "other"]}, "audience"),
        ({"aud": None}, "audience"),
        ({"exp": None}, "exp"),
        ({"exp": int(START)}, "expired"),
        ({"exp": str(int(START) + 9)}, "exp"),
        ({"exp": True}, "exp"),
        ({"exp": 1e300}, "exp"),
        ({"nbf": int(START) + 60}, "nbf"),
        ({"iat": int(START) + 60}, "iat"),
        ({"sub": None}, "sub"),
        ({"sub": ""}, "sub"),
        ({"jti": None}, "jti"),
        ({"lockstep": None}, "facts"),
        ({"facts": {"as_of": "5"}}, "as_of"),
        ({"facts": {"manifests": ["xyz"]}}, "manifests"),
        ({"cnf": {}}, "cnf"),
        ({"cnf": {"jkt": "AA"}}, "cnf"),
    ],
)
def test_what_a_token_must_say(
    offline: TokenVerifier, signer: Signer, changed: dict[str, Any], why: str
) -> None:
    with pytest.raises(Denied, match=why) as caught:
        offline.verify(signer.token(**changed))
    assert caught.value.reason == "identity_rejected"


@pytest.mark.parametrize(
    "header",
    [
        {"typ": "JWT"},
        {"typ": "secevent+jwt"},
        {"kid": "k2"},
        {"kid": ""},
        {"crit": ["exp"]},
        {"jku": "https://evil"},
        {"jwk": {"kty": "EC"}},
        {"x5u": "https://evil"},
        {"zip": "DEF"},
    ],
)
def test_what_a_header_must_not_say(offline: TokenVerifier, signer: Signer, header: dict[str, Any]) -> None:
    with pytest.raises(Denied):
        offline.verify(signer.token(header))


def _part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def test_forged_and_malformed(offline: TokenVerifier, signer: Signer, clock: Clock) -> None:
    good = signer.token()
    head, body, signature = good.split(".")
    public = json.loads(signer.jwks.read_text())["keys"][0]
    twice = b64url(json.dumps(signer.claims()).replace('{"iss"', '{"sub": "root", "iss"', 1).encode())
    pem = jwt.PyJWK.from_dict(public).key
    assert pem is not None
    bad = [
        "",
        "a.b",
        f"{head}.{body}.",
        f"{_part({'typ': 'at+jwt', 'alg': 'none', 'kid': 'k1'})}.{body}.{signature}",
        jwt.encode(signer.claims(), b64url(b"x" * 32), "HS256", headers={"typ": "at+jwt", "kid": "k1"}),
        signer.token(key=ec.generate_private_key(ec.SECP256R1())),
        f"{head}.{body}.{signature}=",
        f"{head}.{_part(signer.claims(aud='pay-api', sub='root'))}.{signature}",
        jwt.PyJWS().encode(
            base64.urlsafe_b64decode(twice + "=="),
            signer.key,
            "ES256",
            headers={"typ": "at+jwt", "kid": "k1"},
        ),
        "x" * 20_000,
        good + "é",
    ]
    for token in bad:
        with pytest.raises(Denied):
            offline.verify(token)
    assert offline.verify(good)
    clock.ahead = 301
    with pytest.raises(Denied, match="expired"):
        offline.verify(good)


def test_modes_and_possession(signer: Signer, clock: Clock) -> None:
    strict = TokenVerifier(
        audience="pay-api",
        issuer=ISSUER,
        jwks=signer.jwks,
        feed=False,
        observed="refuse",
        possession="required",
        settings=Settings(),
        clock=clock,
    )
    with pytest.raises(Denied, match="observes"):
        strict.verify(signer.token(facts={"mode": "observe"}))
    with pytest.raises(Denied, match="bound to no key"):
        strict.verify(signer.token())


def test_a_bound_token_needs_its_key(offline: TokenVerifier, signer: Signer, clock: Clock) -> None:
    key, other = InstanceKey.generate(), InstanceKey.generate("EdDSA")
    token = signer.token(cnf={"jkt": b64url(key.thumbprint)})
    hashed = b64url(hashlib.sha256(token.encode()).digest())

    def proof(by: InstanceKey = key, **changed: Any) -> str:
        said: dict[str, Any] = {
            "method": "POST",
            "url": "https://API.example:443/pay",
            "token_hash": hashed,
            "issued_at": START,
        }
        return by.dpop(**(said | changed))

    good = proof()
    assert offline.verify(token, dpop=good, method="POST", url=URL).key_thumbprint == key.thumbprint
    refused = [
        None,
        good,  # used before
        proof(other),
        proof(method="GET"),
        proof(url="https://api.example/other"),
        proof(url="http://api.example/pay"),
        proof(token_hash="x"),
        proof(issued_at=START - 61),
        proof(issued_at=START + 61),
        key.proof(method="POST", body=b"", audience="x", issued_at=START, nonce=None),
    ]
    for bad in refused:
        with pytest.raises(Denied) as caught:
            offline.verify(token, dpop=bad, method="POST", url=URL)
        assert caught.value.reason == "proof_rejected"
    bound_to_other = signer.token(cnf={"jkt": b64url(other.thumbprint)})
    assert other.jwk["kty"] == "OKP"
    with pytest.raises(Denied):
        offline.verify(bound_to_other, dpop=proof(), method="POST", url=URL)


@pytest.mark.parametrize(
    "selector",
    [
        rv.Selector(attestation_id="A-1"),
        rv.Selector(lease_id="L-1"),
        rv.Selector(token_id="T-1"),
        rv.Selector(identity="https://idp|me"),
        rv.Selector(manifest=bytes.fromhex("ab" * 32)),
        rv.Selector(node="n1"),
    ],
    ids=lambda selector: str(selector.WhichOneof("target")),
)
def test_a_revocation_reaches_tokens_granted_before_it(
    live: TokenVerifier, signer: Signer, broker: FakeBroker, selector: rv.Selector
) -> None:
    token = signer.token()
    assert live.verify(token)
    broker.revoke(selector)
    error = refusal(lambda: live.verify(token), Revoked, 5)
    assert "D-9" in str(error)
    assert live.verify(signer.token(facts={"as_of": 6}))
    other = {"attestation": "A-2", "lease": "L-2", "manifests": [], "node": "n2"}
    assert live.verify(signer.token(facts=other, jti="T-2", sub="https://idp|you"))


def test_a_wide_event_is_asked_about_until_it_is_expanded(
    live: TokenVerifier, signer: Signer, broker: FakeBroker, introspection: IntrospectionServer
) -> None:
    token = signer.token()
    broker.append(rv.RevocationEvent(kind=rv.EVENT_KIND_INTROSPECT, selector=rv.Selector(digest=b"x" * 32)))
    introspection.active = False
    refusal(lambda: live.verify(token), Revoked, 5)
    assert introspection.asked == [("Bearer resource.server.jwt", token)]
    introspection.active = True
    assert live.verify(token)
    introspection.status = 500
    with pytest.raises(Unavailable):
        live.verify(token)
    introspection.status = 302
    with pytest.raises(Unavailable):
        live.verify(token)
    assert live.verify(signer.token(facts={"as_of": 6}))
    broker.append(rv.RevocationEvent(kind=rv.EVENT_KIND_EXPANDED, refers_to=6))
    asked = len(introspection.asked)
    becomes(lambda: bool(_quiet(live, token)))
    assert len(introspection.asked) >= asked


def _quiet(live: TokenVerifier, token: str) -> object:
    try:
        return live.verify(token)
    except Unavailable:
        return None


def test_a_deaf_verifier_is_closed(
    live: TokenVerifier, signer: Signer, broker: FakeBroker, clock: Clock
) -> None:
    token = signer.token()
    assert live.ready
    broker.policy.beats = False
    clock.ahead += 6.5
    with pytest.raises(Unavailable):
        live.verify(token)
    assert not live.ready
    broker.policy.beats = True
    becomes(lambda: live.ready, 20)
    assert live.verify(token)


def test_after_a_resync_only_the_snapshot_counts(
    live: TokenVerifier, signer: Signer, broker: FakeBroker
) -> None:
    broker.revoke(rv.Selector(lease_id="L-1"))
    token = signer.token()
    refusal(lambda: live.verify(token), Revoked, 5)
    broker.tell(rv.WatchRevocationsResponse(resync=rv.Resync(reason="pruned")))
    broker.wait_until(lambda: broker.calls.count("WatchRevocations") == 2 and broker.watched != [])
    becomes(lambda: live.ready)
    with pytest.raises(Revoked):
        live.verify(token)


def test_a_stranger_gets_no_feed(
    signer: Signer, broker: FakeBroker, tls: ServerFiles, tmp_path: Path
) -> None:
    identity = tmp_path / "stranger.jwt"
    identity.write_text("stranger")
    settings = Settings(
        address=broker.address, ca_file=str(tls.ca_file), identity_token_file=str(identity), http_url=ISSUER
    )
    with (
        TokenVerifier(audience="pay-api", jwks=signer.jwks, settings=settings) as verifier,
        pytest.raises(Denied, match="no_identity"),
    ):
        verifier.wait_ready(5)


def test_jwks_over_https(
    signer: Signer, clock: Clock, tls: ServerFiles, introspection: IntrospectionServer
) -> None:
    introspection.jwks = signer.jwks.read_bytes()
    settings = Settings(ca_file=str(tls.ca_file), http_url=introspection.url)
    verifier = TokenVerifier(audience="pay-api", issuer=ISSUER, feed=False, settings=settings, clock=clock)
    assert verifier.verify(signer.token())
    for _ in range(20):
        with pytest.raises(Denied):
            verifier.verify(signer.token({"kid": os.urandom(4).hex()}))
    assert introspection.key_reads == 1
    clock.ahead = 6
    with pytest.raises(Denied):
        verifier.verify(signer.token({"kid": "other"}))
    assert introspection.key_reads == 2


def test_what_must_be_configured(signer: Signer) -> None:
    with pytest.raises(ConfigurationError, match="audience"):
        TokenVerifier(audience="", settings=Settings())
    with pytest.raises(ConfigurationError, match="LOCKSTEP_HTTP_URL"):
        TokenVerifier(audience="x", settings=Settings())
    with pytest.raises(ConfigurationError, match="LOCKSTEP_ADDRESS"):
        TokenVerifier(audience="x", settings=Settings(http_url=ISSUER))
    with pytest.raises(ConfigurationError, match="https"):
        TokenVerifier(audience="x", feed=False, settings=Settings(http_url="http://broker.example")).verify(
            signer.token()
        )
