"""What is renewed, and what is not, in bad weather."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from lockstep_client import Denied, Unavailable
from lockstep_client.evidence import EvidenceSource
from lockstep_client.settings import Settings
from tests.fakes.broker import FakeBroker
from tests.unit.client.core.test_rotation import Rig

LIFE = 150.0


@pytest.fixture
def rig(broker: FakeBroker, settings: Settings, evidence: Callable[[], EvidenceSource]) -> Iterator[Rig]:
    broker.policy.lease_ttl = broker.policy.attestation_ttl = LIFE
    broker.policy.rotates = False
    found = Rig(settings, evidence())
    yield found
    found.transport.close()


def test_a_lease_that_was_taken_back_stays_so(broker: FakeBroker, rig: Rig) -> None:
    for role in ("one", "two"):
        rig.upkeep.credential(role)
    refusal = Denied("the lease was revoked", decision="D-9")
    rig.holding.lose("one", refusal)
    rig.holding.lose_all(Unavailable("silence"))
    with pytest.raises(Denied) as caught:
        rig.holding.get("one")
    assert caught.value.decision == "D-9"
    with pytest.raises(Unavailable):
        rig.holding.get("two")
    rig.upkeep.refresh()
    assert rig.lease("two")
    assert len(broker.requests["one"]) == 1
    with pytest.raises(Denied):
        rig.holding.get("one")
