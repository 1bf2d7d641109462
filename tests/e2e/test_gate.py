"""A team's own Vault takes our attestation tokens at its JWT login, by our published keys; revoked, it takes none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import jwt
import pytest
import urllib3

from broker.dev.files import kept_key
from lockstep.formats import GATE_TYPE
from lockstep.v1 import credential_pb2
from tests.support.brokers import Broker, prepared, serving
from tests.support.wire import Refused, Wire, Workload, envelope, publish

if TYPE_CHECKING:
    from tests.support.openbao import Bao, OpenBao
    from tests.support.vault_ground import Ground

AUDIENCE = "https://vault.team.example"
CONFIGURATION = """
[manifests.app]
signers = ["dev"]
[backends.vault]
kind = "vault"
address = "{address}"
namespace = "{namespace}"
ca_file = "{ca}"
auth = {{ method = "approle", role_id_file = "{role_id_file}", secret_id_file = "{secret_id_file}" }}
[backends.gate]
kind = "gate"
vault = "vault"
mount = "gate"
audience = "{audience}"
[roles.gate]
mode = "enforce"
identity = {{ from = "dev", subject = "gate-*" }}
manifests = ["app"]
backend = {{ use = "gate", role = "payments" }}
ttl = "1m"
after_revocation = "retry"
[roles.other-gate]
mode = "enforce"
identity = {{ from = "dev", subject = "gate-*" }}
manifests = ["app"]
backend = {{ use = "gate", role = "payments" }}
ttl = "1m"
after_revocation = "retry"
[roles.observed-gate]
mode = "observe"
identity = {{ from = "dev", subject = "gate-*" }}
manifests = ["app"]
backend = {{ use = "gate", role = "payments" }}
ttl = "1m"
after_revocation = "retry"
"""


@dataclass
class Place:
    """A broker with a gate, and the Vault of a team."""

    broker: Broker
    ground: Ground
    bound: dict[str, Any] = field(default_factory=dict)
    """What the team's role asks of a token: everything that Lockstep says of an instance."""

    def bind(self, role: str, **changes: Any) -> None:
        """A role of the team's JWT login; `changes` ask for other claims."""
        self.ground.root.write(
            f"auth/gate/role/{role}",
            role_type="jwt",
            user_claim="sub",
            bound_audiences=[AUDIENCE],
            bound_claims={**self.bound, **changes},
            token_policies=["theirs"],
            token_no_default_policy=True,
            token_ttl="5m",
        )

    def login(self, token: str, role: str = "payments") -> Bao:
        """The API as a workload sees it that logged in with a token. Raises `tests.support.openbao.Refused`."""
        answer = self.ground.root.as_token("").write("auth/gate/login", role=role, jwt=token)
        return self.ground.root.as_token(answer["auth"]["client_token"])

    def believe(self) -> None:
        """The team's Vault trusts what the broker publishes."""
        url = f"{self.broker.http_url}/gate"
        self.ground.root.write(
            "auth/gate/config",
            jwks_url=f"{url}/jwks.json",
            jwks_ca_pem=self.broker.ca.read_text(),
            bound_issuer=url,
        )


@pytest.fixture(scope="module")
def place(openbao_server: OpenBao, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    from tests.support.vault_ground import lay_out

    folder = tmp_path_factory.mktemp("gate")
    ground = lay_out(openbao_server, folder / "vault")
    text = prepared(folder / "dev")
    kept_key(folder / "dev" / "gate.pem")
    text = text.replace("[keys]\n", '[keys]\ngate = "gate.pem"\n', 1)
    added = CONFIGURATION.format(
        address=ground.server.address,
        namespace=ground.namespace,
        ca=ground.server.ca,
        audience=AUDIENCE,
        **ground.approle(),
    )
    with serving(folder / "dev", text + added) as broker:
        manifest = publish(broker, envelope(broker, "app", "lib"))
        found = Place(broker, ground)
        ground.root.write("sys/auth/gate", type="jwt")
        found.believe()
        ground.mount("kv", "kv-v2")
        ground.root.write("kv/data/theirs", data={"key": "of the team"})
        ground.root.write(
            "sys/policies/acl/theirs", policy='path "kv/data/theirs" { capabilities = ["read"] }'
        )
        found.bound = {
            "lockstep_role": "gate",
            "lockstep_mode": "enforce",
            "lockstep_assurance": ["self", "witnessed"],
            "lockstep_manifests": [manifest.manifest.digest.hex()],
        }
        found.bind("payments")
        yield found


@pytest.fixture
def wire(place: Place) -> Iterator[Wire]:
    with Wire(place.broker.address, place.broker.ca) as connection:
        yield connection


def attested(place: Place, wire: Wire, subject: str, *code: str) -> Workload:
    workload = Workload(wire, place.broker.token(subject))
    workload.attest(*(code or ("app",)))
    return workload


def revoke(place: Place, workload: Workload) -> None:
    """Until everything is confirmed."""
    asked = ("revoke", "--attestation", workload.attestation_id, "--reason", "test", "--json")
    said = json.loads(place.broker.cli(*asked))
    place.broker.cli("receipts", said["revocation_id"], "--wait", "20")


def test_a_gate_token_opens_what_the_teams_policy_gives_and_revoked_nothing(place: Place, wire: Wire) -> None:
    from tests.support.openbao import Refused as AtVault

    workload, spared = attested(place, wire, "gate-a"), attested(place, wire, "gate-b")
    issued, other = workload.issue("gate"), spared.issue("gate")
    assert issued.parameters["login"] == "auth/gate/login"
    assert issued.lease.revocability == credential_pb2.REVOCABILITY_AT_TARGET
    theirs, others = place.login(issued.credential.token), place.login(other.credential.token)
    assert theirs.read("kv/data/theirs")["data"] == {"key": "of the team"}
    revoke(place, workload)
    with pytest.raises(AtVault) as refused:
        theirs.read("kv/data/theirs")
    assert refused.value.status == 403
    with pytest.raises(AtVault):
        place.login(issued.credential.token)
    assert others.read("kv/data/theirs")["data"] == {"key": "of the team"}
    assert place.login(spared.issue("gate").credential.token).read("kv/data/theirs")


@pytest.mark.parametrize("role", ["other-gate", "observed-gate"])
def test_a_token_of_another_role_or_mode_is_not_even_made(place: Place, wire: Wire, role: str) -> None:
    """The broker logs in first, with the same claims: what the team's role refuses, it does not hand out."""
    with pytest.raises(Refused) as refused:
        attested(place, wire, "gate-e").issue(role)
    assert refused.value.reason == "not_entitled"


@pytest.mark.parametrize(
    ("claim", "other"),
    [
        ("lockstep_role", "gate-of-others"),
        ("lockstep_mode", "observe"),
        ("lockstep_assurance", ["witnessed", "kernel"]),
        ("lockstep_manifests", ["00" * 32]),
    ],
)
def test_every_claim_that_is_bound_counts(place: Place, wire: Wire, claim: str, other: Any) -> None:
    """Each alone is asked for otherwise: the same token opens the one role and not the other."""
    from tests.support.openbao import Refused as AtVault

    place.bind("stricter", **{claim: other})
    token = attested(place, wire, "gate-f").issue("gate").credential.token
    assert place.login(token).read("kv/data/theirs")
    with pytest.raises(AtVault) as refused:
        place.login(token, "stricter")
    assert refused.value.status == 400
    assert f'claim "{claim}" does not match' in str(refused.value)


def test_a_gate_token_is_no_credential_anywhere_else(place: Place, wire: Wire) -> None:
    token = attested(place, wire, "gate-c").issue("gate").credential.token
    header, claims = jwt.get_unverified_header(token), jwt.decode(token, options={"verify_signature": False})
    assert header["typ"] == GATE_TYPE
    assert claims["iss"] == f"{place.broker.http_url}/gate"
    assert claims["aud"] == AUDIENCE
    assert claims["exp"] - claims["iat"] <= 60
    assert claims["sub"].startswith("A-")
    # The public keys of credentials do not verify it.
    pool = urllib3.PoolManager(ca_certs=str(place.broker.ca), retries=False)
    keys = pool.request("GET", f"{place.broker.http_url}/.well-known/jwks.json", timeout=5.0).json()["keys"]
    gate = pool.request("GET", f"{place.broker.http_url}/gate/jwks.json", timeout=5.0).json()["keys"]
    assert header["kid"] in {key["kid"] for key in gate}
    assert header["kid"] not in {key["kid"] for key in keys}
    # As an operator's or a workload's identity it is nobody's.
    intruder = Workload(wire, token)
    with pytest.raises(Refused) as refused:
        intruder.attest("app")
    assert refused.value.reason == "identity_rejected"


def test_the_gates_key_is_rotated_by_a_reload(place: Place, wire: Wire) -> None:
    workload = attested(place, wire, "gate-d")
    before = workload.issue("gate").credential.token
    kept_key(place.broker.folder / "gate-next.pem")
    file = place.broker.folder / "serve.toml"
    text = file.read_text()
    file.write_text(text.replace('gate = "gate.pem"', 'gate = "gate-next.pem"', 1))
    assert place.broker.reload()
    after = workload.issue("gate").credential.token
    kids = {jwt.get_unverified_header(token)["kid"] for token in (before, after)}
    assert len(kids) == 2
    place.believe()  # asked anew at once, as after its cache has ended
    assert place.login(after).read("kv/data/theirs")
    file.write_text(text)
    assert place.broker.reload()
    place.believe()
