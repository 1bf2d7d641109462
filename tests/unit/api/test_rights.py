"""Operators at the door: whoever has not the right, or not so far, hears a clear no, at every call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest

from broker.api.access import GRPC, Who
from broker.model.detection import DetectionState
from broker.model.identity import IdentityMatch
from broker.model.revocation import SelectorKind
from broker.model.role import Cap, Scope
from broker.settings.operators import RIGHTS
from lockstep.v1 import (
    credential_pb2,
    decision_pb2,
    manifest_pb2,
    oversight_pb2,
    revocation_pb2,
)
from tests.support.house import policy, role
from tests.unit.api.porch import CREDENTIAL, REVOCATION, Guest, Line, Porch, Reply, bearer, call, porch
from tests.unit.api.test_watch import opened, snapshot

OVERSIGHT = "/lockstep.v1.OversightService/"
EXPLAIN = "/lockstep.v1.DecisionService/ExplainDecision"
OPERATORS_CALLS = sorted(name for name, row in GRPC.items() if row.admits(Who.OPERATOR))
TEAM = Scope(owners=("team",))
LONELY = Scope(owners=("lonely",))
SCOPED = ("read", "explain", "approve", "lift", "revoke:*")


def others(right: str) -> tuple[str, ...]:
    """Every right but this one, and but the family of it."""
    family = f"{right.partition(':')[0]}:" if ":" in right else ""
    return tuple(item for item in RIGHTS if item != right and not (family and item.startswith(family)))


def refused(reply: Reply) -> None:
    """The clear no."""
    assert reply.code is grpc.StatusCode.PERMISSION_DENIED, reply
    assert reply.reason == "not_entitled"


@pytest.mark.parametrize("name", OPERATORS_CALLS)
async def test_who_has_every_other_right_may_not(tmp_path: Path, name: str) -> None:
    row = GRPC[name]
    async with porch(tmp_path) as found:
        # An identity is nobody else: whoever may explain what is its own is no operator for that.
        token = bearer(found.operator("ann", *others(row.right)))
        message: Any = found.routes[name].request()
        if row.stream:
            line = Line(found.channel(), name, type(message)).open(b"", token)
            await line.begin()
            refused(await line.ended())
        elif row.admits(Who.IDENTITY):
            reply = await call(found.channel(), name, _explaining("D-unknown"), token)
            assert reply.code is grpc.StatusCode.NOT_FOUND
        else:
            refused(await call(found.channel(), name, message.SerializeToString(), token))


def _explaining(wanted: str) -> bytes:
    return decision_pb2.ExplainDecisionRequest(decision_id=wanted).SerializeToString()


class World:
    """Of the team: an instance with a lease, one that a report has revoked, and one that is held beyond the cap."""

    guest: Guest
    lease: str
    revocation: str
    held: str

    @classmethod
    async def of(cls, found: Porch) -> World:
        self, house = cls(), found.house
        nobody = role(
            "lone",
            owner="lonely",
            identity=IdentityMatch("oidc", subject="lone"),
            manifests=("lonely",),
        )
        found.reload(roles={**house.people.book.roles, "lone": nobody})
        self.guest, gone, held = [await found.attested() for _ in range(3)]
        self.lease = (await self.guest.issue()).lease.lease_id
        one = policy(cap=Cap(1, 1.0, 3600.0))
        applied = await house.report(detector=one, attestation=gone.id)
        record = await house.look(lambda tx: tx.detections.get(applied.detection_id))
        self.revocation = record.revocation_id
        waits = await house.report(detector=one, attestation=held.id)
        assert waits.state is DetectionState.HELD
        self.held = waits.detection_id
        return self


async def test_lists_show_a_scope_only_what_is_within(tmp_path: Path) -> None:
    async with porch(tmp_path) as found:
        await World.of(found)
        for scope in (TEAM, LONELY):
            token = bearer(found.operator("ann", "read", scope=scope))
            asked = [
                (CREDENTIAL + "ListLeases", credential_pb2.ListLeasesResponse, "leases"),
                (OVERSIGHT + "ListAttestations", oversight_pb2.ListAttestationsResponse, "attestations"),
                (OVERSIGHT + "ListDetections", oversight_pb2.ListDetectionsResponse, "detections"),
                (OVERSIGHT + "ListRevocations", oversight_pb2.ListRevocationsResponse, "revocations"),
                (OVERSIGHT + "ListDecisions", oversight_pb2.ListDecisionsResponse, "decisions"),
            ]
            for name, answer, field in asked:
                reply = await call(found.channel(), name, b"", token)
                assert reply.ok, reply
                shown = getattr(answer.FromString(reply.raw), field)
                assert bool(shown) is (scope is TEAM), (name, shown)


async def test_acts_outside_a_scope_are_refused_one_by_one(tmp_path: Path) -> None:
    async with porch(tmp_path) as found:
        world = await World.of(found)
        house = found.house
        log = await house.log()
        token = bearer(found.operator("ann", *SCOPED, scope=LONELY))
        why = {"reason": "x"}
        selector = revocation_pb2.Selector
        asked: list[tuple[str, Any]] = [
            (CREDENTIAL + "RevokeLease", credential_pb2.RevokeLeaseRequest(lease_id=world.lease)),
            (REVOCATION + "Lift", revocation_pb2.LiftRequest(revocation_id=world.revocation, **why)),
            (REVOCATION + "GetReceipt", revocation_pb2.GetReceiptRequest(revocation_id=world.revocation)),
            (EXPLAIN, decision_pb2.ExplainDecisionRequest(decision_id=world.guest.id)),
            (
                OVERSIGHT + "ApproveDetection",
                oversight_pb2.ApproveDetectionRequest(detection_id=world.held),
            ),
            (
                OVERSIGHT + "DismissDetection",
                oversight_pb2.DismissDetectionRequest(detection_id=world.held, **why),
            ),
            (
                "/lockstep.v1.ManifestService/GetManifest",
                manifest_pb2.GetManifestRequest(application="payments"),
            ),
            *(
                (REVOCATION + "Revoke", revocation_pb2.RevokeRequest(selector=target, **why, dry_run=dry_run))
                for dry_run in (True, False)
                for target in (
                    selector(attestation_id=world.guest.id),
                    selector(lease_id=world.lease),
                    selector(identity="https://issuer.example|payments"),
                    selector(node="node-1"),
                    selector(digest=b"d" * 32),
                    selector(package="pkg:pypi/x@1"),
                    selector(manifest=b"m" * 32),
                )
            ),
        ]
        for name, message in asked:
            reply = await call(found.channel(), name, message.SerializeToString(), token)
            refused(reply)
        assert await house.log() == log
        listed = await call(found.channel(), "/lockstep.v1.ManifestService/ListManifests", b"", token)
        assert not manifest_pb2.ListManifestsResponse.FromString(listed.raw).manifests


async def test_a_caller_that_knows_no_proposals_is_refused_rather_than_misled(tmp_path: Path) -> None:
    async with porch(tmp_path) as found:
        world = await World.of(found)
        log = await found.house.log()
        right = "revoke:attestation"
        ann = bearer(found.operator("ann", right, quorum={right: 2}))
        order = revocation_pb2.RevokeRequest(
            selector=revocation_pb2.Selector(attestation_id=world.guest.id), reason="x"
        )
        reply = await call(found.channel(), REVOCATION + "Revoke", order.SerializeToString(), ann)
        refused(reply)
        assert "takes 2 operators" in reply.message
        order.propose = True
        reply = await call(found.channel(), REVOCATION + "Revoke", order.SerializeToString(), ann)
        answer = revocation_pb2.RevokeResponse.FromString(reply.raw)
        assert answer.revocation_id == ""
        assert answer.proposal.state == revocation_pb2.PROPOSAL_STATE_OPEN
        assert [item.attestation_id for item in answer.preview.instances] == [world.guest.id]
        assert await found.house.log() == log
        proposal = answer.proposal.proposal_id
        confirm = revocation_pb2.ConfirmRevocationRequest(proposal_id=proposal).SerializeToString()
        # The right that it takes is that of the selector, and no other of the family.
        other = bearer(found.operator("eve", "revoke:digest"))
        refused(await call(found.channel(), REVOCATION + "ConfirmRevocation", confirm, other))
        refused(await call(found.channel(), REVOCATION + "ConfirmRevocation", confirm, ann))
        bob = bearer(found.operator("bob", right, quorum={right: 2}))
        reply = await call(found.channel(), REVOCATION + "ConfirmRevocation", confirm, bob)
        done = revocation_pb2.ConfirmRevocationResponse.FromString(reply.raw)
        assert done.outcome == revocation_pb2.CONFIRM_OUTCOME_REVOKED
        assert done.revocation.revocation_id == proposal


async def test_a_watcher_with_a_scope_sees_what_hits_its_roles(tmp_path: Path) -> None:
    async with porch(tmp_path) as found:
        world = await World.of(found)
        house = found.house
        for scope, sees in ((TEAM, True), (LONELY, False)):
            line = await opened(found, found.operator("ann", "read", scope=scope))
            events, position = await snapshot(line)
            assert bool(events) is sees
            assert {item.selector.WhichOneof("target") for item in events} <= {"attestation_id", "identity"}
            assert position.log_id != house.feed.denials.head.log_id
            line.cancel()
        token = found.operator("ann", "read", scope=TEAM)
        line = await opened(found, token)
        await snapshot(line)
        await house.revoke(SelectorKind.NODE, "node-1")
        await house.revoke(SelectorKind.ATTESTATION, world.guest.id)
        answer = await line.read()
        assert answer.event.selector.attestation_id == world.guest.id
        line.cancel()


async def test_a_watcher_whose_scope_changes_begins_anew(tmp_path: Path) -> None:
    async with porch(tmp_path) as found:
        await World.of(found)
        line = await opened(found, found.operator("ann", "read", scope=TEAM))
        _, position = await snapshot(line)
        # What was seen through a narrow scope is no position of the whole log.
        wide = await opened(found, found.operator("ann", "read"), resume=position)
        assert (await wide.read()).WhichOneof("message") == "resync"
        await line.send(revocation_pb2.WatchRevocationsRequest(ping=revocation_pb2.WatchPing(id=1)))
        while (answer := await line.read()).WhichOneof("message") != "resync":
            pass
        assert "may see" in answer.resync.reason
        line.cancel()
        wide.cancel()
