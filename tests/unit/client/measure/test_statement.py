"""The statement that is sealed: whole sets, deltas and digests as the wire wants them."""

import pytest

from broker.model.evidence import CodeSet
from broker.model.evidence import Unit as BrokerUnit
from lockstep.formats import UnitKind
from lockstep.v1 import evidence_pb2
from lockstep_client.measure import (
    AnonymousCode,
    Measurement,
    UnitHint,
    UnknownCode,
    measure_self,
    statement,
)

FIRST = (UnitKind.PYTHON_SOURCE, b"\x01" * 32)
SECOND = (UnitKind.PYTHON_SOURCE, b"\x02" * 32)
THIRD = (UnitKind.SHARED_OBJECT, b"\x00" * 32)


def parsed(data: bytes) -> evidence_pb2.EvidenceStatement:
    return evidence_pb2.EvidenceStatement.FromString(data)


def broker_digest(*units: tuple[UnitKind, bytes]) -> bytes:
    return CodeSet.of(BrokerUnit(kind, digest) for kind, digest in units).digest


def test_a_whole_set_is_grouped_and_ascending() -> None:
    measurement = Measurement(frozenset({SECOND, THIRD, FIRST}))
    said = parsed(statement(measurement, b"nonce", b"t" * 32))
    assert (said.nonce, said.key_thumbprint, said.base_digest) == (b"nonce", b"t" * 32, b"")
    groups = {group.kind: list(group.digests) for group in said.units}
    assert groups == {
        evidence_pb2.UNIT_KIND_PYTHON_SOURCE: [FIRST[1], SECOND[1]],
        evidence_pb2.UNIT_KIND_SHARED_OBJECT: [THIRD[1]],
    }
    assert said.code_set_digest == broker_digest(FIRST, SECOND, THIRD)


def test_a_delta_names_its_base_and_the_whole() -> None:
    base = Measurement(frozenset({FIRST, SECOND}))
    grown = Measurement(
        frozenset({FIRST, THIRD}), hints=(UnitHint(FIRST[1], "/a", "a"), UnitHint(THIRD[1], "/c", "c"))
    )
    said = parsed(statement(grown, b"n", b"t", base))
    assert [list(group.digests) for group in said.units] == [[THIRD[1]]]
    assert [hint.path for hint in said.hints] == ["/c"]
    assert said.base_digest == broker_digest(FIRST, SECOND)
    assert said.code_set_digest == broker_digest(FIRST, SECOND, THIRD)


def test_what_is_unknown_is_said_every_time() -> None:
    base = Measurement(frozenset({FIRST}), unknown=(UnknownCode(None, "made", "by exec"),))
    said = parsed(statement(base, b"n", b"t", base))
    assert [(item.name, item.reason) for item in said.unknown] == [("made", "by exec")]
    assert said.code_set_digest == said.base_digest


def test_a_path_that_is_no_text_survives() -> None:
    odd = Measurement(frozenset({FIRST}), hints=(UnitHint(FIRST[1], "/tmp/\udcff", "x"),))
    assert parsed(statement(odd, b"n", b"t")).hints[0].path == "/tmp/\\udcff"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("plug\udcff", "plug\\udcff"),
        ("a\0b", "a\\x00b"),
        ("x" * 5000, "x" * 4096),
        ("\ud800" * 4096, "\\ud800" * 682 + "\\ud8"),
    ],
    ids=["no text", "a NUL", "over-long", "over-long once it is spelled out"],
)
def test_what_is_unknown_may_be_called_anything(name: str, shown: str) -> None:
    """A module that is made at run time chooses its own name: it must not keep the evidence from being sent."""
    odd = Measurement(
        frozenset({FIRST}),
        unknown=(UnknownCode(None, name, name),),
        anonymous=(AnonymousCode(4096, "r-xp", False, name),),
    )
    said = parsed(statement(odd, b"n", b"t"))
    assert {said.unknown[0].name, said.unknown[0].reason, said.anonymous[0].name} == {shown}


def test_a_measurement_keeps_what_its_base_had() -> None:
    base = Measurement(frozenset({FIRST}))
    assert FIRST in measure_self(base=base).units


@pytest.mark.parametrize("hints", [True, False])
def test_the_same_measurement_gives_the_same_bytes(hints: bool) -> None:
    measurement = measure_self()
    once = statement(measurement, b"n", b"t", hints=hints)
    assert once == statement(measurement, b"n", b"t", hints=hints)
    assert bool(parsed(once).hints) == hints
