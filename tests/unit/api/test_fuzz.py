"""Whatever a message holds, a room answers it or refuses it by the table: nothing else ever escapes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.api.access import GRPC, Who
from broker.api.arrival import Call
from broker.api.attestation import AttestationRoom
from broker.api.credentials import CredentialRoom
from broker.api.decisions import DecisionRoom
from broker.api.duplex import parse
from broker.api.manifests import ManifestRoom
from broker.api.revocations import RevocationRoom
from broker.api.routes import Unary
from broker.errors import LockstepError, NotFound
from broker.model.caller import OperatorCaller, ProofUse, WorkloadCaller
from broker.model.identity import IdentityMatch, WorkloadIdentity
from broker.model.role import Operator
from lockstep.v1 import detection_pb2, evidence_pb2, revocation_pb2

RIGHTS = frozenset({"revoke:*", "read", "publish", "retire", "withdraw", "lower", "lift", "explain"})
OPERATOR = OperatorCaller(
    WorkloadIdentity("oidc", "https://issuer.example", "ann", 2e9),
    (Operator("ann", IdentityMatch("oidc", subject="ann"), RIGHTS),),
)
PROOF = ProofUse(b"t" * 32, "jti", 2e9)

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
_SIMPLE: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.CPPTYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: st.integers(-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: st.integers(0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: st.integers(0, 2**64 - 1),
    FieldDescriptor.CPPTYPE_DOUBLE: st.floats(),
    FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
}


def values(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
        return messages(field.message_type)
    if field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        return st.sampled_from([value.number for value in field.enum_type.values] + [99])
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        if field.type == FieldDescriptor.TYPE_BYTES:
            return st.sampled_from([b"", b"x" * 31, b"x" * 32, b"\x00" * 32, b"x" * 33])
        return _TEXT | st.sampled_from(["x" * 129, "x" * 5000, "a\x00b", "\u202e", "ok"])
    return _SIMPLE[field.cpp_type]


@st.composite
def messages(draw: st.DrawFn, descriptor: Descriptor) -> Message:
    """Any message of a type; fields come and go."""
    message = GetMessageClass(descriptor)()
    for field in descriptor.fields:
        if draw(st.booleans()):
            continue
        target = getattr(message, field.name)
        if field.is_repeated:
            target.extend(draw(st.lists(values(field), max_size=3)))
        elif field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
            target.CopyFrom(draw(values(field)))
        else:
            setattr(message, field.name, draw(values(field)))
    return message


class Nothing:
    """Every verb in one: reached with whatever passed the door, it knows of nothing."""

    def challenge(self, spki: bytes) -> tuple[bytes, float]:
        assert spki
        return b"nonce", 30.0

    async def list(self, *_: Any) -> AsyncIterator[Any]:
        for nothing in ():
            yield nothing

    def __getattr__(self, name: str) -> Any:
        async def verb(*_: Any, **__: Any) -> Any:
            raise NotFound("nothing here")

        return verb


class Straight:
    """A crew that just works."""

    async def see_through(self, what: str, work: Any) -> Any:
        return await work()


def routes() -> dict[str, Unary]:
    nothing: Any = Nothing()
    rooms = (
        AttestationRoom(nothing),
        CredentialRoom(nothing, Straight()),  # type: ignore[arg-type]
        DecisionRoom(nothing),
        ManifestRoom(nothing, nothing),
        RevocationRoom(nothing, nothing, nothing),
    )
    found = {}
    for room in rooms:
        for name, route in room.routes().items():
            if isinstance(route, Unary):
                found[name] = route
    return found


ROUTES = routes()


@pytest.mark.parametrize("name", sorted(ROUTES))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
async def test_any_message_is_answered_or_refused(name: str, data: st.DataObject) -> None:
    route = ROUTES[name]
    request = parse(route.request, data.draw(messages(route.request.DESCRIPTOR)).SerializeToString(), 10**7)
    named = route.named(request)
    assert isinstance(named.attestation_id, str)
    # Only whom the door lets through to this room.
    kinds = {Who.OPERATOR: OPERATOR, Who.WORKLOAD: WorkloadCaller(named.attestation_id, PROOF)}
    admitted = [caller for who, caller in kinds.items() if GRPC[name].admits(who)]
    caller: Any = data.draw(st.sampled_from(admitted or [None]))
    call: Any = Call(name, "192.0.2.1", 1.8e9, caller, PROOF)
    try:
        answer = await route.run(request, call)
    except LockstepError:
        return
    answer.SerializeToString()


@given(raw=st.binary(max_size=200))
def test_any_bytes_are_a_message_or_refused(raw: bytes) -> None:
    for kind in (evidence_pb2.EvidenceStatement, detection_pb2.ReportRequest, revocation_pb2.RevokeRequest):
        try:
            parse(kind, raw, 100)
        except LockstepError as error:
            # Nothing of the bytes is quoted.
            assert error.message in ("the message is malformed", "the message is larger than 100 bytes")  # noqa: PT017
