"""How the broker logs in at a real OpenBao, and keeps its token alive or takes another."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from broker.adapters.backends.vault import CertificateLogin, JwtLogin, KubernetesLogin
from broker.crypto.keyfiles import public_pem
from broker.errors import Unavailable
from tests.support import pki
from tests.support.vault_ground import BROKER_POLICY, Ground
from tests.support.vault_plug import Ahead, Plug, grant, key_value, opened, plug

pytestmark = pytest.mark.integration


async def works(backend: Plug, path: str) -> None:
    """Everything from login to a secret."""
    issued = await backend.issue(grant(backend, await opened(backend), path))
    assert issued.credential.fields == {"key": "static-secret"}


async def test_by_approle(ground: Ground) -> None:
    path = key_value(ground)
    async with plug(ground.options()) as backend:
        await works(backend, path)
        assert backend.trouble == ""


async def test_by_certificate(ground: Ground, tmp_path: Path) -> None:
    path = key_value(ground)
    now = time.time()
    issuer = pki.authority("client authority", now=now)
    certificate, key = pki.certify("lockstep", issuer, now=now).write(tmp_path, "client")
    ground.root.write("sys/auth/cert", type="cert")
    ground.root.write(
        "auth/cert/certs/lockstep",
        certificate=issuer.pem.decode(),
        token_policies=[BROKER_POLICY],
        token_no_default_policy=True,
    )
    async with plug(ground.options(login=CertificateLogin(certificate, key, "lockstep"))) as backend:
        await works(backend, path)
    stranger, strangers_key = pki.certify("lockstep", now=now).write(tmp_path, "stranger")
    async with plug(ground.options(login=CertificateLogin(stranger, strangers_key, "lockstep"))) as backend:
        with pytest.raises(Unavailable, match="cannot log in"):
            await opened(backend)


async def test_by_jwt_which_is_read_anew_at_every_login(ground: Ground, tmp_path: Path) -> None:
    path = key_value(ground)
    signer = ec.generate_private_key(ec.SECP256R1())
    ground.root.write("sys/auth/jwt", type="jwt")
    ground.root.write(
        "auth/jwt/config",
        jwt_validation_pubkeys=[public_pem(signer.public_key()).decode()],
        bound_issuer="https://issuer.example",
    )
    ground.root.write(
        "auth/jwt/role/lockstep",
        role_type="jwt",
        bound_audiences=["vault"],
        user_claim="sub",
        token_policies=[BROKER_POLICY],
        token_no_default_policy=True,
    )

    def token(audience: str) -> str:
        now = time.time()
        claims = {
            "iss": "https://issuer.example",
            "sub": "lockstep",
            "aud": audience,
            "exp": int(now) + 60,
            "iat": int(now),
        }
        return jwt.encode(claims, signer, "ES256")

    file = ground.secret_file("token", token("another"))
    clock = Ahead()
    async with plug(ground.options(login=JwtLogin("lockstep", file)), clock=clock) as backend:
        with pytest.raises(Unavailable, match="cannot log in"):
            await opened(backend)
        assert "auth/jwt/login" in backend.trouble
        file.write_text(token("vault") + "\n")
        with pytest.raises(Unavailable, match="cannot log in"):
            await opened(backend)  # not again so soon
        clock.ahead = 3
        await works(backend, path)
        assert backend.trouble == ""


class _TokenReviews(BaseHTTPRequestHandler):
    """As much of a Kubernetes API server as asks who has a token."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        known = asked["spec"]["token"] == self.server.token  # type: ignore[attr-defined]
        user = {"username": "system:serviceaccount:lockstep:broker", "uid": "u-1", "groups": []}
        status = {"authenticated": known, **({"user": user} if known else {})}
        body = json.dumps(
            {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": status}
        ).encode()
        self.send_response(201)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        """Quietly."""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[ThreadingHTTPServer, str]]:
    """(an API server that knows one service account's token, its CA)."""
    now = time.time()
    issuer = pki.authority("cluster authority", now=now)
    certificate, key = pki.server(issuer, now=now).write(tmp_path, "apiserver")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _TokenReviews)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server, issuer.pem.decode()
    server.shutdown()
    server.server_close()
    thread.join(5)


async def test_by_kubernetes_service_account(
    ground: Ground, cluster: tuple[ThreadingHTTPServer, str], tmp_path: Path
) -> None:
    path = key_value(ground)
    server, ca = cluster
    claims = {
        "iss": "https://kubernetes.default.svc",
        "sub": "system:serviceaccount:lockstep:broker",
        "kubernetes.io": {"namespace": "lockstep", "serviceaccount": {"name": "broker", "uid": "u-1"}},
        "iat": int(time.time()) - 1,
        "nbf": int(time.time()) - 1,
        "exp": int(time.time()) + 600,
    }
    token = jwt.encode(claims, ec.generate_private_key(ec.SECP256R1()), "ES256")
    server.token = token  # type: ignore[attr-defined]
    # As the kubelet leaves it: for everybody in the pod.
    file = tmp_path / "token"
    file.write_text(token)
    file.chmod(0o644)
    ground.root.write("sys/auth/kubernetes", type="kubernetes")
    ground.root.write(
        "auth/kubernetes/config",
        kubernetes_host=f"https://127.0.0.1:{server.server_address[1]}",
        kubernetes_ca_cert=ca,
        token_reviewer_jwt=token,
        disable_local_ca_jwt=True,
    )
    ground.root.write(
        "auth/kubernetes/role/lockstep",
        bound_service_account_names=["broker"],
        bound_service_account_namespaces=["lockstep"],
        token_policies=[BROKER_POLICY],
        token_no_default_policy=True,
    )
    async with plug(ground.options(login=KubernetesLogin("lockstep", file))) as backend:
        await works(backend, path)


async def test_a_secret_file_that_others_can_read_is_not_used(ground: Ground) -> None:
    options = ground.options()
    (ground.folder / "secret-id").chmod(0o644)
    async with plug(options) as backend:
        with pytest.raises(Unavailable, match="cannot log in") as refused:
            await opened(backend)
        assert "secret-id" not in str(refused.value)
        assert "chmod 600" in backend.warned[-1]


def logins(ground: Ground) -> dict[str, dict[str, Any]]:
    """Tokens of the broker itself, by accessor."""
    accessors = ground.root.listed("auth/token/accessors")
    found = {
        item: ground.root.write("auth/token/lookup-accessor", accessor=item)["data"] for item in accessors
    }
    return {item: data for item, data in found.items() if data["path"] == "auth/approle/login"}


async def test_its_token_is_renewed_and_replaced_when_that_ends(ground: Ground) -> None:
    options = ground.options()
    ground.root.write("auth/approle/role/lockstep", token_ttl="10m", token_max_ttl="12m")
    clock = Ahead()
    async with plug(options, clock=clock) as backend:
        await backend.accounts.attestations()
        (first,) = logins(ground)
        await backend.accounts.attestations()
        assert not logins(ground)[first].get("last_renewal")
        clock.ahead = 8 * 60
        await backend.accounts.attestations()
        assert logins(ground)[first].get("last_renewal")
        # Nobody asked for so long that it has ended.
        clock.ahead = 24 * 60
        await backend.accounts.attestations()
        assert len(logins(ground)) == 2
        assert backend.warned == []


async def test_a_token_that_was_revoked_is_replaced_at_once(ground: Ground) -> None:
    path = key_value(ground)
    async with plug(ground.options()) as backend:
        await works(backend, path)
        (own,) = logins(ground)
        ground.root.write("auth/token/revoke-accessor", accessor=own)
        assert await opened(backend)
        assert backend.warned == []


async def test_the_token_is_given_back_at_the_end(ground: Ground) -> None:
    before = ground.tokens()
    async with plug(ground.options()) as backend:
        held = await opened(backend)
        assert ground.tokens() == before + 2
        await backend.accounts.close(held)
    assert ground.tokens() == before
