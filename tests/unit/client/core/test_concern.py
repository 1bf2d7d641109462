"""Which of the things held a log entry takes away."""

from __future__ import annotations

import dataclasses
import datetime as dt

import pytest

from lockstep.v1 import revocation_pb2
from lockstep_client.concern import EVERYTHING, taken_by
from lockstep_client.holding import Attestation, Held

AS_OF = 9
THUMBPRINT = b"t" * 32
ATTESTATION = Attestation(
    id="A-1",
    decision="D-1",
    status="affirming",
    assurance="self",
    expires_at=dt.datetime.now(dt.UTC),
    roles={},
    as_of=AS_OF,
    ends=0.0,
    lifetime=60.0,
)
HELD = Held(
    lease_id="L-1",
    role="db",
    mode="enforce",
    decision="D-2",
    revocability="instant",
    possession_required=False,
    renewable=True,
    expires_at=dt.datetime.now(dt.UTC),
    ends=0.0,
    lifetime=60.0,
    token=None,
    fields={},
    parameters={},
)
OTHER = dataclasses.replace(HELD, lease_id="L-2", role="queue")


def taken(seq: int, *, cut: bool = True, **target: str | bytes) -> str:
    """By an entry at a place of the log."""
    event = revocation_pb2.RevocationEvent(
        kind=revocation_pb2.EVENT_KIND_REVOKED,
        cut=cut,
        position=revocation_pb2.LogPosition(seq=seq),
        selector=revocation_pb2.Selector(**target),  # type: ignore[arg-type]
    )
    return taken_by(event, ATTESTATION, THUMBPRINT, (HELD, OTHER))


@pytest.mark.parametrize("seq", [1, AS_OF, AS_OF + 1])
def test_a_lease_is_taken_whatever_its_attestation_has_outlived(seq: int) -> None:
    assert taken(seq, lease_id="L-1") == "db"
    assert taken(seq, lease_id="L-2") == "queue"
    assert taken(seq, lease_id="L-3") == ""
    assert taken(seq, cut=False, lease_id="L-1") == ""


def test_what_was_known_at_the_grant_takes_nothing_else() -> None:
    for target in ({"identity": "iss|me"}, {"node": "n"}, {"digest": b"d" * 32}):
        assert taken(AS_OF, **target) == ""
        assert taken(AS_OF + 1, **target) == EVERYTHING
