"""`verify` raises what it says that it raises, whatever it is shown; and no key can use up what is there for all."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jwt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lockstep.formats import b64url
from lockstep.v1 import revocation_pb2 as rv
from lockstep_client import Denied, Revoked, Unavailable
from lockstep_client.messages import InstanceKey
from lockstep_client.settings import Settings
from lockstep_client.verify import TokenVerifier
from lockstep_client.verify.dpop import WINDOW, Proofs
from tests.fakes.broker import FakeBroker
from tests.fakes.clock import START
from tests.fakes.introspection import IntrospectionServer
from tests.fakes.tls import ServerFiles
from tests.unit.client.core.conftest import ISSUER, URL, Signer, refusal

ROOT = Path(__file__).resolve().parents[4]


class Holder:
    """Has a key, and a token that is bound to it."""

    def __init__(self, signer: Signer) -> None:
        self.key = InstanceKey.generate()
        self.token = signer.token(cnf={"jkt": b64url(self.key.thumbprint)})
        self.claims: dict[str, Any] = {
            "jti": "j" * 20,
            "htm": "GET",
            "htu": URL,
            "iat": int(START),
            "ath": b64url(hashlib.sha256(self.token.encode()).digest()),
        }

    def proof(self, header: dict[str, Any] | None = None, **changed: Any) -> str:
        headers = {"typ": "dpop+jwt", "jwk": dict(self.key.jwk)} | (header or {})
        return jwt.encode(self.claims | changed, self.key._key(), "ES256", headers=headers)


@pytest.mark.parametrize(
    "changed",
    [
        {"ath": "é"},
        {"ath": "\ud800"},
        {"jti": "\ud800"},
        {"jti": ["j"]},
        {"htm": "\ud800"},
        {"htu": "https://[x"},
        {"htu": "https://x:99999999/"},
        {"htu": "\ud800"},
        {"iat": 1e300},
        {"iat": None},
    ],
    ids=ascii,
)
def test_a_proof_that_says_something_odd_is_refused(
    offline: TokenVerifier, signer: Signer, changed: dict[str, Any]
) -> None:
    holder = Holder(signer)
    with pytest.raises(Denied) as caught:
        offline.verify(holder.token, dpop=holder.proof(**changed), method="GET", url=URL)
    assert caught.value.reason == "proof_rejected"


@pytest.mark.parametrize("name", ["sub", "jti", "iss", "role", "mode", "node", "lease"])
def test_half_a_character_is_none(offline: TokenVerifier, signer: Signer, name: str) -> None:
    changed = {name: "\ud800"} if name in ("sub", "jti", "iss") else {"facts": {name: "\ud800"}}
    with pytest.raises(Denied, match=name if name != "iss" else "iss"):
        offline.verify(signer.token(**changed))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
words = st.sampled_from(
    ["EC", "OKP", "RSA", "oct", "P-256", "P-521", "Ed25519", "X25519", "AQAB", "AA", "sig", "é", ""]
)
keys = st.dictionaries(
    st.sampled_from(["kty", "crv", "x", "y", "n", "e", "alg", "use", "kid", "d", "k", "x5c"]),
    words | json_values,
)


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    key=keys | json_values,
    claim=st.sampled_from(["jti", "htm", "htu", "iat", "ath", "exp"]),
    value=json_values,
)
def test_whatever_a_proof_is_made_of(
    offline: TokenVerifier, signer: Signer, key: object, claim: str, value: object
) -> None:
    holder = Holder(signer)
    try:
        proof = holder.proof({"jwk": key}, **{claim: value})
        odd = holder.proof(**{claim: value})
    except (ValueError, TypeError):
        return  # nothing that a JWT can carry
    for shown in (proof, odd):
        try:
            offline.verify(holder.token, dpop=shown, method="GET", url=URL)
        except (Denied, Unavailable):
            pass


def test_that_the_broker_does_not_want_us_says_nothing_about_the_token(
    live: TokenVerifier, signer: Signer, broker: FakeBroker, introspection: IntrospectionServer
) -> None:
    broker.append(rv.RevocationEvent(kind=rv.EVENT_KIND_INTROSPECT, selector=rv.Selector(digest=b"x" * 32)))
    introspection.active = False
    token = signer.token()
    refusal(lambda: live.verify(token), Revoked, 5)
    for status in (401, 403):
        introspection.status = status
        with pytest.raises(Unavailable, match="refuses us"):
            live.verify(token)


# --- one memory for all keys --------------------------------------------------------------------------------


class Use:
    """A memory of proofs, and keys that use it. `clock` in seconds, both ways."""

    def __init__(self, most: int) -> None:
        self.proofs = Proofs(most)
        self.steady = 0.0
        self.wall = START

    def by(self, key: InstanceKey, proof: str | None = None) -> str:
        shown = proof or key.dpop(
            method="GET", url=URL, token_hash=b64url(hashlib.sha256(b"t").digest()), issued_at=self.wall
        )
        self.proofs.check(
            shown,
            token="t",
            thumbprint=key.thumbprint,
            method="GET",
            url=URL,
            now=self.wall,
            steady=self.steady,
        )
        return shown

    def fill(self, key: InstanceKey) -> int:
        """How many until it is refused."""
        count = 0
        while True:
            try:
                self.by(key)
            except Unavailable:
                return count
            count += 1


def test_no_key_can_keep_others_out() -> None:
    use = Use(60)
    greedy = [InstanceKey.generate() for _ in range(4)]
    took = [use.fill(key) for key in greedy]
    assert took[0] == 30  # alone: half
    assert sum(took) < 60
    assert use.fill(InstanceKey.generate()) > 0
    use.steady = use.wall = 2 * WINDOW
    use.wall += START
    assert use.fill(greedy[0]) == 30  # everything before was forgotten


def test_a_wall_clock_that_jumps_ahead_and_back_forgets_no_proof() -> None:
    use, key = Use(60), InstanceKey.generate()
    used = use.by(key)
    use.wall += 90_000
    use.by(InstanceKey.generate())
    use.wall -= 90_000
    with pytest.raises(Denied, match="used before"):
        use.by(key, used)


def test_who_was_revoked_uses_up_no_memory(live: TokenVerifier, signer: Signer, broker: FakeBroker) -> None:
    """The denial comes first: otherwise the second use of a proof would be what is refused."""
    holder = Holder(signer)
    proof = holder.proof()
    broker.revoke(rv.Selector(instance_key=holder.key.thumbprint))
    broker.wait_until(lambda: 6 in broker.acknowledged)
    for _ in range(2):
        with pytest.raises(Revoked):
            live.verify(holder.token, dpop=proof, method="GET", url=URL)


# --- forks --------------------------------------------------------------------------------------------------

FORKED = """
import os, signal, sys
from lockstep_client.settings import load
from lockstep_client.verify import TokenVerifier
from tests.unit.client.core.conftest import ISSUER, Clock

jwks, token = sys.argv[1:]
it = TokenVerifier(audience="pay-api", issuer=ISSUER, jwks=jwks, settings=load(), clock=Clock())
it.wait_ready(10)
print("parent", it.ready, it.verify(token).lease, flush=True)
pid = os.fork()
if pid == 0:
    signal.alarm(20)
    print("child", it.ready, flush=True)
    print("child", it.verify(token).lease, it.ready, flush=True)
    os._exit(0)
_, status = os.waitpid(pid, 0)
print(os.waitstatus_to_exitcode(status), it.verify(token).lease, flush=True)
it.close()
"""


def test_a_forked_child_is_not_ready_until_it_hears(
    signer: Signer, broker: FakeBroker, tls: ServerFiles, tmp_path: Path
) -> None:
    identity = tmp_path / "server.jwt"
    identity.write_text("resource.server.jwt")
    configured = Settings(
        address=broker.address, ca_file=str(tls.ca_file), identity_token_file=str(identity), http_url=ISSUER
    )
    script = tmp_path / "program.py"
    script.write_text(FORKED)
    result = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), str(signer.jwks), signer.token(facts={"as_of": 0})],
        env={**os.environ, **configured.environment(), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert result.stdout.splitlines() == ["parent True L-1", "child False", "child L-1 True", "0 L-1"], (
        result.stderr
    )


def test_a_child_whose_feed_is_refused_does_not_blame_the_token(
    signer: Signer, broker: FakeBroker, tls: ServerFiles, tmp_path: Path
) -> None:
    identity = tmp_path / "server.jwt"
    identity.write_text("resource.server.jwt")
    configured = Settings(
        address=broker.address, ca_file=str(tls.ca_file), identity_token_file=str(identity), http_url=ISSUER
    )
    script = tmp_path / "program.py"
    script.write_text(
        FORKED.replace(
            'print("child", it.ready, flush=True)', f"open({str(identity)!r}, 'w').write('stranger')"
        )
    )
    result = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), str(signer.jwks), signer.token(facts={"as_of": 0})],
        env={**os.environ, **configured.environment(), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert "errors.Unavailable: revocations are not known" in result.stderr
