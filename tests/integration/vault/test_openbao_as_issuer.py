"""OpenBao as somebody else's issuer: its identity tokens by OIDC discovery, and X.509-SVIDs of its PKI."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import jwt
import pytest
from cryptography import x509

from broker.adapters.identity.oidc import OidcIdentity, OidcRules, oidc_identity
from broker.adapters.identity.spiffe import SpiffeIdentity
from broker.errors import Denied, Unavailable
from broker.model.identity import JwtProof, PeerProof
from lockstep.formats import Reason

if TYPE_CHECKING:
    from tests.support.openbao import Bao, OpenBao
    from tests.support.vault_ground import Ground

pytestmark = pytest.mark.integration

ID = "spiffe://acme.example/pay"


@dataclass
class Issuer:
    """Identity tokens for one entity; `audience` is the client id of the role that signs them."""

    bao: Bao
    somebody: Bao
    entity: str
    audience: str
    issuer: str

    def token(self, role: str = "pay") -> str:
        found: str = self.somebody.read(f"identity/oidc/token/{role}")["token"]
        return found

    def rotate(self, overlap: str) -> None:
        """A new key; the old one still verifies for `overlap`."""
        self.bao.write("identity/oidc/key/pay/rotate", verification_ttl=overlap)


@pytest.fixture
def issuer(openbao_server: OpenBao, ground: Ground) -> Issuer:
    root = ground.root
    root.write("identity/oidc/config", issuer=openbao_server.address)
    root.write("identity/oidc/key/pay", algorithm="ES256", allowed_client_ids=["*"], rotation_period="24h")
    root.write("identity/oidc/role/pay", key="pay", ttl="10m")
    root.write("identity/oidc/role/brief", key="pay", ttl="1s")
    root.write("sys/policies/acl/token", policy='path "identity/oidc/token/*" { capabilities = ["read"] }')
    entity = root.write("identity/entity", name="pay")["data"]["id"]
    root.write("sys/auth/userpass", type="userpass")
    root.write("auth/userpass/users/pay", password="only-in-this-test", token_policies=["token"])
    accessor = root.read("sys/auth")["userpass/"]["accessor"]
    root.write("identity/entity-alias", name="pay", canonical_id=entity, mount_accessor=accessor)
    login = root.as_token("").write("auth/userpass/login/pay", password="only-in-this-test")
    audience = root.read("identity/oidc/role/pay")["client_id"]
    somebody = root.as_token(login["auth"]["client_token"])
    found = Issuer(root, somebody, entity, audience, "")
    claims = jwt.decode(found.token(), options={"verify_signature": False})
    found.issuer = claims["iss"]
    return found


@pytest.fixture
def source(issuer: Issuer, openbao_server: OpenBao) -> Iterator[OidcIdentity]:
    rules = OidcRules("bao", issuer.issuer, issuer.audience, frozenset({"ES256"}))
    plug = oidc_identity(rules, ca_file=openbao_server.ca)
    yield plug
    plug.close()


async def test_a_token_is_an_identity_by_discovery_alone(source: OidcIdentity, issuer: Issuer) -> None:
    now = time.time()
    found = await source.verify(JwtProof(issuer.token()), now)
    assert (found.provider, found.issuer, found.subject) == ("bao", issuer.issuer, issuer.entity)
    assert now + 500 < found.not_after <= now + 601


async def test_its_keys_rotate_under_us(source: OidcIdentity, issuer: Issuer) -> None:
    before = issuer.token()
    await source.verify(JwtProof(before), time.time())
    issuer.rotate("10m")
    after = issuer.token()
    kids = {jwt.get_unverified_header(token)["kid"] for token in (before, after)}
    assert len(kids) == 2
    # The new key is fetched when a token names it; the old one still counts.
    for token in (after, before):
        assert (await source.verify(JwtProof(token), time.time())).subject == issuer.entity


async def test_a_token_of_another_role_is_for_somebody_else(source: OidcIdentity, issuer: Issuer) -> None:
    with pytest.raises(Denied) as refused:
        await source.verify(JwtProof(issuer.token("brief")), time.time())
    assert refused.value.reason is Reason.IDENTITY_REJECTED


async def test_an_old_token_is_refused(source: OidcIdentity, issuer: Issuer) -> None:
    token = issuer.token()
    with pytest.raises(Denied):
        await source.verify(JwtProof(token), time.time() + 601)


async def test_an_issuer_that_is_away_is_not_the_workloads_fault(issuer: Issuer, tmp_path: Path) -> None:
    from tests.support.openbao import openbao

    with openbao(tmp_path / "gone") as other:
        ca = other.ca
        rules = OidcRules("bao", f"{other.address}/v1/identity/oidc", issuer.audience, frozenset({"ES256"}))
    claims = jwt.decode(issuer.token(), options={"verify_signature": False}) | {"iss": rules.issuer}
    from cryptography.hazmat.primitives.asymmetric import ec

    token = jwt.encode(claims, ec.generate_private_key(ec.SECP256R1()), "ES256", headers={"kid": "any"})
    plug = oidc_identity(rules, ca_file=ca)
    with pytest.raises(Unavailable) as refused:
        await plug.verify(JwtProof(token), time.time())
    assert refused.value.reason is Reason.IDENTITY_UNAVAILABLE
    plug.close()


async def test_an_svid_of_its_pki(ground: Ground, tmp_path: Path) -> None:
    root = ground.root
    for name in ("root", "middle"):
        ground.mount(name, "pki", config={"max_lease_ttl": "24h"})
    authority = root.write(
        "root/root/generate/internal",
        common_name="acme root",
        uri_sans="spiffe://acme.example",
        key_type="ec",
        ttl="12h",
    )["data"]["certificate"]
    request = root.write("middle/intermediate/generate/internal", common_name="acme middle", key_type="ec")[
        "data"
    ]["csr"]
    middle = root.write("root/root/sign-intermediate", csr=request, common_name="acme middle", ttl="6h")[
        "data"
    ]
    root.write("middle/intermediate/set-signed", certificate=middle["certificate"])
    root.write(
        "middle/roles/pay",
        allowed_uri_sans=["spiffe://acme.example/*"],
        allow_any_name=True,
        require_cn=False,
        key_type="ec",
        max_ttl="1h",
        key_usage=["DigitalSignature"],
        ext_key_usage=["ServerAuth", "ClientAuth"],
    )
    issued = root.write("middle/issue/pay", uri_sans=ID, ttl="10m")["data"]
    bundle = tmp_path / "bundle.pem"
    bundle.write_text(authority)
    plug = SpiffeIdentity("mesh", "acme.example", bundle)
    proof = PeerProof(issued["certificate"].encode(), (middle["certificate"].encode(),))
    found = await plug.verify(proof, time.time())
    assert (found.name, found.issuer) == (ID, None)
    leaf = x509.load_pem_x509_certificate(proof.leaf)
    assert found.not_after <= leaf.not_valid_after_utc.timestamp()
    with pytest.raises(Denied):
        await plug.verify(proof, time.time() + 3600)
    # Without the intermediate, or for another trust domain, it is nobody.
    with pytest.raises(Denied):
        await plug.verify(PeerProof(proof.leaf), time.time())
    with pytest.raises(Denied):
        await SpiffeIdentity("other", "other.example", bundle).verify(proof, time.time())
