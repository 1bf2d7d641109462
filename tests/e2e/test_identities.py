"""Who may attest: tokens of a real OIDC issuer, X.509-SVIDs over mTLS, and everything that only looks like one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from lockstep_client import connect
from lockstep_client.errors import Denied
from lockstep_client.settings import load
from tests.support import pki
from tests.support.actors import until
from tests.support.brokers import CLUSTER, Broker, prepared, serving
from tests.support.issuer import Issuer
from tests.support.wire import Refused, Wire, Workload, envelope, publish

SUBJECT = "system:serviceaccount:pay:payments"
CONFIGURATION = """
[identity.cluster]
kind = "oidc"
issuer = "{issuer}"
audience = "lockstep"
algorithms = ["ES256"]
ca_file = "{ca}"
max_age = "10m"
leeway = "10s"

[manifests.app]
signers = ["dev"]

[roles.payments]
mode = "enforce"
identity = {{ from = "cluster", subject = "system:serviceaccount:pay:*" }}
manifests = ["app"]
backend = {{ use = "jwt", audience = "dev" }}
ttl = "5m"
revocability = "instant"

[roles.mesh]
mode = "enforce"
identity = {{ from = "mesh", spiffe_id = "spiffe://dev.lockstep.invalid/dev-app" }}
manifests = ["app"]
backend = {{ use = "jwt", audience = "dev" }}
ttl = "5m"
revocability = "instant"
"""


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Issuer]:
    """Over HTTPS, with an authority of its own."""
    with Issuer(tmp_path_factory.mktemp("issuer"), now=time.time()) as running:
        yield running


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, issuer: Issuer) -> Iterator[Broker]:
    """``lockstep-broker serve`` that believes the issuer."""
    folder = tmp_path_factory.mktemp("served") / "broker"
    text = prepared(folder) + CONFIGURATION.format(issuer=issuer.url, ca=issuer.ca_file)
    with serving(folder, text) as running:
        publish(running, envelope(running, "app"))
        yield running


@pytest.fixture
def door(served: Broker) -> Iterator[Wire]:
    """The door for tokens."""
    with Wire(served.address, served.ca) as connection:
        yield connection


def attest(wire: Wire, token: str | None, role: str = "payments") -> Workload:
    """One attestation of approved code."""
    workload = Workload(wire, token)
    workload.attest("app", roles=[role])
    return workload


class TestTokens:
    """OIDC."""

    def test_a_token_of_the_issuer_gets_a_credential(self, door: Wire, issuer: Issuer) -> None:
        workload = attest(door, issuer.token(sub=SUBJECT))

        lease = workload.issue("payments").lease

        assert lease.identity == f"{issuer.url}|{SUBJECT}"

    @pytest.mark.parametrize(
        ("changes", "why"),
        [
            ({"aud": "somebody-else"}, "audience|concern|source"),
            ({"aud": None}, "audience|concern|source"),
            ({"iss": "https://another.example"}, "issuer|concern|source"),
            ({"exp": -1}, "expired"),
            ({"exp": None}, "exp is missing"),
            ({"iat": -3600}, "too old"),
            ({"iat": None}, "iat is missing"),
            ({"iat": 3600}, "future"),
            ({"nbf": 3600}, "not valid yet"),
            ({"sub": None}, "sub|source"),
        ],
        ids=lambda value: "-".join(map(str, *value.items())) if isinstance(value, dict) else "",
    )
    def test_what_is_not_for_us_or_not_now_is_refused(
        self, door: Wire, issuer: Issuer, changes: dict[str, Any], why: str
    ) -> None:
        now = int(time.time())
        moved = {name: now + value if isinstance(value, int) else value for name, value in changes.items()}

        with pytest.raises(Refused, match=why) as refused:
            attest(door, issuer.token(**{"sub": SUBJECT, "iat": now, "exp": now + 600, **moved}))

        assert refused.value.code is grpc.StatusCode.PERMISSION_DENIED
        assert refused.value.reason == "identity_rejected"

    def test_clocks_may_differ_by_the_leeway(self, door: Wire, issuer: Issuer) -> None:
        now = int(time.time())
        attest(door, issuer.token(sub=SUBJECT, iat=now + 5, nbf=now + 5))

    @pytest.mark.parametrize(
        "headers",
        [{"alg": "none"}, {"crit": ["exp"]}, {"typ": "lockstep-proof+jwt"}, {"typ": "secevent+jwt"}],
    )
    def test_another_kind_of_token_is_refused(
        self, door: Wire, issuer: Issuer, headers: dict[str, Any]
    ) -> None:
        if headers.get("alg"):
            head, _, _ = issuer.token(sub=SUBJECT).split(".")
            token = f"{head}..".replace("..", ".e30.")
        else:
            token = issuer.token(headers, sub=SUBJECT)

        with pytest.raises(Refused) as refused:
            attest(door, token)
        assert refused.value.reason == "identity_rejected"

    def test_an_identity_without_a_role_is_not_entitled(self, door: Wire, issuer: Issuer) -> None:
        with pytest.raises(Refused) as refused:
            attest(door, issuer.token(sub="system:serviceaccount:other:thing"))
        assert refused.value.reason == "not_entitled"

    @pytest.mark.slow
    def test_keys_rotate_while_it_serves(self, door: Wire, issuer: Issuer) -> None:
        attest(door, issuer.token(sub=SUBJECT))
        old = issuer.token(sub=SUBJECT, jti="of the old key")
        issuer.rotate(keep=False)
        fresh = issuer.token(sub=SUBJECT)

        def accepted() -> bool:
            """Not known yet is weather, and never a verdict."""
            try:
                attest(door, fresh)
            except Refused as refused:
                if refused.reason != "identity_unavailable":
                    raise
                return False
            return True

        until(accepted, "a token of the new key is accepted", within=15, pause=0.25)
        with pytest.raises(Refused) as refused:
            attest(door, old)
        assert refused.value.reason in ("identity_rejected", "identity_unavailable")


class TestSvids:
    """SPIFFE, on the listener that asks for client certificates."""

    def test_an_svid_gets_a_credential(self, served: Broker) -> None:
        folder = served.folder
        with Wire(served.mtls_address, served.ca, folder / "svid.crt", folder / "svid.key") as wire:
            workload = attest(wire, None, "mesh")
            assert workload.issue("mesh").lease.identity == "spiffe://dev.lockstep.invalid/dev-app"

    def test_the_sdk_speaks_it(self, served: Broker) -> None:
        settings = load(
            environ={
                "LOCKSTEP_ADDRESS": served.mtls_address,
                "LOCKSTEP_CA_FILE": str(served.ca),
                "LOCKSTEP_CLUSTER": CLUSTER,
                "LOCKSTEP_CLIENT_CERT_FILE": str(served.folder / "svid.crt"),
                "LOCKSTEP_CLIENT_KEY_FILE": str(served.folder / "svid.key"),
            }
        )
        # This process runs what nobody approved: the identity is believed, the code is not.
        with pytest.raises(Denied) as denied:
            connect(settings=settings, roles=["mesh"], guard="off")
        assert denied.value.reason == "appraisal_failed"
        assert denied.value.decision

    def test_it_is_no_identity_at_the_door_for_tokens(self, served: Broker) -> None:
        folder = served.folder
        with (
            Wire(served.address, served.ca, folder / "svid.crt", folder / "svid.key") as wire,
            pytest.raises(Refused) as refused,
        ):
            attest(wire, None, "mesh")
        assert refused.value.reason in ("no_identity", "identity_rejected")

    def test_no_certificate_no_connection(self, served: Broker) -> None:
        with Wire(served.mtls_address, served.ca) as wire, pytest.raises(Refused) as refused:
            attest(wire, None, "mesh")
        assert refused.value.code is grpc.StatusCode.UNAVAILABLE

    @pytest.mark.parametrize(
        ("change", "answered"),
        [
            (lambda now: {"uris": ["spiffe://dev.lockstep.invalid/another"]}, "not_entitled"),
            (lambda now: {"uris": ["spiffe://elsewhere.example/dev-app"]}, "identity_rejected"),
            (
                lambda now: {
                    "uris": [
                        "spiffe://dev.lockstep.invalid/dev-app",
                        "spiffe://dev.lockstep.invalid/second",
                    ]
                },
                "identity_rejected",
            ),
            (lambda now: {"start": -7200.0, "life": -3600.0}, ""),
            (lambda now: {"issuer": None}, ""),
        ],
        ids=["another-path", "another-domain", "two-names", "ended", "self-signed"],
    )
    def test_what_is_no_svid_of_ours_is_refused(
        self, served: Broker, tmp_path: Path, change: Callable[[float], dict[str, Any]], answered: str
    ) -> None:
        now = time.time()
        mesh = pki.Certified(
            load_pem_private_key((served.folder / "mesh-ca.key").read_bytes(), None),
            x509.load_pem_x509_certificate((served.folder / "mesh-ca.crt").read_bytes()),
        )
        options = {"issuer": mesh, "uris": ["spiffe://dev.lockstep.invalid/dev-app"], **change(now)}
        signer = options.pop("issuer")
        certificate, key = pki.certify("workload", signer, now=now, **options).write(tmp_path, "bent")

        with (
            Wire(served.mtls_address, served.ca, certificate, key) as wire,
            pytest.raises(Refused) as refused,
        ):
            attest(wire, None, "mesh")

        # Where TLS itself refuses, there is no word of ours.
        assert refused.value.reason == answered
        if not answered:
            assert refused.value.code is grpc.StatusCode.UNAVAILABLE

    def test_a_new_bundle_is_taken_up_and_the_old_one_is_not_believed(
        self, tmp_path: Path, issuer: Issuer
    ) -> None:
        folder = tmp_path / "broker"
        text = prepared(folder) + CONFIGURATION.format(issuer=issuer.url, ca=issuer.ca_file)
        with serving(folder, text) as own:
            publish(own, envelope(own, "app"))
            old = tmp_path / "old.crt", tmp_path / "old.key"
            for path, name in zip(old, ("svid.crt", "svid.key"), strict=True):
                path.write_bytes((folder / name).read_bytes())
            with Wire(own.mtls_address, own.ca, *old) as wire:
                attest(wire, None, "mesh")
                now = datetime.now(UTC).timestamp()
                fresh = pki.authority(
                    "new mesh", now=now, uris=["spiffe://dev.lockstep.invalid"], path_length=0
                )
                pki.replace(folder / "mesh-ca.crt", fresh.pem)
                assert own.reload()
                # The connection was made before: the certificate is judged at every call.
                with pytest.raises(Refused) as refused:
                    attest(wire, None, "mesh")
                assert refused.value.reason in ("identity_rejected", "")
            svid = pki.svid(fresh, "spiffe://dev.lockstep.invalid/dev-app", now=now).write(tmp_path, "new")
            with Wire(own.mtls_address, own.ca, *svid) as wire:
                attest(wire, None, "mesh")
