"""The HTTP door over real TLS: webhooks, introspection, keys, health; and nobody may dawdle."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from broker.api.access import HTTP
from broker.api.http.gate import GateRoom
from broker.api.limits import Limits
from broker.errors import Denied, NotFound
from broker.model.detection import Detection, DetectionKind
from broker.model.revocation import SelectorKind
from broker.model.role import Rate
from lockstep.formats import Reason
from lockstep.v1 import credential_pb2
from tests.support.house import policy
from tests.unit.api.porch import AUDIENCE, ISSUER, Guest, Porch, call, porch
from tests.unit.api.web import Answer, ask, post_form

HOOK = "/v1/detections/falco"


class Dialect:
    """A detector's plug by hand: a JSON list of attestation ids, "signed" by a header."""

    def __init__(self, found: Porch) -> None:
        self._found = found
        self.bodies: list[bytes] = []
        self.headers: list[Mapping[str, str]] = []

    def parse(self, headers: Mapping[str, str], body: bytes, now: float) -> Sequence[Detection]:
        self.bodies.append(body)
        self.headers.append(headers)
        if headers.get("x-signature") != "good":
            raise Denied(Reason.DETECTION_REJECTED, "the signature is refused")
        if body == b"break":
            raise ZeroDivisionError("s3cret")
        return [
            self._found.house.detection(attestation=name, event=f"event-{name}") for name in json.loads(body)
        ]


async def listening(found: Porch) -> Dialect:
    dialect = Dialect(found)
    found.sources.known["falco"] = (dialect, policy("falco"))
    return dialect


async def post(found: Porch, body: bytes, path: str = HOOK, **headers: str) -> Answer:
    sent = {"X-Signature": "good", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return await ask(found, "POST", path, body=body, headers=sent)


# --- webhooks -------------------------------------------------------------------------------------------


async def test_a_report_is_answered_once_it_is_durable(tmp_path: Path) -> None:
    async with porch(tmp_path, http=True) as found:
        dialect = await listening(found)
        guest = await found.attested()
        body = json.dumps([guest.id, "A-nobody"]).encode()
        answer = await post(found, body)
        assert answer.status == 202
        states = [report["state"] for report in answer.json["reports"]]
        assert states == ["applied", "unrelated"]
        assert answer.json["reports"][0]["decision"]
        assert (await found.house.attestation(guest.id)).state.value == "revoked"
        assert dialect.bodies == [body]
        assert all(name == name.lower() for name in dialect.headers[0])
        again = await post(found, body)
        assert [report["state"] for report in again.json["reports"]] == ["duplicate", "duplicate"]


async def test_a_bad_signature_is_401_and_an_unknown_source_404(tmp_path: Path) -> None:
    async with porch(tmp_path, http=True) as found:
        await listening(found)
        answer = await post(found, b"[]", x_signature="bad")
        assert answer.status == 401
        assert answer.json == {
            "error": "detection_rejected",
            "message": "the signature is refused",
            "decision": "",
        }
        assert (await post(found, b"[]", "/v1/detections/other")).status == 404
        [line] = [event for _, event in found.lines if event["event"] == "refused"]
        assert (line["method"], line["reason"]) == ("/v1/detections/{source}", "detection_rejected")


async def test_a_plug_that_breaks_says_nothing(tmp_path: Path) -> None:
    async with porch(tmp_path, http=True) as found:
        await listening(found)
        answer = await post(found, b"break")
        assert (answer.status, answer.json["error"]) == (500, "internal")
        assert b"s3cret" not in answer.body
        assert "s3cret" not in repr(found.lines)
        assert found.lines


async def test_a_state_that_is_down_is_503(tmp_path: Path) -> None:
    async with porch(tmp_path, http=True, limits=Limits(call=1.0)) as found:
        await listening(found)
        guest = await found.attested()
        found.house.state.down = True
        answer = await post(found, json.dumps([guest.id]).encode())
        assert (answer.status, answer.json["error"]) == (503, "state_unavailable")


async def test_a_large_body_is_413_announced_or_not(tmp_path: Path) -> None:
    async with porch(tmp_path, http=True, limits=Limits(webhook=100)) as found:
        dialect = await listening(found)
        assert (await post(found, b"x" * 101)).status == 413
        assert (await post(found, b"x", Content_Length="9" * 15)).status == 413
        chunked = b"65\r\n" + b"x" * 0x65 + b"\r\n0\r\n\r\n"
        assert (await post(found, chunked, Transfer_Encoding="chunked")).status == 413
        assert not dialect.bodies


async def test_rates_are_429_and_say_when_to_come_back(tmp_path: Path) -> None:
    async with porch(tmp_path, http=True, rates={"address": Rate(1, 60.0)}) as found:
        await listening(found)
        assert (await post(found, b"[]")).status == 202
        answer = await post(found, b"[]")
        assert (answer.status, answer.json["error"]) == (429, "rate_limited")
        assert 50 <= int(answer.headers["retry-after"]) <= 60


async def test_heartbeats_in_a_body_are_no_reports(tmp_path: Path) -> None:
    async with porch(tmp_path, http=True) as found:
        dialect = await listening(found)

        class Beating(Dialect):
            def parse(self, headers: Mapping[str, str], body: bytes, now: float) -> Sequence[Detection]:
                return [
                    replace(item, kind=DetectionKind.HEARTBEAT) for item in super().parse(headers, body, now)
                ]

        found.sources.known["falco"] = (Beating(found), policy("falco"))
        answer = await post(found, b'["A-1"]')
        assert (answer.status, answer.json) == (202, {"reports": []})
        assert not dialect.bodies


# --- who may dawdle: nobody -------------------------------------------------------------------------------


async def raw_connection(found: Porch) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(
        "localhost", found.doors.http_port, ssl=found.http_context(), server_hostname="localhost"
    )


@pytest.mark.parametrize("head", [b"", b"POST /v1/detections/falco HTTP/1.1\r\nHost: x\r\n"])
async def test_a_head_that_does_not_come_ends_the_connection(tmp_path: Path, head: bytes) -> None:
    async with porch(tmp_path, http=True, limits=Limits(head=0.3)) as found:
        reader, writer = await raw_connection(found)
        writer.write(head)
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        writer.close()


async def test_a_later_head_has_its_deadline_too(tmp_path: Path) -> None:
    """uvicorn gives up its keep-alive timer at the first byte of the next request."""
    async with porch(tmp_path, http=True, limits=Limits(head=0.3)) as found:
        reader, writer = await raw_connection(found)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200" in await reader.readline()
        writer.write(b"GET /heal")
        async with asyncio.timeout(5):
            await reader.read()
        writer.close()


@pytest.mark.parametrize("rest", [b"x", b"x" * 50])
async def test_a_body_after_its_answer_keeps_no_connection(tmp_path: Path, rest: bytes) -> None:
    """What is answered before its body came is nobody's business any more, and has no timer of uvicorn's."""
    async with porch(tmp_path, http=True, limits=Limits(head=0.3)) as found:
        reader, writer = await raw_connection(found)
        writer.write(b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n")
        assert b" 404 " in await reader.readline()
        writer.write(rest)
        async with asyncio.timeout(5):
            await reader.read()
        writer.close()


async def test_a_drop_at_a_time_buys_no_time(tmp_path: Path) -> None:
    async with porch(tmp_path, http=True, limits=Limits(head=0.5)) as found:
        reader, writer = await raw_connection(found)
        started = time.monotonic()
        ended = asyncio.ensure_future(reader.read())
        writer.write(b"GET /healthz HTTP/1.1\r\n")
        number = 0
        while not ended.done():
            number += 1
            writer.write(b"X-%d: y\r\n" % number)
            await asyncio.wait({ended}, timeout=0.1)
        assert time.monotonic() - started < 5
        writer.close()


async def test_a_slow_body_is_refused(tmp_path: Path) -> None:
    async with porch(tmp_path, http=True, limits=Limits(body=0.3)) as found:
        dialect = await listening(found)
        reader, writer = await raw_connection(found)
        writer.write(b"POST /v1/detections/falco HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n[")
        async with asyncio.timeout(5):
            assert b" 400 " in await reader.readline()
        assert not dialect.bodies
        writer.close()


async def test_a_huge_head_is_refused(tmp_path: Path) -> None:
    async with porch(tmp_path, http=True) as found:
        reader, writer = await raw_connection(found)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 200_000 + b"\r\n\r\n")
        async with asyncio.timeout(5):
            line = await reader.readline()
        assert b" 400 " in line or line == b""
        writer.close()


async def test_a_stalled_handshake_is_let_go(tmp_path: Path) -> None:
    async with porch(tmp_path, http=True, limits=Limits(handshake=0.3)) as found:
        reader, writer = await asyncio.open_connection("localhost", found.doors.http_port)
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        writer.close()


async def test_plain_http_gets_nothing(tmp_path: Path) -> None:
    async with porch(tmp_path, http=True) as found:
        reader, writer = await asyncio.open_connection("localhost", found.doors.http_port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(5):
            assert b"200" not in await reader.read()
        writer.close()


# --- paths and headers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/nowhere", 404),
        ("GET", "/healthz/", 404),
        ("GET", "//healthz", 404),
        ("GET", "/%68ealthz", 404),
        ("GET", "/x/../healthz", 404),
        ("GET", "/HEALTHZ", 404),
        ("GET", "/healthz?x=1", 200),
        ("HEAD", "/healthz", 200),
        ("POST", "/healthz", 405),
        ("GET", "/v1/introspect", 405),
        ("DELETE", "/v1/detections/falco", 405),
        ("OPTIONS", "/v1/introspect", 405),
        ("TRACE", "/healthz", 405),
        ("GET", "/v1/detections/a/b", 404),
        ("GET", "/docs", 404),
    ],
)
async def test_only_what_the_table_has_is_there(tmp_path: Path, method: str, path: str, status: int) -> None:
    async with porch(tmp_path, http=True) as found:
        answer = await ask(found, method, path)
        assert answer.status == status
        if status != 200:
            assert answer.json["error"] in ("not_found", "invalid_request")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["strict-transport-security"]
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "server" not in answer.headers


async def test_every_answer_of_every_row_is_framed(tmp_path: Path) -> None:
    async with porch(tmp_path, http=True) as found:
        for method, path in HTTP:
            answer = await ask(found, method, path.replace("{source}", "none"), body=b"")
            assert answer.status in (200, 400, 401, 404), (method, path, answer)
            assert answer.headers["cross-origin-resource-policy"] == "same-origin"
            assert answer.headers["cache-control"]


# --- tokens -------------------------------------------------------------------------------------------------


async def credential(found: Porch, guest: Guest) -> tuple[str, credential_pb2.Lease]:
    """A real token of the ring, for a lease that the broker granted."""
    issued = await guest.issue()
    lease = await found.house.lease(issued.lease.lease_id)
    claims = {
        "iss": ISSUER,
        "sub": lease.identity,
        "aud": lease.audience,
        "exp": int(lease.expires_at),
        "iat": int(lease.issued_at),
        "jti": lease.handle,
        "lockstep": {"as_of": lease.as_of},
    }
    return found.ring.sign(claims), issued.lease


async def test_a_good_token_is_active_until_it_is_revoked(tmp_path: Path) -> None:
    async with porch(tmp_path, http=True) as found:
        guest = await found.attested()
        token, lease = await credential(found, guest)
        server = found.resource_server()
        answer = await post_form(found, "/v1/introspect", server, token=token, token_type_hint="access_token")
        assert answer.status == 200
        said = answer.json
        assert (said["active"], said["iss"], said["aud"]) == (True, ISSUER, AUDIENCE)
        assert (said["token_type"], said["lockstep_mode"]) == ("Bearer", "enforce")
        await found.house.revoke(SelectorKind.LEASE, lease.lease_id)
        answer = await post_form(found, "/v1/introspect", server, token=token)
        assert answer.json == {"active": False}
        assert answer.headers["cache-control"] == "no-store"


async def test_inactive_says_nothing_more(tmp_path: Path) -> None:
    async with porch(tmp_path, http=True) as found:
        guest = await found.attested()
        token, _ = await credential(found, guest)
        stranger = found.resource_server("stranger", "https://other.example")
        server = found.resource_server()
        head, _, signature = token.rpartition(".")
        for asker, asked in (
            (stranger, token),
            (server, "junk"),
            (server, head + "." + signature[::-1]),
            (server, "a" * 20_000),
            (server, guest.token),
        ):
            answer = await post_form(found, "/v1/introspect", asker, token=asked)
            assert (answer.status, answer.json) == (200, {"active": False})
        operator = found.operator("ann", "introspect")
        assert (await post_form(found, "/v1/introspect", operator, token=token)).json["active"]


async def test_only_known_callers_introspect(tmp_path: Path) -> None:
    async with porch(tmp_path, http=True) as found:
        assert (await post_form(found, "/v1/introspect", token="")).status == 401
        answer = await post_form(found, "/v1/introspect", "nobody")
        assert answer.status == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert (await post_form(found, "/v1/introspect", found.know("somebody"))).status == 403
        assert (await post_form(found, "/v1/introspect", found.operator("ann", "read"))).status == 403


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"token=a&token=b", "application/x-www-form-urlencoded"),
        (b"token=", "application/x-www-form-urlencoded"),
        (b"", "application/x-www-form-urlencoded"),
        (b"tok\xffen=a", "application/x-www-form-urlencoded"),
        (b"a=1&" * 20 + b"token=x", "application/x-www-form-urlencoded"),
        (b'{"token": "a"}', "application/json"),
        (b"token=a", "text/plain"),
    ],
)
async def test_a_bent_form_is_refused(tmp_path: Path, body: bytes, kind: str) -> None:
    async with porch(tmp_path, http=True) as found:
        server = found.resource_server()
        answer = await ask(
            found, "POST", "/v1/introspect", body=body, headers={"Content-Type": kind}, token=server
        )
        assert (answer.status, answer.json["error"]) == (400, "invalid_request")


async def test_a_stale_replica_vouches_for_no_token(tmp_path: Path) -> None:
    async with porch(tmp_path, http=True) as found:
        guest = await found.attested()
        token, _ = await credential(found, guest)
        server = found.resource_server()
        found.house.clock.advance(3)
        answer = await post_form(found, "/v1/introspect", server, token=token)
        assert (answer.status, answer.json["error"]) == (503, "state_unavailable")
        assert (await post_form(found, "/v1/introspect", server, token="junk")).json == {"active": False}


async def test_the_holder_gives_its_token_back(tmp_path: Path) -> None:
    async with porch(tmp_path, http=True) as found:
        guest = await found.attested()
        token, lease = await credential(found, guest)
        other = found.know("other")
        assert (await post_form(found, "/v1/revoke", other, token=token)).status == 200
        assert (await found.house.lease(lease.lease_id)).state.value == "active"
        assert (await post_form(found, "/v1/revoke", guest.token, token="junk")).status == 200
        assert (await post_form(found, "/v1/revoke", guest.token, token=token)).status == 200
        assert (await found.house.lease(lease.lease_id)).state.value != "active"
        assert (await post_form(found, "/v1/revoke", token=token)).status == 401


async def test_keys_and_discovery_agree(tmp_path: Path) -> None:
    async with porch(tmp_path, http=True) as found:
        configuration = (await ask(found, "GET", "/.well-known/openid-configuration")).json
        assert configuration["issuer"] == ISSUER
        assert configuration["jwks_uri"] == f"{ISSUER}/.well-known/jwks.json"
        keys = await ask(found, "GET", "/.well-known/jwks.json")
        assert [key["kid"] for key in keys.json["keys"]] == [found.ring.key_id]
        assert all("d" not in key for key in keys.json["keys"])
        assert "public" in keys.headers["cache-control"]


async def test_the_gate_is_an_issuer_of_its_own(tmp_path: Path) -> None:
    async with porch(tmp_path, http=True) as found:
        configuration = (await ask(found, "GET", "/gate/.well-known/openid-configuration")).json
        assert configuration["issuer"] == f"{ISSUER}/gate" == found.gate_ring.issuer
        assert configuration["jwks_uri"] == f"{ISSUER}/gate/jwks.json"
        keys = await ask(found, "GET", "/gate/jwks.json")
        assert [key["kid"] for key in keys.json["keys"]] == [found.gate_ring.key_id]
        assert found.gate_ring.key_id != found.ring.key_id
        assert all("d" not in key for key in keys.json["keys"])


async def test_without_a_gate_key_there_is_no_gate() -> None:
    with pytest.raises(NotFound):
        await GateRoom(None, f"{ISSUER}/gate").jwks(None)  # type: ignore[arg-type]


# --- status ---------------------------------------------------------------------------------------------------


async def test_ready_means_loaded_current_and_staying(tmp_path: Path) -> None:
    async with porch(tmp_path, http=True) as found:
        answer = await ask(found, "GET", "/readyz")
        assert (answer.status, answer.json) == (
            200,
            {"ready": True, "reasons": [], "components": {}},
        )
        found.house.clock.advance(3)
        answer = await ask(found, "GET", "/readyz")
        assert (answer.status, answer.json["reasons"]) == (503, ["state_unavailable"])
        await found.house.feed.catch_up()
        found.drain.begin(1.0)
        answer = await ask(found, "GET", "/readyz")
        assert (answer.status, answer.json["reasons"]) == (503, ["draining"])
        assert (await ask(found, "GET", "/healthz")).status == 200


async def test_metrics_count_without_naming_anybody(tmp_path: Path) -> None:
    async with porch(tmp_path, http=True) as found:
        guest = await found.attested()
        await guest.issue()
        asked = {"Accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"}
        answer = await ask(found, "GET", "/metrics", headers=asked)
        assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
        text = answer.body.decode()
        assert text.endswith("# EOF\n")
        assert 'lockstep_leases{state="active"} 1.0' in text
        assert "lockstep_attestations 1.0" in text
        assert 'code="OK",method="/lockstep.v1.CredentialService/IssueCredential"' in text
        for secret in (guest.id, guest.token, guest.subject, "127.0.0.1"):
            assert secret not in text
        plain = await ask(found, "GET", "/metrics")
        assert plain.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert "lockstep_attestations 1.0" in plain.body.decode()


async def test_no_caller_makes_a_series(tmp_path: Path) -> None:
    async with porch(tmp_path, http=True) as found:
        for method, path in (("GET", "/canary"), ("POST", "/v1/detections/canary"), ("CANARY", "/metrics")):
            assert (await ask(found, method, path, body=b"{}")).status >= 400
        assert (await call(found.channel(), "/lockstep.v1.Canary/Canary", b"")).reason == "not_found"
        text = found.metrics.exposition().lower()
        assert b'method="other"' in text
        assert b"canary" not in text


async def test_metrics_can_be_for_this_host_alone(tmp_path: Path) -> None:
    async with porch(tmp_path, http=True, local_metrics=True) as found:
        assert (await ask(found, "GET", "/metrics")).status == 200


# --- connections ----------------------------------------------------------------------------------------------


async def knock(found: Porch, source: str, *, tls: bool = True) -> asyncio.StreamWriter:
    """An idle connection from one of this host's loopback addresses; raises where the door closes it."""
    _, writer = await asyncio.open_connection(
        "127.0.0.1",
        found.doors.http_port,
        local_addr=(source, 0),
        **({"ssl": found.http_context(), "server_hostname": "localhost"} if tls else {}),
    )
    return writer


async def hang_up(*writers: asyncio.StreamWriter) -> None:
    for writer in writers:
        writer.transport.abort()
        with suppress(OSError):
            await writer.wait_closed()


async def until_let_in(found: Porch, source: str) -> asyncio.StreamWriter:
    async with asyncio.timeout(10):
        while True:
            try:
                return await knock(found, source)
            except OSError:
                await asyncio.sleep(0.01)


async def test_one_address_does_not_close_the_door(tmp_path: Path) -> None:
    """It has as many idle connections as it may, and renews them: a webhook from elsewhere is heard all the same."""
    limits = Limits(http_connections=8, http_connections_per_address=4)
    async with porch(tmp_path, http=True, limits=limits) as found:
        await listening(found)
        held = [await knock(found, "127.0.0.2") for _ in range(4)]
        for _ in range(10):
            with pytest.raises(OSError):
                await knock(found, "127.0.0.2")
        assert (await post(found, b"[]")).status == 202
        # A place that is given back is there for the next one.
        await hang_up(held.pop())
        held.append(await until_let_in(found, "127.0.0.2"))
        with pytest.raises(OSError):
            await knock(found, "127.0.0.2")
        await hang_up(*held)


async def test_nor_do_all_of_them_together_hold_more_than_there_is(tmp_path: Path) -> None:
    limits = Limits(http_connections=6, http_connections_per_address=4)
    async with porch(tmp_path, http=True, limits=limits) as found:
        held = [await knock(found, source) for source in ("127.0.0.2", "127.0.0.3") for _ in range(3)]
        with pytest.raises(OSError):
            await knock(found, "127.0.0.4")
        await hang_up(held.pop())
        held.append(await until_let_in(found, "127.0.0.4"))
        await hang_up(*held)


async def test_who_never_begins_its_handshake_has_a_place_like_anybody(tmp_path: Path) -> None:
    limits = Limits(http_connections=8, http_connections_per_address=4, handshake=1.0)
    async with porch(tmp_path, http=True, limits=limits) as found:
        mute = [await knock(found, "127.0.0.2", tls=False) for _ in range(4)]
        with pytest.raises(OSError):
            await knock(found, "127.0.0.2")
        assert (await ask(found, "GET", "/healthz")).status == 200
        # And it loses it when its time is over.
        held = await until_let_in(found, "127.0.0.2")
        await hang_up(held, *mute)
