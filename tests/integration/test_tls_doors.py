"""TLS of the doors, as it was seen to go wrong elsewhere: resumption, rotation, listeners, stalled handshakes."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from grpc.experimental.session_cache import ssl_session_cache_lru

from broker.api.limits import Limits
from broker.api.listening import ListenError
from broker.api.server import DoorConfig, Doors
from broker.api.tls import CertificateError, Certificates
from broker.model.identity import IdentityMatch
from broker.model.role import Operator
from lockstep.v1 import attestation_pb2, identity_pb2
from tests.support import pki
from tests.unit.api.porch import ATTESTATION, CREDENTIAL, Porch, Reply, bearer, call, porch
from tests.unit.api.test_watch import opened, snapshot, until_beat
from tests.unit.api.web import ask

pytestmark = pytest.mark.integration

LIST = CREDENTIAL + "ListLeases"
ANN = "spiffe://example.org/ann"


def appoint(found: Porch, spiffe_id: str = ANN) -> None:
    """An operator by SPIFFE ID."""
    match = IdentityMatch("spiffe", spiffe_id=spiffe_id)
    found._book(operators={"ann": Operator("ann", match, frozenset({"read"}))})


def handshake(port: int, context: ssl.SSLContext) -> bytes:
    """First bytes of the server; raises where it refuses."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as tls,
    ):
        # With TLS 1.3 a client learns only here whether it was taken.
        first = tls.recv(1024)
        if not first:
            raise ConnectionResetError("closed")
        return first


@pytest.mark.slow
async def test_an_expired_client_certificate_is_not_taken_on_a_resumed_session(tmp_path: Path) -> None:
    async with porch(tmp_path, mtls=True) as found:
        appoint(found)
        clock = found.house.clock
        clock.step(time.time())
        svid = pki.svid(found.spiffe_root, ANN, now=time.time(), life=2.5)
        credentials = grpc.ssl_channel_credentials(found.root.pem, svid.key_pem, svid.pem)
        where = f"localhost:{found.doors.mtls_port}"  # sessions are kept by name
        sessions = ssl_session_cache_lru(8)

        async def connected(**options: Any) -> Reply:
            """A new connection and one call."""
            channel = found._open(where, credentials, **options)
            reply = await call(channel, LIST, b"", timeout=3.0)
            await channel.close()
            return reply

        resuming = {"grpc.ssl_session_cache": sessions}
        assert (await connected(**resuming)).ok
        deadline = time.monotonic() + 20
        while (await connected()).code is not grpc.StatusCode.UNAVAILABLE:
            assert time.monotonic() < deadline, "a handshake with an expired certificate"
        # Without a session that is resumed, this would get no further than those before.
        clock.step(time.time())
        reply = await connected(**resuming)
        assert (reply.code, reply.reason) == (grpc.StatusCode.PERMISSION_DENIED, "identity_rejected")


async def test_a_certificate_is_judged_on_every_call_of_a_living_connection(tmp_path: Path) -> None:
    async with porch(tmp_path, mtls=True) as found:
        appoint(found)
        channel = found.svid_channel(ANN)
        assert (await call(channel, LIST, b"")).ok
        # The connection goes on; the certificate has ended.
        found.house.clock.advance(365 * 86_400)
        reply = await call(channel, LIST, b"")
        assert (reply.code, reply.reason) == (grpc.StatusCode.PERMISSION_DENIED, "identity_rejected")


@pytest.mark.parametrize("bent", ["none", "another root", "expired", "plain tls client"])
async def test_mtls_asks_for_a_certificate_of_its_roots(tmp_path: Path, bent: str) -> None:
    async with porch(tmp_path, mtls=True) as found:
        appoint(found)
        if bent == "another root":
            issuer = pki.authority("elsewhere", now=time.time(), life=86_400.0)
            channel = found.svid_channel(ANN, issuer=issuer, life=3600.0)
        elif bent == "expired":
            channel = found.svid_channel(ANN, start=-7200.0, life=-3600.0)
        elif bent == "none":
            credentials = grpc.ssl_channel_credentials(found.root.pem)
            channel = found._open(f"127.0.0.1:{found.doors.mtls_port}", credentials)
        else:
            channel = grpc.aio.insecure_channel(f"127.0.0.1:{found.doors.mtls_port}")
            found.channels.append(channel)
        reply = await call(channel, LIST, b"", timeout=3.0)
        assert reply.code is grpc.StatusCode.UNAVAILABLE


async def test_a_workloads_certificate_is_no_operators(tmp_path: Path) -> None:
    async with porch(tmp_path, mtls=True) as found:
        appoint(found)
        for name in (
            "spiffe://example.org/ann/x",
            "spiffe://example.org/an",
            "spiffe://example.org/workload",
        ):
            reply = await call(found.svid_channel(name), LIST, b"")
            assert (reply.code, reply.reason) == (grpc.StatusCode.PERMISSION_DENIED, "not_entitled"), name
        for name in ("spiffe://example.org/Ann%0a", "spiffe://other.org/ann", "https://example.org/ann"):
            reply = await call(found.svid_channel(name), LIST, b"")
            assert (reply.code, reply.reason) == (grpc.StatusCode.PERMISSION_DENIED, "identity_rejected"), (
                name
            )
        both = found.svid_channel(ANN, uris=[ANN, "spiffe://example.org/other"])
        assert (await call(both, LIST, b"")).reason == "identity_rejected"


async def test_a_bearer_means_the_bearer_even_beside_a_certificate(tmp_path: Path) -> None:
    async with porch(tmp_path, mtls=True) as found:
        appoint(found)
        channel = found.svid_channel(ANN)
        assert (await call(channel, LIST, b"", bearer("junk"))).reason == "identity_rejected"
        assert (await call(channel, LIST, b"", bearer(found.know("nobody")))).reason == "not_entitled"


async def test_the_certificate_of_the_connection_is_none_on_tls(tmp_path: Path) -> None:
    async with porch(tmp_path, mtls=True) as found:
        guest = found.guest()
        order = await guest.order()
        order.identity_proof.CopyFrom(
            identity_pb2.IdentityProof(peer_certificate=identity_pb2.PeerCertificate())
        )
        reply = await guest.call(ATTESTATION + "Attest", order)
        assert (reply.code, reply.reason) == (grpc.StatusCode.UNAUTHENTICATED, "no_identity")
        # The same order on mtls is judged by the certificate: here, of nobody in any role.
        guest.channel = found.svid_channel("spiffe://example.org/nobody")
        order.nonce = await guest.challenge()
        reply = await guest.call(ATTESTATION + "Attest", order)
        assert reply.code is grpc.StatusCode.PERMISSION_DENIED
        assert reply.reason != "no_identity"
        # And of one who is in a role.
        match = IdentityMatch("spiffe", spiffe_id="spiffe://example.org/shop")
        book = found.house.people.book
        roles = {**book.roles, "api": replace(book.roles["api"], identity=match)}
        found.house.people.book = replace(book, roles=roles)
        shop = found.guest()
        shop.channel = found.svid_channel("spiffe://example.org/shop")
        order = await shop.order()
        order.identity_proof.CopyFrom(
            identity_pb2.IdentityProof(peer_certificate=identity_pb2.PeerCertificate())
        )
        reply = await shop.call(ATTESTATION + "Attest", order)
        assert reply.ok, reply
        shop.id = attestation_pb2.AttestResponse.FromString(reply.raw).attestation_id
        assert (await shop.issue()).lease.identity == "spiffe://example.org/shop"


# --- rotation -------------------------------------------------------------------------------------------


async def serial_of(port: int) -> int:
    """The serial number of the certificate that a listener shows."""

    def look() -> int:
        pem = ssl.get_server_certificate(("127.0.0.1", port), timeout=5)
        return x509.load_pem_x509_certificate(pem.encode()).serial_number

    return await asyncio.to_thread(look)


async def test_certificates_are_renewed_with_a_stream_alive(tmp_path: Path) -> None:
    async with porch(tmp_path, http=True) as found:
        line = await opened(found)
        await snapshot(line)
        ports = (found.doors.tls_port, found.doors.http_port)
        before = [await serial_of(port) for port in ports]
        fresh = pki.server(found.root, now=time.time())
        pki.replace(found.certificate, fresh.pem)
        pki.replace(found.key, fresh.key_pem)
        found.key.chmod(0o600)
        assert found.certificates.changed()
        found.doors.reload()
        assert not found.certificates.changed()
        after = [await serial_of(port) for port in ports]
        assert after == [fresh.certificate.serial_number] * 2
        assert set(before).isdisjoint(after)
        await until_beat(line, 1)
        assert (await ask(found, "GET", "/healthz")).status == 200
        again = await opened(found)
        await snapshot(again)


def weak_link() -> bytes:
    """A certificate that OpenSSL shows to nobody: its key is too small."""
    key = rsa.generate_private_key(65537, 1024)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "old intermediate")])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
    return made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@pytest.mark.parametrize("fault", ["missing", "junk", "another key", "open to all", "a weak link"])
async def test_what_cannot_be_used_changes_nothing(tmp_path: Path, fault: str) -> None:
    async with porch(tmp_path, http=True) as found:
        before = await serial_of(found.doors.tls_port)
        fresh = pki.server(found.root, now=time.time())
        if fault == "missing":
            found.certificate.unlink()
        elif fault == "junk":
            pki.replace(found.certificate, b"junk")
        elif fault == "another key":
            pki.replace(found.certificate, fresh.pem)
        elif fault == "a weak link":
            pki.replace(found.certificate, fresh.pem + weak_link())
            pki.replace(found.key, fresh.key_pem)
        else:
            pki.replace(found.certificate, fresh.pem)
            pki.replace(found.key, fresh.key_pem)
            found.key.chmod(0o644)
        with pytest.raises(CertificateError) as caught:
            found.doors.reload()
        assert str(tmp_path) in str(caught.value)
        assert "PRIVATE" not in str(caught.value)
        assert await serial_of(found.doors.tls_port) == before
        assert (await ask(found, "GET", "/healthz")).status == 200


# --- listeners -------------------------------------------------------------------------------------------


async def test_a_second_broker_on_the_same_port_fails(tmp_path: Path) -> None:
    async with porch(tmp_path, http=True) as found:
        doors = found.doors
        for taken in (found.doors.tls_port, found.doors.http_port):
            second = Doors(
                DoorConfig(tls=f"127.0.0.1:{taken}"),
                doors._gate,
                Certificates(found.certificate, found.key),
                found.crew,
                found.drain,
                doors._log,
            )
            with pytest.raises(ListenError, match=str(taken)):
                await second.start()


async def test_a_stalled_grpc_handshake_is_let_go(tmp_path: Path) -> None:
    async with porch(tmp_path, limits=Limits(handshake=0.3)) as found:
        reader, writer = await asyncio.open_connection("127.0.0.1", found.doors.tls_port)
        writer.write(b"\x16\x03\x01")
        async with asyncio.timeout(10):
            try:
                while await reader.read(1024):
                    pass
            except ConnectionError:
                pass
        writer.close()


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
@pytest.mark.parametrize("door", ["tls_port", "http_port"])
async def test_old_tls_is_refused(tmp_path: Path, door: str) -> None:
    async with porch(tmp_path, http=True) as found:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.to_thread(handshake, getattr(found.doors, door), context)


async def test_a_connection_grows_old_without_an_error(tmp_path: Path) -> None:
    """Clients must spread again and certificates be seen again: no call fails for it."""
    async with porch(tmp_path, limits=Limits(connection_age=0.5, connection_grace=5.0)) as found:
        channel = found.channel()
        request = attestation_pb2.GetChallengeRequest()
        request.instance_key.spki = found.guest().spki
        raw = request.SerializeToString()
        ends = time.monotonic() + 2.5
        calls = 0
        while time.monotonic() < ends:
            assert (await call(channel, ATTESTATION + "GetChallenge", raw)).ok
            calls += 1
        assert calls > 100
