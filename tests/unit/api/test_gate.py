"""The gate: who gets through, and what everybody else is told."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from broker.api.limits import Limits
from broker.model.role import Rate
from lockstep.formats import AUTHORIZATION_METADATA, PROOF_METADATA
from lockstep.v1 import attestation_pb2, credential_pb2, revocation_pb2
from tests.unit.api.porch import ATTESTATION, CREDENTIAL, REVOCATION, bearer, call, porch

ISSUE = CREDENTIAL + "IssueCredential"
LIST = CREDENTIAL + "ListLeases"
MANIFEST = "/lockstep.v1.ManifestService/"


async def test_a_workload_attests_and_gets_a_credential(tmp_path: Path) -> None:
    async with porch(tmp_path) as found:
        guest = await found.attested()
        issued = await guest.issue()
        assert issued.lease.role == "api"
        assert issued.lease.attestation_id == guest.id
        listed = await guest.call(LIST, credential_pb2.ListLeasesRequest(attestation_id=guest.id))
        page = credential_pb2.ListLeasesResponse.FromString(listed.raw)
        assert [lease.lease_id for lease in page.leases] == [issued.lease.lease_id]


async def test_every_answer_bears_the_rolling_nonce(tmp_path: Path) -> None:
    async with porch(tmp_path) as found:
        guest = await found.attested()
        channel = guest.channel
        good = await guest.call(LIST, credential_pb2.ListLeasesRequest(attestation_id=guest.id))
        answers = [
            good,
            await call(channel, ISSUE, b""),
            await call(channel, ISSUE, b"\xff\xff"),
            await call(channel, "/lockstep.v1.Nobody/Home", b""),
            await call(channel, ISSUE, b"", timeout=None),
        ]
        assert {answer.nonce for answer in answers} == {good.nonce}
        assert good.nonce


@pytest.mark.parametrize(
    "path",
    [
        "lockstep.v1.AttestationService/GetChallenge",
        "//lockstep.v1.AttestationService/GetChallenge",
        "/lockstep.v1.AttestationService/GetChallenge/",
        "/lockstep.v1.AttestationService//GetChallenge",
        "/lockstep.v1.AttestationService/%47etChallenge",
        "/lockstep.v1.AttestationService/GetChallenge?x",
        "/lockstep.v1.AttestationService/getchallenge",
        "/lockstep.v1.AttestationService/../AttestationService/GetChallenge",
        "/lockstep.v1.AttestationService/GetChallenge\u0000",
        "/lockstep.v1.NoService/GetChallenge",
        "/",
    ],
)
async def test_a_path_that_is_spelled_otherwise_is_no_method(tmp_path: Path, path: str) -> None:
    async with porch(tmp_path) as found:
        reply = await call(found.channel(), path, b"")
        assert (reply.code, reply.reason) == (grpc.StatusCode.UNIMPLEMENTED, "not_found")
        assert reply.status.code == grpc.StatusCode.UNIMPLEMENTED.value[0]


@pytest.mark.parametrize("junk", [b"\xff", b"\x0a\xff\xff\xff\xff\x0f", b"\x12\x03abc\x08", b"\x0b" * 50])
async def test_malformed_bytes_are_refused_without_quoting_them(tmp_path: Path, junk: bytes) -> None:
    async with porch(tmp_path) as found:
        for method in (ATTESTATION + "GetChallenge", ATTESTATION + "Attest", ISSUE):
            reply = await call(found.channel(), method, junk)
            assert reply.code is grpc.StatusCode.INVALID_ARGUMENT
            assert reply.message == "the message is malformed"
            assert reply.reason == "invalid_request"


async def test_a_message_beyond_its_methods_size_is_refused_before_anything_else(tmp_path: Path) -> None:
    async with porch(tmp_path, limits=Limits(small=1000)) as found:
        guest = found.guest()
        reply = await call(guest.channel, ATTESTATION + "GetChallenge", b"x" * 1001)
        assert (reply.code, reply.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "too_large")
        # So it is where the message is larger than any may be.
        limits = found.limits
        for method in (ATTESTATION + "GetChallenge", ATTESTATION + "Attest", MANIFEST + "PublishManifest"):
            reply = await call(guest.channel, method, bytes(limits.largest + 1))
            assert (reply.code, reply.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "too_large"), method
        # The same size is fine where evidence travels: there it fails only because it is junk.
        reply = await call(guest.channel, ATTESTATION + "Attest", b"x" * 1001)
        assert reply.code is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_call_without_a_deadline_is_refused(tmp_path: Path) -> None:
    async with porch(tmp_path) as found:
        reply = await call(found.channel(), ATTESTATION + "GetChallenge", b"", timeout=None)
        assert reply.code is grpc.StatusCode.INVALID_ARGUMENT
        assert "deadline" in reply.message


async def test_a_long_deadline_is_cut_to_the_limit(tmp_path: Path) -> None:
    async with porch(tmp_path, limits=Limits(call=0.2)) as found:
        guest = await found.attested()
        held = found.house.db.hold("issue")
        reply = await guest.call(ISSUE, guest.issuing("db"))
        assert reply.code is grpc.StatusCode.DEADLINE_EXCEEDED
        # What was begun goes on without its caller.
        assert len(found.crew) == 1
        held.set()
        assert await found.crew.finish(5.0)
        assert len(found.house.db.living) == 1


async def test_a_challenge_that_is_not_ours_leaves_a_line(tmp_path: Path) -> None:
    """It is no decision, since nobody is known yet; it must not be nothing."""
    async with porch(tmp_path) as found:
        guest = found.guest()
        order = await guest.order()
        assert (await guest.call(ATTESTATION + "Attest", order)).ok
        again = await guest.call(ATTESTATION + "Attest", order)
        assert (again.reason, again.info.metadata.get("decision", "")) == ("challenge_rejected", "")
        [line] = [event for _, event in found.lines if event["event"] == "refused"]
        assert (line["method"], line["reason"], line["address"]) == (
            ATTESTATION + "Attest",
            "challenge_rejected",
            "127.0.0.1",
        )
        assert guest.token not in repr(found.lines)


# --- proofs -----------------------------------------------------------------------------------------


async def test_no_proof_no_credential(tmp_path: Path) -> None:
    async with porch(tmp_path) as found:
        guest = await found.attested()
        raw = guest.issuing().SerializeToString()
        reply = await call(guest.channel, ISSUE, raw)
        assert (reply.code, reply.reason) == (grpc.StatusCode.UNAUTHENTICATED, "proof_rejected")
        # An identity, however good, is no proof of possession.
        reply = await call(guest.channel, ISSUE, raw, bearer(guest.token))
        assert reply.reason == "proof_rejected"


@pytest.mark.parametrize(
    "bent",
    [
        {"htm": LIST},
        {"aud": "another"},
        {"dig": "AAAA"},
        {"nonce": "AAAA"},
        {"nonce": None},
        {"jti": "short"},
        {"jti": None},
        {"iat": "yesterday"},
    ],
)
async def test_a_bent_proof_is_rejected(tmp_path: Path, bent: dict[str, object]) -> None:
    async with porch(tmp_path) as found:
        guest = await found.attested()
        reply = await guest.call(ISSUE, guest.issuing(), **bent)
        assert (reply.code, reply.reason) == (grpc.StatusCode.UNAUTHENTICATED, "proof_rejected")
        assert not await found.house.leases()


async def test_a_proof_is_for_the_bytes_that_were_sent(tmp_path: Path) -> None:
    async with porch(tmp_path) as found:
        guest = await found.attested()
        proof = guest.proof(ISSUE, guest.issuing("api").SerializeToString())
        reply = await guest.send(ISSUE, guest.issuing("db").SerializeToString(), proof)
        assert reply.reason == "proof_rejected"
        # Equal meaning in other bytes (fields in another order) is another message.
        raw = guest.issuing().SerializeToString()
        head = credential_pb2.IssueCredentialRequest(attestation_id=guest.id).SerializeToString()
        swapped = raw[len(head) :] + head
        assert credential_pb2.IssueCredentialRequest.FromString(swapped) == guest.issuing()
        reply = await guest.send(ISSUE, swapped, guest.proof(ISSUE, raw))
        assert reply.reason == "proof_rejected"


async def test_another_instances_key_proves_nothing(tmp_path: Path) -> None:
    async with porch(tmp_path) as found:
        guest, thief = await found.attested(), await found.attested()
        reply = await guest.call(ISSUE, guest.issuing(), key=thief.key)
        assert reply.reason == "proof_rejected"


async def test_a_proof_of_a_read_counts_once(tmp_path: Path) -> None:
    async with porch(tmp_path) as found:
        guest = await found.attested()
        raw = credential_pb2.ListLeasesRequest(attestation_id=guest.id).SerializeToString()
        proof = guest.proof(LIST, raw)
        assert (await guest.send(LIST, raw, proof)).ok
        assert (await guest.send(LIST, raw, proof)).reason == "proof_rejected"


async def test_a_proof_of_a_grant_counts_once(tmp_path: Path) -> None:
    async with porch(tmp_path) as found:
        guest = await found.attested()
        raw = guest.issuing().SerializeToString()
        proof = guest.proof(ISSUE, raw)
        assert (await guest.send(ISSUE, raw, proof)).ok
        reply = await guest.send(ISSUE, raw, proof)
        assert (reply.code, reply.reason) == (grpc.StatusCode.UNAUTHENTICATED, "proof_rejected")
        assert len(await found.house.leases()) == 1


async def test_a_full_table_of_proofs_refuses_and_forgets_nothing(tmp_path: Path) -> None:
    async with porch(tmp_path, limits=Limits(known_proofs=2)) as found:
        guest = await found.attested()
        message = credential_pb2.ListLeasesRequest(attestation_id=guest.id)
        raw = message.SerializeToString()
        first = guest.proof(LIST, raw)
        assert (await guest.send(LIST, raw, first)).ok
        assert (await guest.call(LIST, message)).ok
        full = await guest.call(LIST, message)
        assert (full.code, full.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "rate_limited")
        assert (await guest.send(LIST, raw, first)).reason == "proof_rejected"
        # Their nonce has ended: they can never be used again, and make room.
        found.house.clock.advance(61)
        await guest.challenge()
        assert (await guest.call(LIST, message)).ok


async def test_a_stale_nonce_is_answered_with_a_fresh_one(tmp_path: Path) -> None:
    async with porch(tmp_path) as found:
        guest = await found.attested()
        found.house.clock.advance(90)
        reply = await guest.call(ISSUE, guest.issuing())
        assert reply.reason == "proof_rejected"
        assert (await guest.call(ISSUE, guest.issuing())).ok


async def test_an_attestation_that_nobody_knows_says_attest_anew(tmp_path: Path) -> None:
    async with porch(tmp_path) as found:
        guest = found.guest()
        await guest.challenge()
        guest.id = "A-unknown"
        reply = await guest.call(ISSUE, guest.issuing())
        assert (reply.code, reply.reason) == (grpc.StatusCode.PERMISSION_DENIED, "attestation_expired")


async def test_attest_needs_a_proof_by_the_key_that_it_names(tmp_path: Path) -> None:
    async with porch(tmp_path) as found:
        guest, thief = found.guest(), found.guest()
        order = await guest.order()
        reply = await guest.call(ATTESTATION + "Attest", order, key=thief.key)
        assert reply.reason == "proof_rejected"
        raw = order.SerializeToString()
        assert (await call(guest.channel, ATTESTATION + "Attest", raw)).reason == "proof_rejected"
        # Refused at the door: the challenge is not spent.
        assert (await guest.call(ATTESTATION + "Attest", order)).ok


async def test_doubled_and_oversize_credentials_are_refused(tmp_path: Path) -> None:
    async with porch(tmp_path) as found:
        guest = await found.attested()
        raw = guest.issuing().SerializeToString()
        proof = guest.proof(ISSUE, raw)
        for metadata in (
            [(PROOF_METADATA, proof), (PROOF_METADATA, proof)],
            [(PROOF_METADATA, "x" * 5000)],
            [(AUTHORIZATION_METADATA, "Bearer a"), (AUTHORIZATION_METADATA, "Bearer b")],
            [(AUTHORIZATION_METADATA, "Basic YTpi")],
            [(AUTHORIZATION_METADATA, "Bearer ")],
        ):
            reply = await call(guest.channel, ISSUE, raw, metadata)
            assert reply.code is grpc.StatusCode.UNAUTHENTICATED, metadata


# --- callers with an identity -------------------------------------------------------------------------


async def test_an_operator_revokes_what_its_rights_name(tmp_path: Path) -> None:
    async with porch(tmp_path) as found:
        guest = await found.attested()
        token = found.operator("ann", "revoke:attestation")
        channel = found.channel()

        def order(**target: str) -> bytes:
            selector = revocation_pb2.Selector(**target)
            return revocation_pb2.RevokeRequest(selector=selector, reason="why").SerializeToString()

        reply = await call(channel, REVOCATION + "Revoke", order(node="n1"), bearer(token))
        assert (reply.code, reply.reason) == (grpc.StatusCode.PERMISSION_DENIED, "not_entitled")
        reply = await call(channel, REVOCATION + "Revoke", order(attestation_id=guest.id), bearer(token))
        assert reply.ok
        refused = await guest.call(ISSUE, guest.issuing())
        assert (refused.code, refused.reason) == (grpc.StatusCode.PERMISSION_DENIED, "revoked")
        assert refused.info.metadata["decision"]


async def test_rights_are_asked_for_by_the_table(tmp_path: Path) -> None:
    async with porch(tmp_path) as found:
        channel = found.channel()
        reader = bearer(found.operator("reader", "read"))
        nobody = bearer(found.know("nobody"))
        for metadata in (reader, nobody):
            for method in ("Revoke", "Lift"):
                reply = await call(channel, REVOCATION + method, b"", metadata)
                assert reply.reason == "not_entitled"
        assert (await call(channel, LIST, b"", reader)).ok
        assert (await call(channel, LIST, b"", nobody)).reason == "not_entitled"
        assert (await call(channel, LIST, b"")).reason == "no_identity"
        assert (await call(channel, LIST, b"", bearer("unknown"))).reason == "identity_rejected"


async def test_a_proof_speaks_for_no_operator(tmp_path: Path) -> None:
    """A workload's proof beside an operator's token: the call is the workload's."""
    async with porch(tmp_path) as found:
        guest = await found.attested()
        metadata = [
            (PROOF_METADATA, guest.proof(REVOCATION + "Revoke", b"")),
            *bearer(found.operator("ann", "revoke:*")),
        ]
        reply = await call(guest.channel, REVOCATION + "Revoke", b"", metadata)
        assert reply.code is grpc.StatusCode.UNAUTHENTICATED


async def test_a_workload_lists_its_own_leases_only(tmp_path: Path) -> None:
    async with porch(tmp_path) as found:
        guest, other = await found.attested(), await found.attested()
        await other.issue()
        mine = credential_pb2.ListLeasesRequest(attestation_id=guest.id)
        reply = await guest.call(LIST, mine)
        assert not credential_pb2.ListLeasesResponse.FromString(reply.raw).leases
        reply = await guest.call(LIST, credential_pb2.ListLeasesRequest(attestation_id=other.id))
        assert reply.reason == "proof_rejected"


# --- weather ------------------------------------------------------------------------------------------


async def test_rates_of_an_address_and_of_an_identity(tmp_path: Path) -> None:
    async with porch(tmp_path, rates={"identity": Rate(2, 60.0)}) as found:
        reader = bearer(found.operator("reader", "read"))
        replies = [await call(found.channel(), LIST, b"", reader) for _ in range(3)]
        assert [reply.ok for reply in replies] == [True, True, False]
        assert replies[-1].reason == "rate_limited"
        retry = [detail.type_url.rpartition(".")[2] for detail in replies[-1].status.details]
        assert retry == ["ErrorInfo", "RetryInfo"]
        other = bearer(found.operator("other", "read"))
        assert (await call(found.channel(), LIST, b"", other)).ok
    second = tmp_path / "second"
    second.mkdir()
    async with porch(second, rates={"address": Rate(2, 60.0)}) as found:
        codes = [(await call(found.channel(), LIST, b"")).code for _ in range(3)]
        assert codes == [grpc.StatusCode.UNAUTHENTICATED] * 2 + [grpc.StatusCode.RESOURCE_EXHAUSTED]


async def test_an_unexpected_failure_says_nothing_and_is_logged_without_its_text(tmp_path: Path) -> None:
    async with porch(tmp_path) as found:
        guest = await found.attested()
        found.house.db.fail("issue", error=ValueError("password=hunter2"))  # type: ignore[arg-type]
        reply = await guest.call(ISSUE, guest.issuing("db"))
        assert (reply.code, reply.reason) == (grpc.StatusCode.INTERNAL, "internal")
        assert "hunter2" not in reply.message + repr(reply.trailers) + repr(found.lines)
        [(level, line)] = found.lines
        assert level == "error"
        assert line["error"] == "ValueError"
        assert any("backend.py" in place for place in line["at"])


async def test_a_state_that_is_down_is_unavailable(tmp_path: Path) -> None:
    async with porch(tmp_path) as found:
        guest = await found.attested()
        found.house.identities.down = True
        token = bearer(found.operator("ann", "read"))
        reply = await call(guest.channel, LIST, b"", token)
        assert (reply.code, reply.reason) == (grpc.StatusCode.UNAVAILABLE, "identity_unavailable")


async def test_a_caller_that_hangs_up_cancels_no_grant(tmp_path: Path) -> None:
    async with porch(tmp_path) as found:
        guest = await found.attested()
        held = found.house.db.hold("issue")
        raw = guest.issuing("db").SerializeToString()
        metadata = ((PROOF_METADATA, guest.proof(ISSUE, raw)),)
        pending = guest.channel.unary_unary(ISSUE)(raw, metadata=metadata, timeout=10.0)
        while not found.house.db.calls:
            await call(found.channel(), ATTESTATION + "GetChallenge", b"")
        pending.cancel()
        held.set()
        assert await found.crew.finish(5.0)
        [lease] = await found.house.leases()
        assert lease.state.value == "active"
        # The retry with the same request id kills what nobody got.
        reply = await guest.call(ISSUE, guest.issuing("db"))
        assert reply.ok
        second = credential_pb2.IssueCredentialResponse.FromString(reply.raw).lease.lease_id
        states = {item.id: item.state.value for item in await found.house.leases()}
        assert states[second] == "active"
        assert states[lease.id] != "active"


async def test_dry_runs_leave_no_attestation(tmp_path: Path) -> None:
    async with porch(tmp_path) as found:
        guest = found.guest()
        order = await guest.order()
        order.dry_run = True
        reply = await guest.call(ATTESTATION + "Attest", order)
        answer = attestation_pb2.AttestResponse.FromString(reply.raw)
        assert not answer.attestation_id
        assert answer.decision_id
