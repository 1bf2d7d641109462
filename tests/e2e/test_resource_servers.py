"""Who checks our tokens: offline with the feed, by introspection, with proof of possession; closed when in doubt."""

from __future__ import annotations

import base64
import hashlib
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lockstep.formats import b64url
from lockstep.v1 import credential_pb2, revocation_pb2
from lockstep_client.clock import SystemClock
from lockstep_client.errors import Denied, Revoked, Unavailable
from lockstep_client.messages import InstanceKey, fresh_id
from lockstep_client.operator import Operator
from lockstep_client.verify import TokenVerifier
from tests.support.actors import acting, until
from tests.support.brokers import Broker
from tests.support.doors import ask, post_form
from tests.support.manifests import unit
from tests.support.relay import Relay
from tests.support.wire import ISSUE, Refused, Wire, Workload, envelope, publish

HERE = Path(__file__).parent
URL = "https://orders.example/orders"
GIVE_BACK = "/lockstep.v1.CredentialService/RevokeLease"


class Ahead:
    """A clock that a test can put forward."""

    def __init__(self) -> None:
        self._real = SystemClock()
        self.ahead = 0.0

    def steady(self) -> float:
        return self._real.steady() + self.ahead

    def wall(self) -> float:
        return self._real.wall() + self.ahead


@pytest.fixture(scope="module")
def verifier(broker: Broker) -> Iterator[TokenVerifier]:
    """Of the audience ``dev``, with the feed."""
    with TokenVerifier(audience="dev", settings=broker.settings("dev-resource-server")) as checks:
        checks.wait_ready(10)
        yield checks


@pytest.fixture(scope="module")
def operator(broker: Broker) -> Iterator[Operator]:
    """The folder's operator."""
    with Operator(broker.operator_settings()) as connection:
        yield connection


def granted(wire: Wire, broker: Broker, subject: str, role: str = "app", *code: str) -> tuple[Workload, str]:
    """An instance and its token."""
    workload = Workload(wire, broker.token(subject))
    workload.attest(*(code or ("app",)), roles=[role])
    return workload, workload.issue(role).credential.token


def refused_by(verifier: TokenVerifier, token: str) -> Denied | None:
    """Why a token is refused; None while it is not."""
    try:
        verifier.verify(token)
    except Denied as error:
        return error
    return None


class TestOffline:
    """`TokenVerifier`."""

    def test_a_token_says_who_and_what(self, broker: Broker, wire: Wire, verifier: TokenVerifier) -> None:
        workload, token = granted(wire, broker, "app-verified")

        found = verifier.verify(token)

        assert found.subject.endswith("|app-verified")
        assert (found.role, found.mode, found.assurance) == ("app", "enforce", "self")
        assert found.attestation == workload.attestation_id
        assert found.manifests

    def test_a_revocation_is_known_within_a_second(
        self, broker: Broker, wire: Wire, verifier: TokenVerifier, operator: Operator
    ) -> None:
        workload, token = granted(wire, broker, "app-quick")
        _, other = granted(wire, broker, "app-untouched")
        verifier.verify(token)

        selector = revocation_pb2.Selector(attestation_id=workload.attestation_id)
        answer = operator.revoke(selector, reason="told so")

        error = until(lambda: refused_by(verifier, token), "the token is refused", within=1.0, pause=0.002)
        assert isinstance(error, Revoked)
        assert error.decision in ("", answer.decision_id)
        verifier.verify(other)

    def test_code_that_is_banned_takes_its_tokens_with_it(
        self, broker: Broker, wire: Wire, verifier: TokenVerifier, operator: Operator
    ) -> None:
        publish(broker, envelope(broker, "app", "special", version=2))
        _, hit = granted(wire, broker, "app-special", "app", "app", "special")
        _, spared = granted(wire, broker, "app-plain")

        operator.revoke(revocation_pb2.Selector(digest=unit("special").digest), reason="CVE")

        until(lambda: refused_by(verifier, hit), "the token of who has loaded it", within=2.0)
        until(lambda: refused_by(verifier, spared) is None, "the token of who has not", within=2.0)
        with pytest.raises(Refused) as refused:
            granted(wire, broker, "app-special-again", "app", "app", "special")
        assert refused.value.reason == "banned"

    def test_what_is_not_for_it_is_refused(self, broker: Broker, wire: Wire, verifier: TokenVerifier) -> None:
        _, token = granted(wire, broker, "elsewhere-one", "elsewhere")
        head, body, signature = granted(wire, broker, "app-forged")[1].split(".")
        claims = json.loads(base64.urlsafe_b64decode(body + "=="))
        raised = b64url(json.dumps({**claims, "exp": claims["exp"] + 3600}).encode())

        for bad in (token, f"{head}.{raised}.{signature}", f"{head}.{body}.", "", "a.b.c", token[:-2]):
            with pytest.raises(Denied):
                verifier.verify(bad)
        # An identity token is no credential, whoever signed it.
        with pytest.raises(Denied):
            verifier.verify(broker.token("app-forged", aud="dev"))

    def test_an_observed_token_can_be_refused(
        self, broker: Broker, wire: Wire, verifier: TokenVerifier
    ) -> None:
        _, token = granted(wire, broker, "seen-token", "seen", "nobody approved this")
        assert verifier.verify(token).mode == "observe"

        settings = broker.settings("dev-resource-server")
        with TokenVerifier(audience="dev", observed="refuse", feed=False, settings=settings) as strict:
            with pytest.raises(Denied) as denied:
                strict.verify(token)
            assert denied.value.reason == "not_entitled"
            strict.verify(granted(wire, broker, "app-strict")[1])

    def test_it_fails_closed_when_it_is_deaf(self, broker: Broker, wire: Wire) -> None:
        _, token = granted(wire, broker, "app-deaf")
        clock = Ahead()
        with Relay(broker.ports["tls"]) as relay:
            settings = replace(broker.settings("dev-resource-server"), address=relay.address)
            with TokenVerifier(audience="dev", settings=settings, clock=clock) as checks:
                checks.wait_ready(10)
                checks.verify(token)
                relay.cut()
                checks.verify(token)

                clock.ahead += 6.5

                with pytest.raises(Unavailable) as unavailable:
                    checks.verify(token)
                assert unavailable.value.reason == "state_unavailable"
                assert not checks.ready
                relay.mend()
                until(lambda: checks.ready, "it hears again", within=10)
                checks.verify(token)

    def test_nobody_who_is_no_resource_server_may_listen(self, broker: Broker) -> None:
        with TokenVerifier(audience="dev", settings=broker.settings("app-listens")) as checks:
            with pytest.raises(Denied) as denied:
                checks.wait_ready(10)
            assert denied.value.reason == "not_entitled"


class TestPossession:
    """DPoP (RFC 9449): a token of a role with ``possession = "required"`` is worth nothing without its key."""

    @pytest.fixture
    def checks(self, broker: Broker) -> Iterator[TokenVerifier]:
        with TokenVerifier(audience="bound", settings=broker.settings("rs-bound")) as made:
            made.wait_ready(10)
            yield made

    @staticmethod
    def proof(key: InstanceKey, token: str, method: str = "POST", url: str = URL, at: float = 0.0) -> str:
        return key.dpop(
            method=method,
            url=url,
            token_hash=b64url(hashlib.sha256(token.encode()).digest()),
            issued_at=time.time() + at,
        )

    def test_the_key_counts(self, broker: Broker, wire: Wire, checks: TokenVerifier) -> None:
        workload, token = granted(wire, broker, "bound-one", "bound")
        _, other = granted(wire, broker, "bound-two", "bound")
        proof = self.proof(workload.key, token)

        with pytest.raises(Denied) as denied:
            checks.verify(token)
        assert denied.value.reason == "proof_rejected"
        checks.verify(token, dpop=proof, method="POST", url=URL)

        for bad in (
            proof,  # once only
            self.proof(InstanceKey.generate(), token),
            self.proof(workload.key, other),
            self.proof(workload.key, token, method="GET"),
            self.proof(workload.key, token, url="https://orders.example/other"),
            self.proof(workload.key, token, at=-120),
            self.proof(workload.key, token, at=120),
            "junk",
        ):
            with pytest.raises(Denied) as denied:
                checks.verify(token, dpop=bad, method="POST", url=URL)
            assert denied.value.reason == "proof_rejected"

    def test_the_sdk_makes_the_headers(self, broker: Broker, checks: TokenVerifier) -> None:
        env = {**broker.env("proven-one"), "WORKER_ROLE": "proven"}
        with acting("worker", [sys.executable, str(HERE / "programs" / "worker.py")], env) as worker:
            worker.hear("ready")
            headers = worker.ask("headers", "POST", URL)["headers"]
            scheme, _, token = headers["Authorization"].partition(" ")
            assert scheme == "DPoP"
            found = checks.verify(token, dpop=headers["DPoP"], method="POST", url=URL)
            assert found.key_thumbprint
            # What a thief of the header has is not enough for a second use.
            with pytest.raises(Denied):
                checks.verify(token, dpop=headers["DPoP"], method="POST", url=URL)

    def test_a_bearer_token_can_be_refused(self, broker: Broker, wire: Wire) -> None:
        settings = broker.settings("dev-resource-server")
        with (
            TokenVerifier(audience="dev", possession="required", feed=False, settings=settings) as strict,
            pytest.raises(Denied) as denied,
        ):
            strict.verify(granted(wire, broker, "app-bearer")[1])
        assert denied.value.reason == "proof_rejected"


class TestIntrospection:
    """RFC 7662."""

    def test_a_resource_server_of_the_audience_learns_of_it(self, broker: Broker, wire: Wire) -> None:
        workload, token = granted(wire, broker, "app-asked")

        answer = post_form(broker, "/v1/introspect", broker.token("dev-resource-server"), token=token)

        assert answer.status == 200
        assert answer.body["active"] is True
        assert answer.body["token_type"] == "Bearer"
        assert answer.body["lockstep_mode"] == "enforce"
        assert answer.body["sub"].endswith("|app-asked")
        assert answer.headers["cache-control"] == "no-store"
        assert workload.attestation_id in json.dumps(answer.body)

    def test_another_audience_or_a_dead_token_is_inactive(
        self, broker: Broker, wire: Wire, operator: Operator
    ) -> None:
        workload, token = granted(wire, broker, "app-inactive")
        mine, stranger = broker.token("dev-resource-server"), broker.token("rs-elsewhere")

        assert post_form(broker, "/v1/introspect", stranger, token=token).body == {"active": False}
        assert post_form(broker, "/v1/introspect", mine, token="junk").body == {"active": False}
        assert post_form(broker, "/v1/introspect", mine, token=token).body["active"] is True
        selector = revocation_pb2.Selector(attestation_id=workload.attestation_id)
        operator.revoke(selector, reason="told so")
        # The answer of the revocation came after it counted: no waiting here.
        assert post_form(broker, "/v1/introspect", mine, token=token).body == {"active": False}

    def test_who_may_not_ask_is_told_so(self, broker: Broker, wire: Wire) -> None:
        _, token = granted(wire, broker, "app-nosy")

        nobody = post_form(broker, "/v1/introspect", token=token)
        workload = post_form(broker, "/v1/introspect", broker.token("app-nosy"), token=token)
        forged = post_form(broker, "/v1/introspect", broker.token("dev-operator", aud="other"), token=token)

        assert (nobody.status, nobody.body["error"]) == (401, "no_identity")
        assert (workload.status, workload.body["error"]) == (403, "not_entitled")
        assert (forged.status, forged.body["error"]) == (401, "identity_rejected")


class TestHoldersRevoke:
    """RFC 7009."""

    def test_a_holder_gives_its_token_back(self, broker: Broker, wire: Wire, verifier: TokenVerifier) -> None:
        _, token = granted(wire, broker, "app-giver")
        verifier.verify(token)

        # Somebody else's word changes nothing, and does not tell whether there was such a token.
        stranger = post_form(broker, "/v1/revoke", broker.token("app-taker"), token=token)
        assert (stranger.status, stranger.body) == (200, {})
        assert refused_by(verifier, token) is None

        holder = post_form(broker, "/v1/revoke", broker.token("app-giver"), token=token)
        assert (holder.status, holder.body) == (200, {})
        until(lambda: refused_by(verifier, token), "the token is refused", within=1.0, pause=0.002)
        mine = broker.token("dev-resource-server")
        assert post_form(broker, "/v1/introspect", mine, token=token).body == {"active": False}

    def test_a_lease_that_is_given_back_is_refused_offline(
        self, broker: Broker, wire: Wire, verifier: TokenVerifier
    ) -> None:
        workload, kept = granted(wire, broker, "app-returning")
        given = workload.issue("app")
        assert refused_by(verifier, given.credential.token) is None
        request = credential_pb2.RevokeLeaseRequest(
            attestation_id=workload.attestation_id, lease_id=given.lease.lease_id
        )

        workload.call(GIVE_BACK, request, credential_pb2.RevokeLeaseResponse)

        error = until(lambda: refused_by(verifier, given.credential.token), "it is refused", within=1.0)
        assert isinstance(error, Revoked)
        # The instance and what else it holds are as they were.
        assert refused_by(verifier, kept) is None
        assert refused_by(verifier, workload.issue("app").credential.token) is None

    def test_a_request_that_comes_again_takes_its_first_token_back(
        self, broker: Broker, wire: Wire, verifier: TokenVerifier
    ) -> None:
        workload, kept = granted(wire, broker, "app-retrying")
        request = credential_pb2.IssueCredentialRequest(
            attestation_id=workload.attestation_id, role="app", request_id=fresh_id()
        )

        first, second = (
            workload.call(ISSUE, request, credential_pb2.IssueCredentialResponse).credential.token
            for _ in range(2)
        )

        error = until(lambda: refused_by(verifier, first), "the first is refused", within=1.0)
        assert isinstance(error, Revoked)
        assert refused_by(verifier, second) is None
        assert refused_by(verifier, kept) is None

    def test_what_is_no_token_is_fine(self, broker: Broker) -> None:
        answer = post_form(broker, "/v1/revoke", broker.token("app-any"), token="no token at all")
        assert (answer.status, answer.body) == (200, {})


def test_discovery_leads_to_the_keys(broker: Broker) -> None:
    document = ask(broker, "GET", "/.well-known/openid-configuration").body
    assert document["issuer"] == broker.http_url
    keys = ask(broker, "GET", document["jwks_uri"].removeprefix(broker.http_url)).body["keys"]
    assert keys
    assert not any("d" in key or "k" in key for key in keys)
