"""Flaws of SPIRE and of Vault's logins by certificate and cloud, in whom a proof is taken for."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from broker.adapters.identity.router import IdentityRouter
from broker.adapters.identity.spiffe import SpiffeIdentity
from broker.errors import Denied
from broker.model.identity import IdentityMatch, PeerProof, WorkloadIdentity, matches_pattern
from tests.support import pki
from tests.support.pki import Certified

NOW = 1_800_000_000.0
ID = "spiffe://acme.example/pay"
ROOT = pki.authority("root", now=NOW)


def source(folder: Path, domain: str, root: Certified) -> SpiffeIdentity:
    bundle = folder / f"{domain}.pem"
    bundle.write_bytes(root.pem)
    return SpiffeIdentity(domain.partition(".")[0], domain, bundle)


@pytest.fixture
def plug(tmp_path: Path) -> SpiffeIdentity:
    return source(tmp_path, "acme.example", ROOT)


async def refused(plug: SpiffeIdentity | IdentityRouter, leaf: Certified, *chain: Certified) -> None:
    with pytest.raises(Denied):
        await plug.verify(PeerProof(leaf.pem, tuple(item.pem for item in chain)), NOW)


async def test_cve_2025_11621_equal_paths_of_two_trust_domains(tmp_path: Path) -> None:
    """Vault (and CVE-2025-59048 of OpenBao) remembered a principal by its name without the account it was of."""
    other = pki.authority("other", now=NOW)
    router = IdentityRouter(
        certificates=[source(tmp_path, "acme.example", ROOT), source(tmp_path, "evil.example", other)]
    )
    mine = pki.svid(ROOT, ID, now=NOW)
    theirs = pki.svid(other, "spiffe://evil.example/pay", now=NOW)
    for _ in range(2):  # the second time from memory
        found = [await router.verify(PeerProof(item.pem), NOW) for item in (mine, theirs)]
        assert [item.name for item in found] == [ID, "spiffe://evil.example/pay"]
        assert [IdentityMatch("acme", spiffe_id=ID).accepts(item) for item in found] == [True, False]
        assert [IdentityMatch("acme", spiffe_id="spiffe://*/pay").accepts(item) for item in found] == [
            True,
            False,
        ]
    # Nor does the root of one speak for the other, whoever asks first.
    await refused(router, pki.svid(other, ID, now=NOW))
    await refused(router, pki.svid(ROOT, "spiffe://evil.example/pay", now=NOW))


async def test_cve_2024_2048_a_leaf_signs_a_leaf(plug: SpiffeIdentity) -> None:
    """Vault's login by certificate trusted what a certificate had signed that was no authority."""
    pinned = pki.svid(ROOT, "spiffe://acme.example/other", now=NOW)
    crafted = pki.svid(pinned, ID, now=NOW)
    await refused(plug, crafted, pinned)
    await refused(plug, crafted, pinned, ROOT)
    await refused(plug, crafted)


async def test_spire_1_15_1_the_signer_is_the_one_that_was_chained(plug: SpiffeIdentity) -> None:
    """The first certificate of the bag led to the root; another one had signed."""
    good = pki.svid(ROOT, ID, now=NOW)
    stranger = pki.certify("stranger", now=NOW, uris=[ID])
    assert await plug.verify(PeerProof(good.pem), NOW)
    await refused(plug, stranger, good)
    await refused(plug, stranger, ROOT, good)
    await refused(plug, Certified(stranger.key, stranger.certificate), ROOT)


class _Costly:
    """A public key as large as somebody likes, which nobody has the private half of."""

    def __init__(self, bits: int, exponent: int) -> None:
        self._numbers = rsa.RSAPublicNumbers(exponent, (1 << bits) - 159)

    def public_key(self) -> rsa.RSAPublicKey:
        return self._numbers.public_key()


@pytest.mark.parametrize(
    ("bits", "exponent"), [(16_384, 65_537), (8_200, 65_537), (2_048, 3), (2_048, 2**32 + 1)]
)
async def test_spire_1_14_2_costly_keys(plug: SpiffeIdentity, bits: int, exponent: int) -> None:
    """Keys and chains that take seconds to check, from whoever likes."""
    leaf = pki.svid(ROOT, ID, now=NOW, key=_Costly(bits, exponent))
    middle = pki.authority("costly", issuer=ROOT, now=NOW, key=_Costly(bits, exponent))
    plain = pki.svid(ROOT, ID, now=NOW)
    began = time.process_time()
    await refused(plug, leaf)
    await refused(plug, plain, middle)
    await refused(plug, plain, *[ROOT] * 64)
    assert time.process_time() - began < 1.0


@pytest.mark.parametrize(
    "path",
    [
        "/a/../pay",
        "/./pay",
        "//pay",
        "/pay/",
        "/%2e%2e/pay",
        "/p%61y",
        "/pay\x00",
        "/pay?x",
        "/pay#x",
        "/päy",
        "/",
    ],
)
async def test_cve_2021_27099_paths_have_one_spelling(plug: SpiffeIdentity, path: str) -> None:
    """SPIRE made paths of what workloads were labelled with, and did not normalise them."""
    identity = f"spiffe://acme.example{path}"
    assert not IdentityMatch("acme", spiffe_id=ID).accepts(WorkloadIdentity("acme", None, identity, NOW + 60))
    try:
        leaf = pki.svid(ROOT, identity, now=NOW)
    except ValueError:  # no certificate can even say it
        return
    await refused(plug, leaf)


def test_cve_2021_41087_how_names_are_matched_is_pinned() -> None:
    """in-toto matched paths otherwise than whoever wrote the rule thought."""
    vectors = [
        ("a/*", "a/b", True), ("a/*", "a/b/c", False), ("a/*", "a/", False), ("a/**", "a/b/c", True),
        ("a/**", "a/", False), ("*", "a", True), ("*", "a/b", False), ("**", "a/b", True), ("a*c", "abc", True),
        ("a*c", "ac", False), ("a", "A", False), ("a", "a\n", False), ("*", "a\nb", True), ("a.c", "abc", False),
        ("[ab]", "a", False), ("a?", "ab", False), ("!a", "b", False), ("", "", True), ("a|b", "a", False),
        ("é", "e\u0301", False), ("a/../b", "b", False), ("***", "ab", True), ("\\*", "a", False),
    ]  # fmt: skip
    assert [(p, t) for p, t, fits in vectors if matches_pattern(p, t) is not fits] == []


async def test_cve_2025_49825_certificates_inside_certificates(plug: SpiffeIdentity) -> None:
    """Teleport took a certificate that was nested in another for the one that had been checked."""
    good, evil = pki.svid(ROOT, ID, now=NOW), pki.certify("evil", now=NOW, uris=[ID])
    for leaf in (evil.pem + good.pem, good.pem + evil.pem, b"x" + evil.pem, evil.pem.replace(b"\n", b"\n\n")):
        with pytest.raises(Denied):
            await plug.verify(PeerProof(leaf, (good.pem,)), NOW)
    key = ec.generate_private_key(ec.SECP256R1())
    authority = pki.authority("leaf that is an authority", issuer=ROOT, now=NOW, key=key, uris=[ID])
    await refused(plug, authority, good)
