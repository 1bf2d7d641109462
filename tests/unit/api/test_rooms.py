"""Rooms over the wire: reports, manifests, explanations, health and reflection."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from broker.api.limits import Limits
from broker.model.role import Action, Rate
from broker.upkeep import STUCK_AFTER
from lockstep.formats import PROOF_METADATA
from lockstep.v1 import (
    attestation_pb2,
    credential_pb2,
    decision_pb2,
    detection_pb2,
    manifest_pb2,
    revocation_pb2,
)
from tests.support.house import unit
from tests.unit.api.porch import ATTESTATION, CREDENTIAL, REVOCATION, Guest, Line, Porch, bearer, call, porch

REPORT = "/lockstep.v1.DetectionService/Report"
MANIFEST = "/lockstep.v1.ManifestService/"
EXPLAIN = "/lockstep.v1.DecisionService/ExplainDecision"
HEALTH = "/grpc.health.v1.Health/"


def detection(seq: int, event: str, **changes: Any) -> detection_pb2.ReportRequest:
    found = detection_pb2.Detection(
        seq=seq,
        event_id=event,
        kind=detection_pb2.DETECTION_KIND_LIBRARY,
        object=detection_pb2.DetectionObject(digest=unit("evil").digest, path="/tmp/evil.so", name="evil"),
        **changes,
    )
    return detection_pb2.ReportRequest(detection=found)


async def reporting(guest: Guest) -> Line:
    opening = detection_pb2.ReportRequest(open=detection_pb2.ReportOpen(attestation_id=guest.id))
    raw = opening.SerializeToString()
    line = Line(guest.channel, REPORT, detection_pb2.ReportResponse)
    line.open(raw, [(PROOF_METADATA, guest.proof(REPORT, raw))])
    await line.begin()
    return line


async def sensing(found: Porch, token: str, name: str = "") -> Line:
    opening = detection_pb2.ReportRequest(open=detection_pb2.ReportOpen(detector=name))
    line = Line(found.channel(), REPORT, detection_pb2.ReportResponse)
    line.open(opening.SerializeToString(), bearer(token))
    await line.begin()
    return line


async def test_a_workloads_hook_reports_itself_and_is_revoked(tmp_path: Path) -> None:
    async with porch(tmp_path) as found:
        guest, other = await found.attested(), await found.attested("watched")
        line = await reporting(guest)
        # Whomever it names, it speaks of itself.
        subject = detection_pb2.DetectionSubject(attestation_id=other.id)
        await line.send(detection(7, "e-1", subject=subject))
        answer = await line.read()
        assert (answer.seq, answer.state) == (7, detection_pb2.DETECTION_STATE_APPLIED)
        assert answer.decision_id
        assert (await found.house.attestation(guest.id)).state.value == "revoked"
        assert (await found.house.attestation(other.id)).state.value == "alive"
        await line.send(detection(8, "e-1", subject=subject))
        assert (await line.read()).state == detection_pb2.DETECTION_STATE_DUPLICATE
        await line.done()
        assert (await line.ended()).ok
        assert b'lockstep_detections_total{detector="self",state="applied"} 1.0' in found.metrics.exposition()


async def test_a_sensor_reports_others_and_beats(tmp_path: Path) -> None:
    async with porch(tmp_path) as found:
        guest = await found.attested()
        line = await sensing(found, found.detector("sensor"))
        await line.send(detection_pb2.ReportRequest(heartbeat=detection_pb2.Heartbeat(seq=3)))
        assert (await line.read()).seq == 3
        await line.send(detection(4, "e-1", subject=detection_pb2.DetectionSubject(attestation_id=guest.id)))
        answer = await line.read()
        assert (answer.seq, answer.state) == (4, detection_pb2.DETECTION_STATE_APPLIED)
        await line.send(
            detection(5, "e-2", subject=detection_pb2.DetectionSubject(attestation_id="A-nobody"))
        )
        assert (await line.read()).state == detection_pb2.DETECTION_STATE_UNRELATED


async def test_a_sensor_is_held_to_its_policy_of_now(tmp_path: Path) -> None:
    """Whoever is broken is set to observe by a reload: its open stream too."""
    async with porch(tmp_path) as found:
        guests = [await found.attested() for _ in range(2)]
        line = await sensing(found, found.detector("sensor"))
        subjects = [detection_pb2.DetectionSubject(attestation_id=guest.id) for guest in guests]
        await line.send(detection(1, "e-1", subject=subjects[0]))
        assert (await line.read()).state == detection_pb2.DETECTION_STATE_APPLIED
        known = found.house.people.book.detectors["sensor"]
        found.reload(detectors={"sensor": replace(known, actions={}, default_action=Action.OBSERVE)})
        await line.send(detection(2, "e-2", subject=subjects[1]))
        assert (await line.read()).state == detection_pb2.DETECTION_STATE_OBSERVED
        found.reload(detectors={})
        await line.send(detection(3, "e-3", subject=subjects[1]))
        reply = await line.ended()
        assert (reply.code, reply.reason) == (grpc.StatusCode.PERMISSION_DENIED, "not_entitled")


@pytest.mark.parametrize(
    "later", [detection(1, "e-1"), detection_pb2.ReportRequest(heartbeat=detection_pb2.Heartbeat(seq=1))]
)
async def test_a_sensor_speaks_until_its_identity_ends(tmp_path: Path, later: Any) -> None:
    async with porch(tmp_path) as found:
        found.detector("sensor")
        line = await sensing(found, found.know("sensor", not_after=found.house.now + 60))
        await line.send(detection_pb2.ReportRequest(heartbeat=detection_pb2.Heartbeat(seq=3)))
        assert (await line.read()).seq == 3
        found.house.clock.advance(60)
        await line.send(later)
        reply = await line.ended()
        assert (reply.code, reply.reason) == (grpc.StatusCode.UNAUTHENTICATED, "no_identity")


async def test_its_stream_ends_then_where_it_says_nothing(tmp_path: Path) -> None:
    async with porch(tmp_path) as found:
        found.detector("sensor")
        line = await sensing(found, found.know("sensor", not_after=found.house.now + 0.5))
        await line.send(detection_pb2.ReportRequest(heartbeat=detection_pb2.Heartbeat(seq=3)))
        assert (await line.read()).seq == 3
        found.house.clock.advance(0.5)
        assert (await line.ended()).reason == "no_identity"


async def test_a_sensor_is_the_one_that_its_identity_names(tmp_path: Path) -> None:
    async with porch(tmp_path) as found:
        token = found.detector("sensor")
        reply = await (await sensing(found, token, "another")).ended()
        assert (reply.code, reply.reason) == (grpc.StatusCode.PERMISSION_DENIED, "not_entitled")
        nobody = await (await sensing(found, found.know("nobody"), "sensor")).ended()
        assert nobody.reason == "not_entitled"


@pytest.mark.parametrize(
    "later",
    [
        detection_pb2.ReportRequest(open=detection_pb2.ReportOpen()).SerializeToString(),
        detection_pb2.ReportRequest().SerializeToString(),
        detection(1, "").SerializeToString(),
        b"\xff",
    ],
)
async def test_a_bent_report_ends_the_stream(tmp_path: Path, later: bytes) -> None:
    async with porch(tmp_path) as found:
        line = await sensing(found, found.detector("sensor"))
        await line.send(later)
        assert (await line.ended()).code is grpc.StatusCode.INVALID_ARGUMENT


# --- manifests ------------------------------------------------------------------------------------------


async def test_a_manifest_is_published_seen_retired_and_withdrawn(tmp_path: Path) -> None:
    async with porch(tmp_path) as found:
        channel = found.channel()
        token = bearer(found.operator("pipeline", "publish", "read", "retire", "withdraw"))
        envelope = found.house.envelope(2, "app", "more")
        raw = manifest_pb2.PublishManifestRequest(envelope=envelope).SerializeToString()
        reply = await call(channel, MANIFEST + "PublishManifest", raw, token)
        published = manifest_pb2.PublishManifestResponse.FromString(reply.raw)
        assert (published.in_force, published.manifest.version) == (True, 2)
        assert published.manifest.state == manifest_pb2.MANIFEST_STATE_IN_FORCE
        digest = published.manifest.digest
        for asked in (
            manifest_pb2.GetManifestRequest(digest=digest),
            manifest_pb2.GetManifestRequest(application="payments", version=2),
            manifest_pb2.GetManifestRequest(application="payments"),
        ):
            reply = await call(channel, MANIFEST + "GetManifest", asked.SerializeToString(), token)
            got = manifest_pb2.GetManifestResponse.FromString(reply.raw)
            assert (got.manifest.digest, got.envelope) == (digest, envelope)
        why = {"digest": digest, "reason": "old", "ticket": "T-1"}
        raw = manifest_pb2.RetireManifestRequest(**why).SerializeToString()
        reply = await call(channel, MANIFEST + "RetireManifest", raw, token)
        retired = manifest_pb2.RetireManifestResponse.FromString(reply.raw)
        assert retired.manifest.state == manifest_pb2.MANIFEST_STATE_RETIRED
        raw = manifest_pb2.WithdrawManifestRequest(**why).SerializeToString()
        reply = await call(channel, MANIFEST + "WithdrawManifest", raw, token)
        withdrawn = manifest_pb2.WithdrawManifestResponse.FromString(reply.raw)
        assert withdrawn.manifest.state == manifest_pb2.MANIFEST_STATE_WITHDRAWN
        assert withdrawn.revocation_id
        for ended, versions in ((False, [1]), (True, [2, 1])):
            raw = manifest_pb2.ListManifestsRequest(include_ended=ended).SerializeToString()
            reply = await call(channel, MANIFEST + "ListManifests", raw, token)
            listed = manifest_pb2.ListManifestsResponse.FromString(reply.raw).manifests
            assert [item.version for item in listed] == versions


async def test_the_least_version_is_lowered_by_who_may(tmp_path: Path) -> None:
    async with porch(tmp_path) as found:
        channel = found.channel()
        await found.house.publish(9, "app")
        order = manifest_pb2.LowerMinVersionRequest(application="payments", min_version=2, reason="a slip")
        raw = order.SerializeToString()
        for rights in (("publish", "retire", "withdraw", "lift", "revoke:*"), ("read",)):
            token = bearer(found.operator(f"no-{len(rights)}", *rights))
            reply = await call(channel, MANIFEST + "LowerMinVersion", raw, token)
            assert (reply.code, reply.reason) == (grpc.StatusCode.PERMISSION_DENIED, "not_entitled")
        token = bearer(found.operator("ann", "lower"))
        reply = await call(channel, MANIFEST + "LowerMinVersion", raw, token)
        answer = manifest_pb2.LowerMinVersionResponse.FromString(reply.raw)
        assert answer.before == 9
        decision = await found.house.look(lambda tx: tx.decisions.get(answer.decision_id))
        assert decision.actor.endswith("ann")
        assert (await found.house.publish(2, "app 2")).in_force


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("GetManifest", manifest_pb2.GetManifestRequest()),
        ("GetManifest", manifest_pb2.GetManifestRequest(digest=b"short")),
        ("GetManifest", manifest_pb2.GetManifestRequest(application="a", version=2**64 - 1)),
        ("RetireManifest", manifest_pb2.RetireManifestRequest()),
        ("WithdrawManifest", manifest_pb2.WithdrawManifestRequest(digest=b"x" * 31)),
        ("LowerMinVersion", manifest_pb2.LowerMinVersionRequest(min_version=1, reason="why")),
        ("LowerMinVersion", manifest_pb2.LowerMinVersionRequest(application="a", reason="why")),
    ],
)
async def test_a_manifest_must_be_named_well(tmp_path: Path, method: str, message: Any) -> None:
    async with porch(tmp_path) as found:
        token = bearer(found.operator("pipeline", "read", "retire", "withdraw", "lower"))
        reply = await call(found.channel(), MANIFEST + method, message.SerializeToString(), token)
        assert (reply.code, reply.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "invalid_request")


async def test_an_unsigned_manifest_is_denied(tmp_path: Path) -> None:
    async with porch(tmp_path) as found:
        token = bearer(found.operator("pipeline", "publish"))
        raw = manifest_pb2.PublishManifestRequest(envelope=b"{}").SerializeToString()
        reply = await call(found.channel(), MANIFEST + "PublishManifest", raw, token)
        assert (reply.code, reply.reason) == (grpc.StatusCode.PERMISSION_DENIED, "signature_rejected")


# --- revocations, receipts, explanations ------------------------------------------------------------------


async def test_revoke_receipt_and_lift(tmp_path: Path) -> None:
    async with porch(tmp_path) as found:
        guest = await found.attested()
        await guest.issue()
        channel = found.channel()
        token = bearer(found.operator("ann", "revoke:*", "read", "lift"))
        order = revocation_pb2.RevokeRequest(
            selector=revocation_pb2.Selector(attestation_id=guest.id), reason="why", dry_run=True
        )
        reply = await call(channel, REVOCATION + "Revoke", order.SerializeToString(), token)
        preview = revocation_pb2.RevokeResponse.FromString(reply.raw)
        assert (preview.revocation_id, preview.attestations, preview.leases) == ("", 1, 1)
        order.dry_run = False
        reply = await call(channel, REVOCATION + "Revoke", order.SerializeToString(), token)
        revoked = revocation_pb2.RevokeResponse.FromString(reply.raw)
        asked = revocation_pb2.GetReceiptRequest(revocation_id=revoked.revocation_id).SerializeToString()
        reply = await call(channel, REVOCATION + "GetReceipt", asked, token)
        assert not revocation_pb2.GetReceiptResponse.FromString(reply.raw).complete
        await found.house.tick()
        reply = await call(channel, REVOCATION + "GetReceipt", asked, token)
        receipt = revocation_pb2.GetReceiptResponse.FromString(reply.raw)
        assert receipt.complete
        assert receipt.envelope
        lift = revocation_pb2.LiftRequest(revocation_id=revoked.revocation_id, reason="over")
        reply = await call(channel, REVOCATION + "Lift", lift.SerializeToString(), token)
        assert revocation_pb2.LiftResponse.FromString(reply.raw).position.seq > revoked.position.seq
        reply = await call(channel, REVOCATION + "Lift", lift.SerializeToString(), token)
        assert (reply.code, reply.reason) == (grpc.StatusCode.ABORTED, "conflict")


async def test_whom_a_decision_concerns_may_ask_why(tmp_path: Path) -> None:
    async with porch(tmp_path) as found:
        guest = await found.attested()
        stranger = await found.attested("watched")
        issued = await guest.issue()
        asked = decision_pb2.ExplainDecisionRequest(
            decision_id=issued.lease.decision_id, attestation_id=guest.id, include_code_set=True
        )
        reply = await guest.call(EXPLAIN, asked)
        answer = decision_pb2.ExplainDecisionResponse.FromString(reply.raw)
        assert answer.decision.attestation_id == guest.id
        assert sum(len(item.digests) for item in answer.code_set) == 2
        # The same by its identity, as a refused workload asks that has no attestation.
        asked.attestation_id = ""
        raw = asked.SerializeToString()
        assert (await call(guest.channel, EXPLAIN, raw, bearer(guest.token))).ok
        assert (await call(guest.channel, EXPLAIN, raw, bearer(found.operator("ann", "explain")))).ok
        for token in (stranger.token, found.operator("bob", "read")):
            reply = await call(guest.channel, EXPLAIN, raw, bearer(token))
            assert (reply.code, reply.reason) == (grpc.StatusCode.NOT_FOUND, "not_found")


async def test_fresh_evidence_renews_the_lease_and_keeps_the_watch(tmp_path: Path) -> None:
    async with porch(tmp_path) as found:
        guest = await found.attested()
        issued = await guest.issue()
        raw = revocation_pb2.WatchRevocationsRequest(
            open=revocation_pb2.WatchOpen(attestation_id=guest.id)
        ).SerializeToString()
        watch = Line(guest.channel, REVOCATION + "WatchRevocations", revocation_pb2.WatchRevocationsResponse)
        watch.open(raw, [(PROOF_METADATA, guest.proof(REVOCATION + "WatchRevocations", raw))])
        await watch.begin()
        assert (await watch.read()).snapshot.complete
        found.house.clock.advance(100)
        order = await guest.reorder()
        reply = await guest.call(ATTESTATION + "Reattest", order)
        assert reply.ok, reply
        again = attestation_pb2.ReattestResponse.FromString(reply.raw)
        assert again.status == attestation_pb2.ATTESTATION_STATUS_AFFIRMING
        assert [role.granted for role in again.roles if role.role == "api"] == [True]
        request = credential_pb2.RenewLeaseRequest(attestation_id=guest.id, lease_id=issued.lease.lease_id)
        reply = await guest.call(CREDENTIAL + "RenewLease", request)
        renewed = credential_pb2.RenewLeaseResponse.FromString(reply.raw).lease
        assert renewed.expires_at.ToSeconds() > issued.lease.expires_at.ToSeconds()
        # A challenge counts once, whatever else is right.
        reply = await guest.call(ATTESTATION + "Reattest", order)
        assert reply.code is grpc.StatusCode.PERMISSION_DENIED
        # The attestation that opened the watch would have ended; the renewed one goes on.
        found.house.clock.advance(250)
        await found.house.feed.catch_up()
        await watch.send(revocation_pb2.WatchRevocationsRequest(ping=revocation_pb2.WatchPing(id=1)))
        assert (await watch.read()).beat.ping_id == 1


async def test_renew_and_give_back(tmp_path: Path) -> None:
    async with porch(tmp_path) as found:
        guest = await found.attested()
        issued = await guest.issue()
        lease = {"attestation_id": guest.id, "lease_id": issued.lease.lease_id}
        reply = await guest.call(CREDENTIAL + "RenewLease", credential_pb2.RenewLeaseRequest(**lease))
        assert reply.reason == "stale_evidence"
        reply = await guest.call(CREDENTIAL + "RevokeLease", credential_pb2.RevokeLeaseRequest(**lease))
        given = credential_pb2.RevokeLeaseResponse.FromString(reply.raw).lease
        assert given.state == credential_pb2.LEASE_STATE_REVOKING
        reader = bearer(found.operator("ann", "read"))
        pages = []
        token = ""
        for number in range(3):
            await guest.issue(request=f"more-{number}")
        while True:
            request = credential_pb2.ListLeasesRequest(page_size=2, page_token=token)
            reply = await call(guest.channel, CREDENTIAL + "ListLeases", request.SerializeToString(), reader)
            page = credential_pb2.ListLeasesResponse.FromString(reply.raw)
            pages.append(len(page.leases))
            token = page.next_page_token
            if not token:
                break
        assert sum(pages) == 4


async def test_operators_alone_learn_why_a_lease_is_stuck(tmp_path: Path) -> None:
    async with porch(tmp_path) as found:
        guest = await found.attested()
        issued = await guest.issue("db")
        found.house.db.fail("revoke", 100)
        await guest.call(
            CREDENTIAL + "RevokeLease",
            credential_pb2.RevokeLeaseRequest(attestation_id=guest.id, lease_id=issued.lease.lease_id),
        )
        for attempt in range(STUCK_AFTER):
            await found.house.tick(0.5 * 2**attempt)
        stuck = credential_pb2.LEASE_STATE_STUCK
        request = credential_pb2.ListLeasesRequest(states=[stuck])
        reader = bearer(found.operator("ann", "read"))
        reply = await call(guest.channel, CREDENTIAL + "ListLeases", request.SerializeToString(), reader)
        [lease] = credential_pb2.ListLeasesResponse.FromString(reply.raw).leases
        assert (lease.cleaning.backend, lease.cleaning.attempts) == ("db", STUCK_AFTER)
        assert lease.cleaning.detail == "backend_unavailable: the backend does not answer"
        assert lease.cleaning.next_attempt_at.seconds > 0
        reply = await guest.call(
            CREDENTIAL + "ListLeases",
            credential_pb2.ListLeasesRequest(attestation_id=guest.id, states=[stuck]),
        )
        [own] = credential_pb2.ListLeasesResponse.FromString(reply.raw).leases
        assert own.lease_id == lease.lease_id
        assert not own.HasField("cleaning")


@pytest.mark.parametrize(
    "message",
    [
        credential_pb2.IssueCredentialRequest(role="api"),
        credential_pb2.IssueCredentialRequest(request_id="r"),
        credential_pb2.IssueCredentialRequest(role="a" * 300, request_id="r"),
        credential_pb2.IssueCredentialRequest(role="a\nb", request_id="r"),
        credential_pb2.IssueCredentialRequest(role="api", request_id="r" * 200),
    ],
)
async def test_a_bent_order_is_refused(
    tmp_path: Path, message: credential_pb2.IssueCredentialRequest
) -> None:
    async with porch(tmp_path) as found:
        guest = await found.attested()
        message.attestation_id = guest.id
        reply = await guest.call(CREDENTIAL + "IssueCredential", message)
        assert (reply.code, reply.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "invalid_request")


async def test_a_challenge_names_a_key(tmp_path: Path) -> None:
    async with porch(tmp_path) as found:
        for spki in (b"", b"x" * 600):
            request = attestation_pb2.GetChallengeRequest()
            request.instance_key.spki = spki
            reply = await call(found.channel(), ATTESTATION + "GetChallenge", request.SerializeToString())
            assert reply.code is grpc.StatusCode.INVALID_ARGUMENT


# --- health and reflection ------------------------------------------------------------------------------


async def healthy(found: Porch, service: str = "") -> int:
    raw = health_pb2.HealthCheckRequest(service=service).SerializeToString()
    reply = await call(found.channel(), HEALTH + "Check", raw)
    assert reply.ok, reply
    return health_pb2.HealthCheckResponse.FromString(reply.raw).status


async def test_health_follows_the_broker(tmp_path: Path) -> None:
    async with porch(tmp_path) as found:
        serving, not_serving = (
            health_pb2.HealthCheckResponse.SERVING,
            health_pb2.HealthCheckResponse.NOT_SERVING,
        )
        assert await healthy(found) == serving
        assert await healthy(found, "lockstep.v1.CredentialService") == serving
        watch = found.channel().unary_stream(HEALTH + "Watch")(
            health_pb2.HealthCheckRequest().SerializeToString()
        )
        first = await watch.read()
        assert health_pb2.HealthCheckResponse.FromString(first).status == serving
        await found.doors._health.enter_graceful_shutdown()
        second = await watch.read()
        assert health_pb2.HealthCheckResponse.FromString(second).status == not_serving
        assert await healthy(found) == not_serving
        watch.cancel()


async def test_junk_to_health_leaks_nothing(tmp_path: Path) -> None:
    async with porch(tmp_path) as found:
        for raw in (b"\xff", b"x" * 100_000):
            reply = await call(found.channel(), HEALTH + "Check", raw)
            assert reply.code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED)
            assert "Error parsing" not in reply.message


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
@pytest.mark.parametrize("on", [True, False])
async def test_reflection_is_there_when_asked_for(tmp_path: Path, on: bool, version: str) -> None:
    async with porch(tmp_path, reflection=on) as found:
        line = reflecting(found, version)
        line.open(SERVICES.SerializeToString())
        if not on:
            # It is refused before it has said anything.
            assert (await line.ended()).code is grpc.StatusCode.UNIMPLEMENTED
            return
        await line.begin()
        answer = await line.read()
        names = {item.name for item in answer.list_services_response.service}
        assert "lockstep.v1.AttestationService" in names
        named = reflection_pb2.ServerReflectionRequest(file_containing_symbol="lockstep.v1.CredentialService")
        await line.send(named)
        [file, *_] = (await line.read()).file_descriptor_response.file_descriptor_proto
        assert descriptor_pb2.FileDescriptorProto.FromString(file).name == "lockstep/v1/credential.proto"
        await line.done()
        assert (await line.ended()).ok


async def test_who_reflects_is_counted_and_measured_message_by_message(tmp_path: Path) -> None:
    async with porch(tmp_path, reflection=True) as found:
        line = reflecting(found, "v1")
        line.open(SERVICES.SerializeToString())
        await line.begin()
        await line.read()
        await line.send(reflection_pb2.ServerReflectionRequest(file_by_filename="x" * 100_000))
        reply = await line.ended()
        assert (reply.code, reply.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "too_large")
    async with porch(tmp_path, reflection=True, rates={"address": Rate(10, 3600.0)}) as found:
        line = reflecting(found, "v1")
        line.open(SERVICES.SerializeToString())
        await line.begin()
        with pytest.raises(grpc.aio.AioRpcError):
            await ask_again(line, 20)
        reply = await line.ended()
        assert (reply.code, reply.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "rate_limited")


async def test_nobody_s_streams_are_bounded_by_address_and_take_no_watcher_s_seat(tmp_path: Path) -> None:
    limits = Limits(streams=1, public_streams_per_address=3)
    async with porch(tmp_path, limits=limits) as found:
        channel = found.channel()
        raw = health_pb2.HealthCheckRequest().SerializeToString()
        watches = [channel.unary_stream(HEALTH + "Watch")(raw) for _ in range(3)]
        for watch in watches:
            assert await watch.read()
        refused = channel.unary_stream(HEALTH + "Watch")(raw)
        assert await refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        opening = revocation_pb2.WatchRevocationsRequest(open=revocation_pb2.WatchOpen())
        line = Line(found.channel(), REVOCATION + "WatchRevocations", revocation_pb2.WatchRevocationsResponse)
        line.open(opening.SerializeToString(), bearer(found.operator("ann", "read")))
        await line.begin()
        assert (await line.read()).snapshot.complete
        for watch in watches:
            watch.cancel()


SERVICES = reflection_pb2.ServerReflectionRequest(list_services="")


async def ask_again(line: Line, times: int) -> None:
    for _ in range(times):
        await line.read()
        await line.send(SERVICES)


def reflecting(found: Porch, version: str) -> Line:
    method = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
    return Line(found.channel(), method, reflection_pb2.ServerReflectionResponse)
