"""What every identity source keeps to: OIDC, SPIFFE, the router over both, and the fake."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from broker.adapters.identity.jwks import FileKeys
from broker.adapters.identity.oidc import OidcIdentity, OidcRules
from broker.adapters.identity.router import IdentityRouter
from broker.adapters.identity.spiffe import SpiffeIdentity
from broker.errors import Denied, Unavailable
from broker.model.identity import IdentityProof, JwtProof, PeerProof, WorkloadIdentity
from broker.ports import IdentityVerifier
from lockstep.formats import Reason
from tests.fakes.identity import FakeIdentity
from tests.support import pki
from tests.support.issuer import Issuer

NOW = 1_800_000_000.0
ENDS = NOW + 600


@dataclass
class Case:
    """A plug, a proof that it takes until `ENDS`, one of the wrong hand, and how its source breaks."""

    plug: IdentityVerifier
    good: IdentityProof
    forged: IdentityProof
    source: Path | FakeIdentity

    def breaks(self) -> None:
        if isinstance(self.source, Path):
            self.source.unlink()
        else:
            self.source.down = True


def _issuer(folder: Path) -> Issuer:
    issuer = Issuer(folder, now=time.time())
    issuer.stop()  # its keys are in a file here
    issuer.now = NOW
    return issuer


def _oidc(folder: Path) -> Case:
    issuer = _issuer(folder)
    keys = folder / "jwks.json"
    keys.write_text(json.dumps(issuer.jwks()))
    good = JwtProof(issuer.token(exp=ENDS))
    issuer.rotate(keep=False)
    rules = OidcRules("cluster", issuer.url, "lockstep", frozenset({"ES256"}))
    return Case(
        OidcIdentity(rules, FileKeys(keys, rules.algorithms)), good, JwtProof(issuer.token(exp=ENDS)), keys
    )


def _spiffe(folder: Path) -> Case:
    root, other = pki.authority("root", now=NOW), pki.authority("root", now=NOW)
    bundle = folder / "bundle.pem"
    bundle.write_bytes(root.pem)
    good, forged = (
        PeerProof(pki.svid(ca, "spiffe://acme.example/pay", now=NOW, life=600).pem) for ca in (root, other)
    )
    return Case(SpiffeIdentity("mesh", "acme.example", bundle), good, forged, bundle)


def _routed(case: Case) -> Case:
    router = (
        IdentityRouter([case.plug])
        if isinstance(case.plug, OidcIdentity)
        else IdentityRouter(certificates=[case.plug])  # type: ignore[list-item]
    )
    return Case(router, case.good, case.forged, case.source)


def _fake(folder: Path) -> Case:
    fake = FakeIdentity()
    good = JwtProof("good")
    fake.know(good, WorkloadIdentity("fake", "https://issuer.example", "pay", ENDS))
    return Case(fake, good, JwtProof("forged"), fake)


MAKERS = {
    "oidc": _oidc,
    "spiffe": _spiffe,
    "router of tokens": lambda folder: _routed(_oidc(folder)),
    "router of certificates": lambda folder: _routed(_spiffe(folder)),
    "fake": _fake,
}


@pytest.fixture(params=MAKERS)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    return MAKERS[request.param](tmp_path)


async def refused(case: Case, proof: IdentityProof, now: float = NOW) -> None:
    with pytest.raises(Denied) as caught:
        await case.plug.verify(proof, now)
    assert caught.value.reason is Reason.IDENTITY_REJECTED


async def test_a_good_proof_is_one_identity_as_often_as_it_is_asked(case: Case) -> None:
    first = await case.plug.verify(case.good, NOW)
    assert first.provider
    assert first.subject
    assert first.not_after == ENDS
    assert await case.plug.verify(case.good, NOW + 1) == first


async def test_a_proof_ends_when_it_says_remembered_or_not(case: Case) -> None:
    await case.plug.verify(case.good, ENDS - 0.5)
    await refused(case, case.good, ENDS)
    await refused(case, case.good, ENDS + 3600)


async def test_a_proof_of_another_hand_is_refused_before_and_after_the_good_one(case: Case) -> None:
    await refused(case, case.forged)
    await case.plug.verify(case.good, NOW)
    await refused(case, case.forged)


async def test_junk_is_refused(case: Case) -> None:
    for proof in (JwtProof(""), JwtProof("a.b.c"), JwtProof("é"), PeerProof(b""), PeerProof(b"\x00", (b"",))):
        await refused(case, proof)


async def test_a_source_that_cannot_be_asked_is_unavailable_in_the_end_and_never_a_yes_to_strangers(
    case: Case,
) -> None:
    await case.plug.verify(case.good, NOW)
    case.breaks()
    with pytest.raises((Denied, Unavailable)):
        await case.plug.verify(case.forged, NOW + 1)
    with pytest.raises(Unavailable) as caught:
        await case.plug.verify(case.good, NOW + 550)
    assert caught.value.reason is Reason.IDENTITY_UNAVAILABLE


async def test_no_error_repeats_the_proof(case: Case) -> None:
    with pytest.raises(Denied) as caught:
        await case.plug.verify(case.forged, NOW)
    text = case.forged.token if isinstance(case.forged, JwtProof) else case.forged.leaf.decode()
    assert text not in str(caught.value) + repr(caught.value)
