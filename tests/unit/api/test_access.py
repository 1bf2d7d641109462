"""The access table has every method of every service, and nothing that no service has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from broker.api.access import GRPC, HTTP, Row, Size, Who
from broker.api.limits import Limits
from broker.api.routes import Stream
from lockstep.v1 import (
    attestation_pb2,
    credential_pb2,
    decision_pb2,
    detection_pb2,
    manifest_pb2,
    oversight_pb2,
    revocation_pb2,
)
from tests.unit.api.porch import call, porch

OURS = (
    attestation_pb2,
    credential_pb2,
    decision_pb2,
    detection_pb2,
    manifest_pb2,
    oversight_pb2,
    revocation_pb2,
)
IDENTIFIED = {Who.OPERATOR, Who.RESOURCE_SERVER, Who.DETECTOR, Who.IDENTITY}


def methods(*files: object) -> dict[str, object]:
    """Full method to its descriptor."""
    found = {}
    for file in files:
        for service in file.DESCRIPTOR.services_by_name.values():  # type: ignore[attr-defined]
            for method in service.methods:
                found[f"/{service.full_name}/{method.name}"] = method
    return found


def test_every_method_has_a_row_and_every_row_a_method() -> None:
    known = methods(*OURS, health_pb2, reflection_pb2)
    assert known.keys() - GRPC.keys() == set()
    # The library serves reflection under its older name alone; the doors serve it under the newer one as well.
    assert GRPC.keys() - known.keys() == {"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"}


def test_rows_agree_with_the_descriptors() -> None:
    for name, method in methods(*OURS).items():
        row = GRPC[name]
        assert row.stream == (method.client_streaming and method.server_streaming), name  # type: ignore[attr-defined]
        assert not row.foreign


@pytest.mark.parametrize(("name", "row"), [*GRPC.items(), *HTTP.items()], ids=str)
def test_a_row_is_whole(name: object, row: Row) -> None:
    assert row.callers
    # Who needs a right says which; a right without an operator is a mistake.
    assert bool(row.right) == row.admits(Who.OPERATOR)
    if row.admits(Who.PUBLIC):
        assert row.callers == {Who.PUBLIC}
        assert not row.mutates
    if row.admits(Who.KEY_HOLDER):
        assert row.callers == {Who.KEY_HOLDER}
    if row.size is not Size.SMALL:
        assert row.mutates


def test_what_is_public_is_listed_here_too() -> None:
    """A slip in the table should need a second slip."""
    public = {
        str(name)
        for name, row in [*GRPC.items(), *HTTP.items()]
        if row.admits(Who.PUBLIC) and not row.foreign
    }
    assert public == {
        "/lockstep.v1.AttestationService/GetChallenge",
        "('GET', '/.well-known/jwks.json')",
        "('GET', '/.well-known/openid-configuration')",
        "('GET', '/gate/jwks.json')",
        "('GET', '/gate/.well-known/openid-configuration')",
        "('GET', '/metrics')",
        "('GET', '/healthz')",
        "('GET', '/readyz')",
    }


def test_every_size_has_a_limit_and_grpc_takes_the_largest() -> None:
    limits = Limits(small=1, evidence=2, manifest=3, webhook=4)
    assert [limits.size(size) for size in Size] == [1, 2, 3, 4]
    assert limits.largest == 3


async def test_every_row_is_served_by_the_right_kind_of_route(tmp_path: Path) -> None:
    async with porch(tmp_path) as found:
        ours = {name for name, row in GRPC.items() if not row.foreign}
        assert found.routes.keys() == ours
        for name, route in found.routes.items():
            assert isinstance(route, Stream) == GRPC[name].stream
            descriptor = methods(*OURS)[name]
            assert descriptor.input_type == route.request.DESCRIPTOR  # type: ignore[attr-defined]
        assert found.answers.keys() == HTTP.keys()


async def test_nobody_gets_past_any_method_without_credentials(tmp_path: Path) -> None:
    """Every method against a caller with nothing, with junk for a bearer, and with junk for a proof."""
    async with porch(tmp_path) as found:
        channel = found.channel()
        guest = await found.attested()
        for name, row in GRPC.items():
            if row.foreign or row.stream or row.admits(Who.PUBLIC):
                continue
            message: Any = found.routes[name].request()
            if "attestation_id" in message.DESCRIPTOR.fields_by_name:
                message.attestation_id = guest.id
            raw = message.SerializeToString()
            for metadata in ((), (("authorization", "Bearer junk"),), (("lockstep-proof", "a.b.c"),)):
                reply = await call(channel, name, raw, metadata)
                refused = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
                if metadata and metadata[0][0] == "lockstep-proof" and row.admits(Who.KEY_HOLDER):
                    refused = (grpc.StatusCode.INVALID_ARGUMENT,)
                assert reply.code in refused, (name, metadata, reply)
