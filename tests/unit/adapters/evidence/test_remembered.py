"""Sets that were read before: the same answer as reading them, and no more of them than there is room for."""

from __future__ import annotations

import asyncio

import pytest

from broker.adapters.evidence.remembered import RememberedSets
from broker.adapters.evidence.sdk import EvidenceLimits, SdkEvidence
from broker.errors import Denied, InvalidRequest
from broker.model.evidence import Evidence, Unit
from lockstep.formats import UnitKind
from lockstep.v1 import evidence_pb2 as pb
from tests.unit.adapters.evidence.test_sdk_evidence import DIGESTS, KEY, NONCE, NOW, sealed, statement

UNITS = frozenset(Unit(UnitKind.MODEL, bytes((number,)) * 32) for number in range(9))


def read(plug: SdkEvidence, told: pb.EvidenceStatement) -> Evidence:
    return asyncio.run(plug.verify(sealed(told), KEY, NONCE, NOW))


def test_the_same_set_is_read_once() -> None:
    plug = SdkEvidence()
    first, second = read(plug, statement()), read(plug, statement())
    assert first.units is second.units
    assert first == second


def test_what_is_remembered_does_not_excuse_what_looks_like_it() -> None:
    plug = SdkEvidence()
    read(plug, statement())
    moved = statement()
    joined = b"".join(moved.units[0].digests)
    del moved.units[0].digests[:]
    # The same bytes, cut elsewhere.
    moved.units[0].digests.extend(
        [joined[:31], joined[31:64], *(joined[at : at + 32] for at in range(64, len(joined), 32))]
    )
    with pytest.raises(InvalidRequest, match="SHA-256"):
        read(plug, moved)
    other_kind = statement()
    other_kind.units[0].kind = pb.UNIT_KIND_SCRIPT
    with pytest.raises(Denied, match="code set"):
        read(plug, other_kind)


def test_what_was_refused_is_refused_again() -> None:
    plug = SdkEvidence()
    for _ in range(2):
        with pytest.raises(InvalidRequest, match="ascending"):
            read(plug, statement(list(reversed(DIGESTS))))


def test_a_plug_without_room_reads_every_time() -> None:
    plug = SdkEvidence(EvidenceLimits(remembered=0))
    first, second = read(plug, statement()), read(plug, statement())
    assert first.units is not second.units
    assert first == second


def test_the_oldest_goes_where_there_is_no_more_room() -> None:
    kept = RememberedSets(units=25)  # two of nine and one over
    for name in (b"a", b"b"):
        kept.keep((name,), UNITS, name)
    assert kept.get((b"a",)) == (UNITS, b"a")
    kept.keep((b"c",), UNITS, b"c")
    assert kept.get((b"b",)) is None
    assert kept.get((b"a",)) == (UNITS, b"a")
    kept.keep(
        (b"large",), frozenset(Unit(UnitKind.MODEL, bytes((number,)) * 32) for number in range(30)), b""
    )
    assert kept.get((b"large",)) is None
    assert kept.get((b"c",)) is not None
