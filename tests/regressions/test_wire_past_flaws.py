"""Flaws of gRPC servers, against a real broker; each named after where it was."""

from __future__ import annotations

import shutil
import socket
import ssl
import struct
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from lockstep.v1 import attestation_pb2, revocation_pb2
from lockstep_client.messages import InstanceKey
from tests.support.brokers import Broker, dev_broker
from tests.support.memory import peak
from tests.support.wire import Wire, Workload, envelope, publish

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

CHALLENGE = "/lockstep.v1.AttestationService/GetChallenge"
DATA, HEADERS, RST_STREAM, SETTINGS, GOAWAY = 0x0, 0x1, 0x3, 0x4, 0x7
END_STREAM = 0x1
ROLES = Path(__file__).parents[1] / "e2e" / "roles.toml"


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    folder = tmp_path_factory.mktemp("wire")
    with dev_broker(folder / "dev", Path(shutil.copy(ROLES, folder / "roles.toml"))) as running:
        publish(running, envelope(running, "app", "lib"))
        yield running


@pytest.fixture(autouse=True)
def serves_afterwards(broker: Broker) -> Iterator[None]:
    """Whatever was done to it, an honest workload still gets through."""
    yield
    with Wire(broker.address, broker.ca) as wire:
        assert Workload(wire, broker.token("dev-app")).attest("app", "lib")


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One HTTP/2 frame (RFC 9113 section 4.1)."""
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def head(path: str, **changes: str) -> bytes:
    """A header block without a table (RFC 7541 section 6.2.2)."""
    fields = {
        ":method": "POST", ":scheme": "https", ":path": path, ":authority": "localhost",
        "content-type": "application/grpc", "te": "trailers", "grpc-timeout": "10S", **changes,
    }  # fmt: skip
    return b"".join(
        b"\x00" + bytes((len(name),)) + name.encode() + bytes((len(value),)) + value.encode()
        for name, value in fields.items()
    )


def connect(broker: Broker) -> ssl.SSLSocket:
    context = ssl.create_default_context(cadata=broker.ca.read_text())
    context.set_alpn_protocols(["h2"])
    raw = socket.create_connection(("127.0.0.1", broker.ports["tls"]), timeout=20)
    tls = context.wrap_socket(raw, server_hostname="localhost")
    tls.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0))
    return tls


def test_cve_2023_44487_rapid_reset(broker: Broker) -> None:
    """Streams that are opened and reset at once: each cost the server more than the client."""
    before = peak(broker.pid)
    with connect(broker) as tls:
        try:
            for number in range(4000):
                stream = 2 * number + 1
                tls.sendall(frame(HEADERS, 0x4, stream, head(CHALLENGE)))
                tls.sendall(frame(RST_STREAM, 0, stream, struct.pack(">I", 8)))
        except OSError:
            pass  # let go: as good as served
    with Wire(broker.address, broker.ca) as wire:
        assert Workload(wire, broker.token("dev-app")).attest("app", "lib")
    assert peak(broker.pid) - before < 64 * 1024 * 1024


def test_cve_2023_4785_connection_flood(broker: Broker) -> None:
    """Connections that begin and say nothing more used up the server's descriptors, and it accepted nobody."""
    flood = [socket.create_connection(("127.0.0.1", broker.ports["tls"]), timeout=20) for _ in range(200)]
    try:
        with Wire(broker.address, broker.ca) as wire:
            assert Workload(wire, broker.token("dev-app")).attest("app", "lib")
    finally:
        for connection in flood:
            connection.close()


@pytest.mark.parametrize(
    "path",
    [
        CHALLENGE[1:],
        "/" + CHALLENGE,
        CHALLENGE.replace("Get", "%47et"),
        CHALLENGE + "?x",
        CHALLENGE + "/",
        CHALLENGE.lower(),
        "/lockstep.v1.AttestationService/../lockstep.v1.AttestationService/GetChallenge",
        "",
    ],
)
def test_cve_2026_33186_a_path_that_is_spelled_otherwise(broker: Broker, path: str) -> None:
    """``:path`` without its slash was routed, and passed by rules on paths that begin with one."""
    assert DATA in ask(broker, CHALLENGE, question())
    assert DATA not in ask(broker, path, question())


def question() -> bytes:
    """A challenge is asked for, and everybody may."""
    key = InstanceKey.generate().message()
    return attestation_pb2.GetChallengeRequest(instance_key=key).SerializeToString()


def ask(broker: Broker, path: str, message: bytes, **changes: str) -> list[int]:
    """Types of the frames that a call is answered with: only one that was let through is answered with DATA."""
    answer = b""
    with connect(broker) as tls:
        try:
            tls.sendall(frame(HEADERS, 0x4, 1, head(path, **changes)))
            tls.sendall(frame(DATA, 0x1, 1, struct.pack(">BI", 0, len(message)) + message))
            while not ended(answer) and (more := tls.recv(65536)):
                answer += more
        except OSError:
            pass
    return kinds(answer)


def frames(data: bytes) -> list[tuple[int, int]]:
    """(type, flags) of the whole frames in some bytes."""
    found, at = [], 0
    while at + 9 <= len(data):
        kind, flags = data[at + 3], data[at + 4]
        at += 9 + int.from_bytes(data[at : at + 3], "big")
        if at <= len(data):
            found.append((kind, flags))
    return found


def kinds(data: bytes) -> list[int]:
    """Types of them."""
    return [kind for kind, _ in frames(data)]


def ended(data: bytes) -> bool:
    """The call is over, or its stream, or the connection."""
    return any(
        kind in (RST_STREAM, GOAWAY) or (kind == HEADERS and flags & END_STREAM)
        for kind, flags in frames(data)
    )


def test_a_gzip_bomb_is_refused_unopened(broker: Broker) -> None:
    """256 MiB in a quarter of one: the size that counts is the one that it would have."""
    before = peak(broker.pid)
    credentials = grpc.ssl_channel_credentials(broker.ca.read_bytes())
    options = [("grpc.max_send_message_length", -1)]
    with grpc.secure_channel(broker.address, credentials, options, grpc.Compression.Gzip) as channel:
        call = channel.unary_unary(CHALLENGE, request_serializer=bytes, response_deserializer=bytes)
        with pytest.raises(grpc.RpcError) as caught:
            call(bytes(256 * 1024 * 1024), timeout=30)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert peak(broker.pid) - before < 64 * 1024 * 1024


def test_a_length_prefix_of_4_gib_reserves_nothing(broker: Broker) -> None:
    """A message that says it is as large as four bytes can say, and then stays away."""
    before = peak(broker.pid)
    with connect(broker) as tls:
        tls.sendall(frame(HEADERS, 0x4, 1, head(CHALLENGE)))
        tls.sendall(frame(0, 0, 1, b"\x00\xff\xff\xff\xff" + bytes(1000)))
        answer = b""
        while not ended(answer) and (more := tls.recv(65536)):
            answer += more
    assert ended(answer)
    assert peak(broker.pid) - before < 64 * 1024 * 1024


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_what_a_page_in_a_browser_could_send_proves_nothing(broker: Broker, kind: str) -> None:
    """gRPC runs handlers for any content type: so it must never be what keeps a page's request out."""
    changes = {"content-type": kind}
    # A public method is answered, so that what refuses the other one is who asks.
    assert DATA in ask(broker, CHALLENGE, question(), **changes)
    order = revocation_pb2.RevokeRequest(selector=revocation_pb2.Selector(node="n"), reason="r")
    found = ask(broker, "/lockstep.v1.RevocationService/Revoke", order.SerializeToString(), **changes)
    assert HEADERS in found
    assert DATA not in found
