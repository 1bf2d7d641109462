"""OidcIdentity over a real HTTPS issuer: what is believed, what is refused, and what an outage or rotation changes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from broker.adapters.identity.fetch import HttpsFetch
from broker.adapters.identity.jwks import FileKeys, HttpKeys, KeyTimes
from broker.adapters.identity.oidc import OidcIdentity, OidcRules, oidc_identity
from broker.adapters.identity.presets import Preset
from broker.errors import Denied, Unavailable
from broker.model.identity import InstanceClaims, JwtProof, PeerProof, WorkloadIdentity
from lockstep.formats import Reason
from tests.support import pki
from tests.support.issuer import DISCOVERY, JWKS, Issuer

NOW = 1_800_000_000.0
TIMES = KeyTimes(ttl=300, refetch=10, stale=600, patience=5)


@pytest.fixture
def issuer(tmp_path: Path) -> Iterator[Issuer]:
    # The issuer's own certificate must be good on the real clock, its tokens at NOW.
    with Issuer(tmp_path, now=time.time()) as running:
        running.now = NOW
        yield running


def rules(running: Issuer, **changes: Any) -> OidcRules:
    sound: dict[str, Any] = {
        "name": "cluster",
        "issuer": running.url,
        "audience": "lockstep",
        "algorithms": frozenset({"ES256"}),
    }
    return OidcRules(**(sound | changes))


def source(running: Issuer, *, timeout: float = 5.0, jwks_url: str = "", **changes: Any) -> OidcIdentity:
    accepted = rules(running, **changes)
    keys = HttpKeys(
        HttpsFetch(running.ca_file, timeout=timeout),
        accepted.issuer or running.url,
        accepted.algorithms,
        jwks_url=jwks_url,
        times=TIMES,
    )
    return OidcIdentity(accepted, keys)


@pytest.fixture
def identity(issuer: Issuer) -> Iterator[OidcIdentity]:
    plug = source(issuer)
    yield plug
    plug.close()


async def refused(plug: OidcIdentity, token: str, now: float = NOW) -> str:
    with pytest.raises(Denied) as caught:
        await plug.verify(JwtProof(token), now)
    assert caught.value.reason is Reason.IDENTITY_REJECTED
    assert token == "" or token not in str(caught.value)
    return caught.value.message


async def unavailable(plug: OidcIdentity, token: str, now: float = NOW) -> None:
    with pytest.raises(Unavailable) as caught:
        await plug.verify(JwtProof(token), now)
    assert caught.value.reason is Reason.IDENTITY_UNAVAILABLE


# --- what is believed -----------------------------------------------------------------------------------


async def test_a_token_of_the_issuer_is_an_identity(identity: OidcIdentity, issuer: Issuer) -> None:
    found = await identity.verify(JwtProof(issuer.token()), NOW)
    assert found == WorkloadIdentity("cluster", issuer.url, "system:serviceaccount:pay:payments", NOW + 600)
    assert found.name == f"{issuer.url}|system:serviceaccount:pay:payments"
    assert issuer.requests == [DISCOVERY, JWKS]


async def test_keys_are_fetched_once_for_many_callers(identity: OidcIdentity, issuer: Issuer) -> None:
    tokens = [issuer.token(jti=str(number)) for number in range(20)]
    await asyncio.gather(*(identity.verify(JwtProof(token), NOW) for token in tokens))
    assert issuer.requests == [DISCOVERY, JWKS]


async def test_a_configured_key_url_needs_no_discovery(issuer: Issuer) -> None:
    plug = source(issuer, jwks_url=issuer.url + JWKS)
    assert await plug.verify(JwtProof(issuer.token()), NOW)
    assert issuer.requests == [JWKS]
    plug.close()


async def test_no_credential_of_the_environment_goes_to_the_issuer(
    identity: OidcIdentity, issuer: Issuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".netrc").write_text("machine localhost login CANARY password CANARY\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    assert await identity.verify(JwtProof(issuer.token()), NOW)
    sent = {name.lower() for headers in issuer.headers for name in headers}
    assert sent <= {"host", "accept", "accept-encoding", "user-agent"}


KUBERNETES = {
    "aud": ["lockstep"],
    "kubernetes.io": {
        "namespace": "pay",
        "serviceaccount": {"name": "payments", "uid": "sa-1"},
        "pod": {"name": "payments-7d9", "uid": "pod-1"},
        "node": {"name": "n1", "uid": "node-1"},
        "warnafter": 1_800_000_500,
    },
}


async def test_a_bound_kubernetes_token_tells_instances_apart(issuer: Issuer) -> None:
    plug = source(issuer, preset=Preset.KUBERNETES)
    found = await plug.verify(JwtProof(issuer.token(**KUBERNETES)), NOW)
    assert found.instance == InstanceClaims(node="n1", pod_uid="pod-1")
    assert found.claims == {
        "kubernetes.io/namespace": "pay",
        "kubernetes.io/serviceaccount/name": "payments",
        "kubernetes.io/serviceaccount/uid": "sa-1",
        "kubernetes.io/pod/name": "payments-7d9",
        "kubernetes.io/pod/uid": "pod-1",
        "kubernetes.io/node/name": "n1",
        "kubernetes.io/node/uid": "node-1",
    }
    plug.close()


async def test_another_issuer_cannot_say_which_pod_it_is(identity: OidcIdentity, issuer: Issuer) -> None:
    found = await identity.verify(JwtProof(issuer.token(**KUBERNETES)), NOW)
    assert found.instance == InstanceClaims()
    assert found.claims == {}


async def test_a_claim_that_can_be_read_in_two_ways_is_left_out(issuer: Issuer) -> None:
    plug = source(issuer, preset=Preset.KUBERNETES)
    token = issuer.token(
        **KUBERNETES, **{"kubernetes.io/pod/uid": "pod-2", "kubernetes.io/pod": {"uid": "pod-3"}}
    )
    found = await plug.verify(JwtProof(token), NOW)
    assert "kubernetes.io/pod/uid" not in found.claims
    assert found.instance == InstanceClaims(node="n1")
    plug.close()


async def test_ci_tokens_say_where_they_come_from(issuer: Issuer) -> None:
    claims = {"repository": "acme/pay", "repository_id": "7", "ref": "refs/heads/main", "actor": "someone"}
    plug = source(issuer, preset=Preset.GITHUB, claims=("actor",))
    found = await plug.verify(JwtProof(issuer.token(**claims)), NOW)
    assert found.claims == claims
    plug.close()
    plug = source(issuer, preset=Preset.GITLAB)
    found = await plug.verify(
        JwtProof(issuer.token(project_path="acme/pay", ref_protected="true", user="x")), NOW
    )
    assert found.claims == {"project_path": "acme/pay", "ref_protected": "true"}
    plug.close()


async def test_only_texts_numbers_and_truth_values_are_claims(issuer: Issuer) -> None:
    plug = source(issuer, claims=("team", "level", "admin", "groups", "long", "half", "none", "huge"))
    token = issuer.token(
        team="pay", level=7, admin=False, groups=["a"], long="x" * 2000, half=0.5, huge=2**70
    )
    found = await plug.verify(JwtProof(token), NOW)
    assert found.claims == {"team": "pay", "level": "7", "admin": "false"}
    plug.close()


SPIRE: dict[str, Any] = {"preset": Preset.SPIRE, "trust_domain": "acme.example", "issuer": ""}


async def test_a_jwt_svid_is_a_spiffe_identity_without_issuer(issuer: Issuer) -> None:
    plug = source(issuer, **SPIRE)
    token = issuer.token(iss=None, sub="spiffe://acme.example/pay", headers={"typ": "JWT"})
    found = await plug.verify(JwtProof(token), NOW)
    assert (found.issuer, found.name) == (None, "spiffe://acme.example/pay")
    for subject in (
        "spiffe://other.example/pay",
        "spiffe://acme.example",
        "spiffe://acme.example/../pay",
        "spiffe://acme.example/pay\n",
        "spiffe://ACME.example/pay",
        "pay",
    ):
        await refused(plug, issuer.token(sub=subject))
    plug.close()


async def test_a_spiffe_id_from_an_oidc_issuer_stays_that_issuers(
    identity: OidcIdentity, issuer: Issuer
) -> None:
    found = await identity.verify(JwtProof(issuer.token(sub="spiffe://acme.example/pay")), NOW)
    assert found.name == f"{issuer.url}|spiffe://acme.example/pay"


# --- what is refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": "other"},
        {"aud": ["lockstep", "other"]},
        {"aud": None},
        {"iss": "https://evil.example"},
        {"iss": None},
        {"sub": None},
        {"sub": ""},
        {"sub": "s" * 3000},
        {"exp": None},
        {"exp": NOW},
        {"exp": "9999999999"},
        {"nbf": NOW + 31},
        {"iat": NOW + 31},
        {"headers": {"typ": "lockstep-proof+jwt"}},
        {"headers": {"typ": "secevent+jwt"}},
        {"headers": {"jku": "https://evil.example"}},
        {"headers": {"kid": "key-x"}},
    ],
)
async def test_a_token_that_says_something_else_is_refused(
    identity: OidcIdentity, issuer: Issuer, changes: dict[str, Any]
) -> None:
    await refused(identity, issuer.token(**changes))


async def test_leeway_is_for_beginnings_and_never_for_the_end(identity: OidcIdentity, issuer: Issuer) -> None:
    token = issuer.token(nbf=NOW + 29, iat=NOW + 29, exp=NOW + 40)
    assert await identity.verify(JwtProof(token), NOW)
    assert await identity.verify(JwtProof(token), NOW + 39.9)
    # Remembered or not: a token that ended is refused.
    await refused(identity, token, NOW + 40)


async def test_other_audiences_are_an_option(issuer: Issuer) -> None:
    plug = source(issuer, other_audiences=True)
    assert await plug.verify(JwtProof(issuer.token(aud=["other", "lockstep"])), NOW)
    await refused(plug, issuer.token(aud=["other"]))
    await refused(plug, issuer.token(aud=["lockstep", 7]))
    plug.close()


async def test_an_old_token_is_refused_where_an_age_is_set(issuer: Issuer) -> None:
    plug = source(issuer, max_age=60.0)
    token = issuer.token()
    assert await plug.verify(JwtProof(token), NOW + 59)
    await refused(plug, token, NOW + 61)
    await refused(plug, issuer.token(iat=None))
    plug.close()


async def test_a_strangers_token_makes_nobody_look_for_keys(identity: OidcIdentity, issuer: Issuer) -> None:
    await refused(identity, issuer.token(iss="https://evil.example"))
    await refused(identity, issuer.token(aud="other"))
    await refused(identity, "")
    await refused(identity, "A" * 1_000_000)
    assert issuer.requests == []


async def test_an_algorithm_that_is_not_configured_is_refused(issuer: Issuer) -> None:
    plug = source(issuer, algorithms=frozenset({"RS256"}))
    await refused(plug, issuer.token())
    assert issuer.requests == []
    plug.close()


async def test_a_certificate_is_no_token(identity: OidcIdentity) -> None:
    with pytest.raises(Denied):
        await identity.verify(PeerProof(b"x"), NOW)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"algorithms": frozenset({"HS256"})}, "HS256"),
        ({"algorithms": frozenset({"none", "ES256"})}, "none"),
        ({"algorithms": frozenset()}, "algorithms"),
        ({"audience": ""}, "audience"),
        ({"issuer": ""}, "issuer"),
        ({"preset": Preset.SPIRE}, "trust_domain"),
        ({"trust_domain": "acme.example", "algorithms": frozenset({"EdDSA"})}, "EdDSA"),
    ],
)
def test_rules_that_would_believe_too_much_are_refused(
    issuer: Issuer, changes: dict[str, Any], names: str
) -> None:
    with pytest.raises(ValueError, match=names):
        rules(issuer, **changes)


# --- keys: rotation, outages, bent issuers ---------------------------------------------------------------


async def test_rotation_is_followed_at_once_and_asked_for_at_most_every_so_often(
    identity: OidcIdentity, issuer: Issuer
) -> None:
    old = issuer.token()
    assert await identity.verify(JwtProof(old), NOW)
    issuer.rotate()
    new = issuer.token()
    # Too soon after the last look: whoever sends unknown ids cannot make us ask all the time. Not a refusal, or the
    # first workload after a rotation would leave for good.
    await unavailable(identity, new, NOW + 1)
    assert issuer.requests.count(JWKS) == 1
    assert await identity.verify(JwtProof(new), NOW + 10)
    assert issuer.requests.count(JWKS) == 2
    assert await identity.verify(JwtProof(old), NOW + 10)
    for number in range(5):
        await unavailable(identity, issuer.token(headers={"kid": f"made-up-{number}"}), NOW + 11 + number)
    assert issuer.requests.count(JWKS) == 2
    await refused(identity, issuer.token(headers={"kid": "made-up"}), NOW + 20)
    assert issuer.requests.count(JWKS) == 3


async def test_a_key_that_the_issuer_withdrew_ends_with_the_next_look_for_remembered_tokens_too(
    identity: OidcIdentity, issuer: Issuer
) -> None:
    token = issuer.token(exp=NOW + 10_000)
    assert await identity.verify(JwtProof(token), NOW)
    issuer.rotate(keep=False)
    assert await identity.verify(JwtProof(token), NOW + 299)
    await refused(identity, token, NOW + 300)


async def test_while_the_issuer_is_down_known_keys_hold_for_a_bounded_time(
    identity: OidcIdentity, issuer: Issuer
) -> None:
    token = issuer.token(exp=NOW + 10_000)
    assert await identity.verify(JwtProof(token), NOW)
    issuer.rotate()
    new = issuer.token()
    issuer.stop()
    assert await identity.verify(JwtProof(token), NOW + 301)
    await unavailable(identity, new, NOW + 320)
    assert await identity.verify(JwtProof(token), NOW + 899)
    await unavailable(identity, token, NOW + 900)


async def test_an_issuer_that_never_answered_is_unavailable_and_comes_back(
    identity: OidcIdentity, issuer: Issuer
) -> None:
    issuer.answers[JWKS] = (503, {}, b"")
    token = issuer.token()
    await unavailable(identity, token)
    await unavailable(identity, token, NOW + 1)
    assert issuer.requests.count(JWKS) == 1
    del issuer.answers[JWKS]
    assert await identity.verify(JwtProof(token), NOW + 10)


async def test_an_issuer_that_hangs_is_unavailable_within_the_deadline(issuer: Issuer) -> None:
    plug = source(issuer, timeout=0.3)
    issuer.ready.clear()
    async with asyncio.timeout(5):
        await unavailable(plug, issuer.token())
    issuer.ready.set()
    plug.close()


async def test_one_caller_who_leaves_does_not_end_the_look_for_the_others(
    identity: OidcIdentity, issuer: Issuer
) -> None:
    issuer.ready.clear()
    first = asyncio.create_task(identity.verify(JwtProof(issuer.token()), NOW))
    second = asyncio.create_task(identity.verify(JwtProof(issuer.token()), NOW))
    assert await asyncio.to_thread(issuer.asked.wait, 5)
    first.cancel()
    issuer.ready.set()
    assert await second
    assert issuer.requests.count(JWKS) == 1


BENT = {
    "a redirect of the discovery": lambda url: {DISCOVERY: (302, {"Location": url + "/elsewhere"}, b"")},
    "a redirect of the keys": lambda url: {JWKS: (307, {"Location": url + "/elsewhere"}, b"")},
    "another issuer": lambda url: {DISCOVERY: _document(issuer=url + "/", jwks_uri=url + JWKS)},
    "another host": lambda url: {DISCOVERY: _document(issuer=url, jwks_uri="https://evil.example/keys")},
    "another port": lambda url: {DISCOVERY: _document(issuer=url, jwks_uri="https://localhost:1/keys")},
    "plain http": lambda url: {
        DISCOVERY: _document(issuer=url, jwks_uri=url.replace("https", "http") + JWKS)
    },
    "a file": lambda url: {DISCOVERY: _document(issuer=url, jwks_uri="file:///etc/passwd")},
    "credentials in the URL": lambda url: {
        DISCOVERY: _document(issuer=url, jwks_uri=url.replace("https://", "https://user:pw@") + JWKS)
    },
    "no key URL": lambda url: {DISCOVERY: _document(issuer=url)},
    "two issuers": lambda url: {DISCOVERY: (200, {}, f'{{"issuer":"x","issuer":"{url}"}}'.encode())},
    "no JSON": lambda url: {JWKS: (200, {}, b"<html>")},
    "no keys": lambda url: {JWKS: (200, {}, b'{"keys": []}')},
    "a flood": lambda url: {JWKS: (200, {}, b" " * 300_000)},
    "half an answer": lambda url: {JWKS: (200, {"Content-Length": "100000"}, b'{"keys":')},
    "compression": lambda url: {JWKS: (200, {"Content-Encoding": "gzip"}, b"\x1f\x8b")},
    "nothing": lambda url: {JWKS: (204, {}, b"")},
}


def _document(**fields: str) -> tuple[int, dict[str, str], bytes]:
    return 200, {}, json.dumps(fields).encode()


@pytest.mark.parametrize("case", BENT)
async def test_an_issuer_that_points_elsewhere_or_answers_junk_is_unavailable(
    issuer: Issuer, case: str
) -> None:
    plug = source(issuer, timeout=1.0)
    issuer.answers["/elsewhere"] = (200, {}, json.dumps(issuer.jwks()).encode())
    issuer.answers.update(BENT[case](issuer.url))
    await unavailable(plug, issuer.token())
    assert "/elsewhere" not in issuer.requests
    plug.close()


async def test_an_issuer_of_another_authority_is_unavailable(issuer: Issuer) -> None:
    accepted = rules(issuer)
    plug = OidcIdentity(accepted, HttpKeys(HttpsFetch(), issuer.url, accepted.algorithms))
    await unavailable(plug, issuer.token())
    assert issuer.requests == []
    plug.close()


async def test_an_issuer_with_another_hosts_certificate_is_unavailable(tmp_path: Path) -> None:
    with Issuer(tmp_path, now=time.time(), hosts=("other.example",)) as other:
        other.now = NOW
        plug = source(other)
        await unavailable(plug, other.token())
        assert other.requests == []
        plug.close()


@pytest.mark.parametrize(
    "url", ["http://localhost/", "https://", "https://u:p@localhost/", "ftp://x", "localhost"]
)
def test_keys_are_only_fetched_over_https(issuer: Issuer, url: str) -> None:
    with pytest.raises(ValueError, match="https"):
        HttpKeys(HttpsFetch(), url, frozenset({"ES256"}))


def test_an_unusable_authority_file_is_named(tmp_path: Path) -> None:
    for content in (None, b"junk"):
        path = tmp_path / "ca.pem"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ValueError, match=str(path)):
            HttpsFetch(path)


# --- keys in a file ---------------------------------------------------------------------------------------


async def test_keys_in_a_file_are_followed_and_a_broken_file_holds_for_a_bounded_time(
    issuer: Issuer, tmp_path: Path
) -> None:
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps(issuer.jwks()))
    warned: list[str] = []
    plug = OidcIdentity(rules(issuer), FileKeys(path, frozenset({"ES256"}), stale=60, warn=warned.append))
    token = issuer.token()
    assert await plug.verify(JwtProof(token), NOW)
    issuer.rotate(keep=False)
    pki.replace(path, json.dumps(issuer.jwks()).encode())
    await refused(plug, token, NOW + 1)
    token = issuer.token()
    assert await plug.verify(JwtProof(token), NOW + 1)
    pki.replace(path, b'{"keys": [')
    assert await plug.verify(JwtProof(token), NOW + 2)
    assert await plug.verify(JwtProof(token), NOW + 62)
    assert len(warned) == 1
    await unavailable(plug, token, NOW + 63)
    pki.replace(path, json.dumps(issuer.jwks()).encode())
    assert await plug.verify(JwtProof(token), NOW + 64)
    path.unlink()
    assert await plug.verify(JwtProof(token), NOW + 65)
    await unavailable(plug, token, NOW + 126)
    assert issuer.requests == []


def test_a_key_file_that_cannot_be_used_at_start_is_refused(issuer: Issuer, tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    for content in (None, "junk", '{"keys": []}'):
        if content is not None:
            path.write_text(content)
        with pytest.raises(ValueError, match=r"JWK|cannot be read"):
            oidc_identity(rules(issuer), jwks_file=path)
