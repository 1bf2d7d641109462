"""What is not stopped, shown against a real broker, so that docs/threat-model.md stays honest.

Each of these is a miss that is known and said. One that fails here is good news, and a page to change.
"""

from __future__ import annotations

from lockstep.v1 import attestation_pb2, revocation_pb2
from lockstep_client.operator import Operator
from lockstep_client.verify import TokenVerifier
from tests.support.brokers import Broker
from tests.support.wire import Wire, Workload


def test_a_lying_workload_is_believed_at_self(broker: Broker, wire: Wire) -> None:
    """This process runs a test suite and says that it runs what was approved. A role that enforces grants."""
    liar = Workload(wire, broker.token("app-liar"))
    liar.attest("app", roles=["app"])
    granted = liar.issue("app")
    assert granted.credential.token
    assert granted.lease.mode == attestation_pb2.MODE_ENFORCE


def test_a_copied_identity_token_is_good_elsewhere_at_self(broker: Broker, wire: Wire) -> None:
    """Nothing in it says whose process it is: its owner and a thief, with keys of their own, get a credential each."""
    token = broker.token("app-copied")
    owner = Workload(wire, token)
    owner.attest("app", roles=["app"])
    with Wire(broker.address, broker.ca) as elsewhere:
        thief = Workload(elsewhere, token)
        thief.attest("app", roles=["app"])
        assert thief.issue("app").credential.token
    assert owner.issue("app").credential.token


def test_a_verifier_without_the_feed_believes_a_revoked_token(broker: Broker, wire: Wire) -> None:
    """Until it expires: a signature says what was true when it was made."""
    workload = Workload(wire, broker.token("app-believed"))
    workload.attest("app", roles=["app"])
    token = workload.issue("app").credential.token
    with Operator(broker.operator_settings()) as operator:
        selector = revocation_pb2.Selector(attestation_id=workload.attestation_id)
        operator.revoke(selector, reason="nobody tells it")
    with TokenVerifier(audience="dev", settings=broker.settings("dev-resource-server"), feed=False) as deaf:
        assert deaf.verify(token).attestation == workload.attestation_id
