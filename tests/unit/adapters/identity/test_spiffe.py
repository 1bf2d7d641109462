"""SpiffeIdentity and the router: SVIDs of one trust domain, judged against its own bundle on every call."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from broker.adapters.identity.jwks import FileKeys
from broker.adapters.identity.oidc import OidcIdentity, OidcRules
from broker.adapters.identity.presets import Preset
from broker.adapters.identity.recent import Recent
from broker.adapters.identity.router import IdentityRouter
from broker.adapters.identity.spiffe import SpiffeIdentity
from broker.errors import Denied, Unavailable
from broker.model.identity import JwtProof, PeerProof, WorkloadIdentity
from lockstep.formats import Reason
from tests.support import pki
from tests.support.issuer import Issuer
from tests.support.pki import Certified

NOW = 1_800_000_000.0
ID = "spiffe://acme.example/pay"
ROOT = pki.authority("acme root", now=NOW, uris=["spiffe://acme.example"])
OTHER = pki.authority("other root", now=NOW)


def source(folder: Path, *roots: Certified, **changes: Any) -> SpiffeIdentity:
    path = folder / "bundle.pem"
    path.write_bytes(b"".join(root.pem for root in roots or (ROOT,)))
    return SpiffeIdentity("mesh", "acme.example", path, **changes)


def peer(leaf: Certified, *intermediates: Certified) -> PeerProof:
    return PeerProof(leaf.pem, tuple(item.pem for item in intermediates))


async def refused(plug: SpiffeIdentity | IdentityRouter, proof: PeerProof, now: float = NOW) -> str:
    with pytest.raises(Denied) as caught:
        await plug.verify(proof, now)
    assert caught.value.reason is Reason.IDENTITY_REJECTED
    return caught.value.message


async def test_an_svid_is_an_identity_without_issuer_that_ends_with_its_certificate(tmp_path: Path) -> None:
    found = await source(tmp_path).verify(peer(pki.svid(ROOT, ID, now=NOW)), NOW)
    assert found == WorkloadIdentity("mesh", None, ID, NOW + pki.HOUR)
    assert found.name == ID


async def test_intermediates_make_a_path_and_the_first_to_end_ends_it(tmp_path: Path) -> None:
    middle = pki.authority("middle", issuer=ROOT, now=NOW, life=600)
    leaf = pki.svid(middle, ID, now=NOW)
    plug = source(tmp_path)
    # As TLS hands it over: the chain begins with the leaf, in one text or several.
    for chain in ((middle.pem,), (leaf.pem, middle.pem), (leaf.pem + middle.pem,)):
        found = await plug.verify(PeerProof(leaf.pem, chain), NOW)
        assert found.not_after == NOW + 600
    await refused(plug, PeerProof(leaf.pem), NOW)


async def test_remembered_or_not_a_certificate_that_ended_is_refused(tmp_path: Path) -> None:
    # What gRPC lets pass on a resumed TLS session.
    plug = source(tmp_path)
    proof = peer(pki.svid(ROOT, ID, now=NOW, life=8))
    assert await plug.verify(proof, NOW)
    assert await plug.verify(proof, NOW + 7.9)
    await refused(plug, proof, NOW + 8)
    await refused(source(tmp_path), proof, NOW + 8)
    assert await plug.verify(proof, NOW)


async def test_an_intermediate_that_ended_is_refused(tmp_path: Path) -> None:
    # CVE-2026-24122.
    middle = pki.authority("middle", issuer=ROOT, now=NOW, life=60)
    proof = peer(pki.svid(middle, ID, now=NOW), middle)
    plug = source(tmp_path)
    assert await plug.verify(proof, NOW)
    await refused(plug, proof, NOW + 61)
    await refused(source(tmp_path), proof, NOW + 61)


async def test_a_root_that_ended_is_refused(tmp_path: Path) -> None:
    root = pki.authority("short root", now=NOW, life=60)
    proof = peer(pki.svid(root, ID, now=NOW))
    assert await source(tmp_path, root).verify(proof, NOW)
    await refused(source(tmp_path, root), proof, NOW + 61)


def _under_leaf() -> PeerProof:
    pinned = pki.svid(ROOT, "spiffe://acme.example/other", now=NOW)
    return peer(pki.svid(pinned, ID, now=NOW), pinned)


def _too_deep() -> PeerProof:
    chain = [ROOT]
    for number in range(5):
        chain.append(pki.authority(f"middle {number}", issuer=chain[-1], now=NOW))
    return peer(pki.svid(chain[-1], ID, now=NOW), *chain[1:])


def _path_length() -> PeerProof:
    narrow = pki.authority("narrow", issuer=ROOT, now=NOW, path_length=0)
    middle = pki.authority("below narrow", issuer=narrow, now=NOW)
    return peer(pki.svid(middle, ID, now=NOW), middle, narrow)


def _impostor() -> PeerProof:
    # The name of our root, another key.
    return peer(pki.svid(pki.authority("acme root", now=NOW), ID, now=NOW))


BENT: dict[str, Any] = {
    "another authority": lambda: peer(pki.svid(OTHER, ID, now=NOW)),
    "an authority of the same name": _impostor,
    "self-signed": lambda: peer(pki.certify("self", now=NOW, uris=[ID])),
    "another trust domain": lambda: peer(pki.svid(ROOT, "spiffe://other.example/pay", now=NOW)),
    "the trust domain itself": lambda: peer(pki.svid(ROOT, "spiffe://acme.example", now=NOW)),
    "a trust domain in capitals": lambda: peer(pki.svid(ROOT, "spiffe://ACME.example/pay", now=NOW)),
    "two URI names": lambda: peer(pki.svid(ROOT, ID, now=NOW, uris=[ID, "spiffe://acme.example/admin"])),
    "one URI name twice": lambda: peer(pki.svid(ROOT, ID, now=NOW, uris=[ID, ID])),
    "no URI name": lambda: peer(pki.svid(ROOT, ID, now=NOW, uris=[], hosts=["acme.example"])),
    "no name": lambda: peer(pki.svid(ROOT, ID, now=NOW, uris=[])),
    "a URI of another kind": lambda: peer(pki.svid(ROOT, "https://acme.example/pay", now=NOW)),
    "a path that climbs": lambda: peer(pki.svid(ROOT, "spiffe://acme.example/a/../pay", now=NOW)),
    "an encoded path": lambda: peer(pki.svid(ROOT, "spiffe://acme.example/%2e%2e/pay", now=NOW)),
    "a query": lambda: peer(pki.svid(ROOT, ID + "?x=1", now=NOW)),
    "not yet valid": lambda: peer(pki.svid(ROOT, ID, now=NOW, start=60, life=120)),
    "ended": lambda: peer(pki.svid(ROOT, ID, now=NOW, start=-120, life=-60)),
    "an authority as leaf": lambda: peer(pki.authority("ca", issuer=ROOT, now=NOW, uris=[ID])),
    "a leaf that may sign certificates": lambda: peer(pki.svid(ROOT, ID, now=NOW, key_cert_sign=True)),
    "a leaf without a usage": lambda: peer(pki.svid(ROOT, ID, now=NOW, key_usage=False)),
    "a server's certificate": lambda: peer(
        pki.svid(ROOT, ID, now=NOW, purposes=[ExtendedKeyUsageOID.SERVER_AUTH])
    ),
    "a leaf signed by a leaf": _under_leaf,
    "a chain that is too long": _too_deep,
    "a path longer than an authority allows": _path_length,
    "a weak key": lambda: peer(pki.svid(ROOT, ID, now=NOW, key=rsa.generate_private_key(65537, 1024))),
    "a key with an odd exponent": lambda: peer(
        pki.svid(ROOT, ID, now=NOW, key=rsa.generate_private_key(3, 2048))
    ),
    "a key on another curve": lambda: peer(
        pki.svid(ROOT, ID, now=NOW, key=ec.generate_private_key(ec.SECP256K1()))
    ),
    "two leaves": lambda: PeerProof(pki.svid(ROOT, ID, now=NOW).pem + pki.svid(ROOT, ID, now=NOW).pem),
    "no leaf": lambda: PeerProof(b""),
    "junk": lambda: PeerProof(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
    "a flood": lambda: PeerProof(b"A" * 100_000),
    "a flood of intermediates": lambda: PeerProof(pki.svid(ROOT, ID, now=NOW).pem, (ROOT.pem,) * 1000),
}


@pytest.mark.parametrize("case", BENT)
async def test_a_certificate_that_is_no_svid_of_the_domain_is_refused(tmp_path: Path, case: str) -> None:
    plug = source(tmp_path)
    proof = BENT[case]()
    await refused(plug, proof)
    await refused(IdentityRouter(certificates=[plug]), proof)


async def test_rsa_svids_of_usual_size_are_taken(tmp_path: Path) -> None:
    key = rsa.generate_private_key(65537, 2048)
    assert await source(tmp_path).verify(peer(pki.svid(ROOT, ID, now=NOW, key=key)), NOW)


async def test_a_token_is_no_certificate(tmp_path: Path) -> None:
    with pytest.raises(Denied):
        await source(tmp_path).verify(JwtProof("a.b.c"), NOW)


# --- the bundle -----------------------------------------------------------------------------------------


async def test_the_bundle_rotates_with_overlap_and_what_left_it_ends_remembered_or_not(
    tmp_path: Path,
) -> None:
    plug = source(tmp_path)
    bundle = tmp_path / "bundle.pem"
    old, new = peer(pki.svid(ROOT, ID, now=NOW)), peer(pki.svid(OTHER, ID, now=NOW))
    assert await plug.verify(old, NOW)
    await refused(plug, new)
    pki.replace(bundle, ROOT.pem + OTHER.pem)
    assert await plug.verify(old, NOW)
    assert await plug.verify(new, NOW)
    pki.replace(bundle, OTHER.pem)
    await refused(plug, old)
    assert await plug.verify(new, NOW)


async def test_a_bundle_that_breaks_holds_for_a_bounded_time(tmp_path: Path) -> None:
    warned: list[str] = []
    plug = source(tmp_path, stale=60, warn=warned.append)
    bundle = tmp_path / "bundle.pem"
    proof = peer(pki.svid(ROOT, ID, now=NOW))
    pki.replace(bundle, ROOT.pem[:100])
    assert await plug.verify(proof, NOW)
    assert await plug.verify(proof, NOW + 60)
    with pytest.raises(Unavailable) as caught:
        await plug.verify(proof, NOW + 61)
    assert caught.value.reason is Reason.IDENTITY_UNAVAILABLE
    assert len(warned) == 1
    pki.replace(bundle, ROOT.pem)
    assert await plug.verify(proof, NOW + 62)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"junk",
        pki.svid(ROOT, ID, now=NOW).pem,
        ROOT.pem + pki.svid(ROOT, ID, now=NOW).pem,
        ROOT.pem * 65,
        pki.authority("weak", now=NOW, key=rsa.generate_private_key(65537, 1024)).pem,
        b"\n" * (1024 * 1024 + 1),
    ],
)
def test_a_bundle_that_would_trust_too_much_or_nothing_is_refused_at_start(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "bundle.pem"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"bundle|PEM|key"):
        SpiffeIdentity("mesh", "acme.example", path)


def test_a_bundle_that_anybody_can_change_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bundle.pem"
    path.write_bytes(ROOT.pem)
    path.chmod(0o666)
    with pytest.raises(ValueError, match="chmod o-w"):
        SpiffeIdentity("mesh", "acme.example", path)


# --- the router -----------------------------------------------------------------------------------------


def token_source(folder: Path, issuer: Issuer, name: str, **changes: Any) -> OidcIdentity:
    sound: dict[str, Any] = {"issuer": issuer.url, "audience": "lockstep", "algorithms": frozenset({"ES256"})}
    path = folder / f"{name}.json"
    path.write_text(json.dumps(issuer.jwks()))
    rules = OidcRules(name=name, **(sound | changes))
    return OidcIdentity(rules, FileKeys(path, rules.algorithms))


@pytest.fixture
def issuers(tmp_path: Path) -> tuple[Issuer, Issuer]:
    made = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        issuer = Issuer(folder, now=time.time())
        issuer.now = NOW
        issuer.stop()
        made.append(issuer)
    return made[0], made[1]


async def test_each_proof_goes_to_its_own_source(tmp_path: Path, issuers: tuple[Issuer, Issuer]) -> None:
    one, two = issuers
    beta = tmp_path / "beta"
    beta.mkdir()
    (beta / "bundle.pem").write_bytes(OTHER.pem)
    router = IdentityRouter(
        [
            token_source(tmp_path, one, "one"),
            token_source(tmp_path, one, "one-ci", audience="ci"),
            token_source(tmp_path, two, "two"),
            token_source(
                tmp_path, two, "spire", preset=Preset.SPIRE, trust_domain="acme.example", audience="spire"
            ),
        ],
        [source(tmp_path), SpiffeIdentity("beta", "beta.example", beta / "bundle.pem")],
    )
    for proof, provider in (
        (JwtProof(one.token()), "one"),
        (JwtProof(one.token(aud="ci")), "one-ci"),
        (JwtProof(two.token()), "two"),
        (JwtProof(two.token(aud="spire", sub=ID)), "spire"),
        (peer(pki.svid(ROOT, ID, now=NOW)), "mesh"),
        (peer(pki.svid(OTHER, "spiffe://beta.example/pay", now=NOW)), "beta"),
    ):
        assert (await router.verify(proof, NOW)).provider == provider
    router.close()


async def test_what_a_proof_says_of_itself_chooses_and_proves_nothing(
    tmp_path: Path, issuers: tuple[Issuer, Issuer]
) -> None:
    one, two = issuers
    router = IdentityRouter(
        [token_source(tmp_path, one, "one"), token_source(tmp_path, two, "two")], [source(tmp_path)]
    )
    for token in (
        two.token(iss=one.url),
        one.token(iss=two.url),
        one.token(iss="https://x"),
        one.token(aud="x"),
        "x",
    ):
        with pytest.raises(Denied) as caught:
            await router.verify(JwtProof(token), NOW)
        assert caught.value.reason is Reason.IDENTITY_REJECTED
    # Equal paths in two domains, and one domain's name under another's authority.
    await refused(router, peer(pki.svid(OTHER, ID, now=NOW)))
    await refused(router, peer(pki.svid(ROOT, "spiffe://other.example/pay", now=NOW)))


async def test_a_token_that_two_sources_could_take_is_refused(
    tmp_path: Path, issuers: tuple[Issuer, Issuer]
) -> None:
    one, _ = issuers
    router = IdentityRouter(
        [
            token_source(tmp_path, one, "a", other_audiences=True),
            token_source(tmp_path, one, "b", audience="ci", other_audiences=True),
        ]
    )
    assert (await router.verify(JwtProof(one.token(aud=["lockstep", "x"])), NOW)).provider == "a"
    with pytest.raises(Denied, match="more than one"):
        await router.verify(JwtProof(one.token(aud=["lockstep", "ci"])), NOW)


def test_two_sources_of_one_trust_domain_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"acme\.example"):
        IdentityRouter(certificates=[source(tmp_path), source(tmp_path)])


async def test_a_router_without_sources_knows_nobody() -> None:
    await refused(IdentityRouter(), peer(pki.svid(ROOT, ID, now=NOW)))


def test_ed25519_authorities_can_be_in_a_bundle(tmp_path: Path) -> None:
    assert source(tmp_path, pki.authority("ed", now=NOW, key=ed25519.Ed25519PrivateKey.generate()))


def test_the_memory_of_what_was_verified_is_bounded() -> None:
    recent: Recent[int] = Recent(2)
    recent.put(b"a", 1)
    recent.put(b"b", 2)
    assert recent.get(b"a") == 1
    recent.put(b"c", 3)
    assert (recent.get(b"a"), recent.get(b"b"), recent.get(b"c")) == (1, None, 3)
