"""The conversation with the broker, one blocking verb a method: attest, reattest, issue, renew, give back."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, TypeVar

from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from lockstep.formats import Reason
from lockstep.v1 import attestation_pb2, credential_pb2, evidence_pb2
from lockstep_client import messages, methods
from lockstep_client.callers import Anonymous, Instance
from lockstep_client.clock import Clock
from lockstep_client.errors import Denied, LockstepError
from lockstep_client.evidence import EvidenceSource
from lockstep_client.holding import Attestation, Held, RoleStanding
from lockstep_client.messages import InstanceKey
from lockstep_client.secrets import Secret
from lockstep_client.transport import CALL_TIMEOUT, Transport
from lockstep_client.words import word

A = TypeVar("A")

ATTEST_TIMEOUT = 15.0
"""Seconds: a large code set is verified and stored."""


class Exchange:
    """One instance's side. `identity` gives the JWT at each call, or None for the client certificate."""

    def __init__(
        self,
        transport: Transport,
        key: InstanceKey,
        cluster: str,
        identity: Callable[[], str | None],
        evidence: EvidenceSource,
        clock: Clock,
    ) -> None:
        self._transport = transport
        self._identity = identity
        self._evidence = evidence
        self._clock = clock
        self.key = key
        self.caller = Instance(key, cluster, clock)

    def attest(self, roles: Iterable[str] = (), *, dry_run: bool = False) -> Attestation:
        """Identity and the whole code set. Raises `Denied`, `Unavailable`, `ConfigurationError`."""
        wanted = tuple(roles)
        # What a first connection loads is measured with the rest; and nothing is, where nobody is there.
        self._transport.connect()
        self._evidence.measure(whole=True)

        def ask(nonce: bytes) -> attestation_pb2.AttestResponse:
            request = messages.attest(
                self.key,
                identity=messages.identity_proof(self._identity()),
                nonce=nonce,
                evidence=self._evidence.seal(nonce, self.key),
                roles=wanted,
                dry_run=dry_run,
            )
            return self._transport.unary(methods.ATTEST, request, self.caller, ATTEST_TIMEOUT)

        asked_at, answer = self._challenged(ask)
        if not dry_run:
            self._evidence.settle()
        return _attestation(answer.attestation_id, answer, asked_at)

    def reattest(self, attestation_id: str) -> Attestation:
        """Fresh identity, fresh nonce, and what was loaded since."""
        self._evidence.measure(whole=False)

        def ask(nonce: bytes) -> attestation_pb2.ReattestResponse:
            request = messages.reattest(
                attestation_id,
                identity=messages.identity_proof(self._identity()),
                nonce=nonce,
                evidence=self._evidence.seal(nonce, self.key),
            )
            return self._transport.unary(methods.REATTEST, request, self.caller, ATTEST_TIMEOUT)

        asked_at, answer = self._challenged(ask)
        self._evidence.settle()
        return _attestation(attestation_id, answer, asked_at)

    def issue(self, attestation_id: str, role: str, request_id: str) -> Held:
        """A credential for a role; `request_id` stays the same over retries."""
        asked_at = self._clock.steady()
        request = messages.issue(attestation_id, role, request_id)
        answer = self._transport.unary(methods.ISSUE, request, self.caller, 2 * CALL_TIMEOUT)
        token, fields = _secrets(answer.credential)
        held = _held(answer.lease, token, fields, _parameters(answer.parameters), asked_at)
        return _rotating(replace(held, issued=asked_at), answer.rotation)

    def renew(self, attestation_id: str, held: Held) -> Held:
        """The same lease, longer; with a new secret where its kind needs one."""
        asked_at = self._clock.steady()
        request = credential_pb2.RenewLeaseRequest(attestation_id=attestation_id, lease_id=held.lease_id)
        answer = self._transport.unary(methods.RENEW, request, self.caller, 2 * CALL_TIMEOUT)
        token, fields, issued = held.token, held.fields, held.issued
        if answer.HasField("credential"):
            token, fields = _secrets(answer.credential)
            issued = asked_at
        renewed = _held(answer.lease, token, fields, held.parameters, asked_at)
        return _rotating(replace(renewed, issued=issued), answer.rotation)

    def give_back(self, attestation_id: str, lease_id: str, timeout: float) -> None:
        """Ends a lease early."""
        request = credential_pb2.RevokeLeaseRequest(attestation_id=attestation_id, lease_id=lease_id)
        self._transport.unary(methods.REVOKE_LEASE, request, self.caller, timeout)

    def _challenged(self, ask: Callable[[bytes], A]) -> tuple[float, A]:
        """A fresh nonce, then the call; once more where the nonce was lost on the way (a lost answer spends it).

        It lives for 30 s: what is asked with it has been measured before.
        """
        for last in (False, True):
            challenge = self._transport.unary(
                methods.GET_CHALLENGE, messages.challenge(self.key), Anonymous()
            )
            asked_at = self._clock.steady()
            try:
                return asked_at, ask(challenge.nonce)
            except Denied as error:
                if last or error.reason != Reason.CHALLENGE_REJECTED:
                    raise
        raise AssertionError("unreachable")


def needs_new_attestation(error: LockstepError) -> bool:
    """True where the broker no longer knows the old attestation, and asking anew is what it expects."""
    return error.reason in (
        Reason.ATTESTATION_EXPIRED,
        Reason.STALE_EVIDENCE,
        Reason.NOT_FOUND,
    )


def _attestation(
    attestation_id: str,
    answer: attestation_pb2.AttestResponse | attestation_pb2.ReattestResponse,
    asked_at: float,
) -> Attestation:
    lifetime = _seconds(answer.expires_in)
    roles = {item.role: _standing(item) for item in answer.roles}
    grace = _seconds(answer.silence.grace) if answer.HasField("silence") else 30.0
    return Attestation(
        id=attestation_id,
        decision=answer.decision_id,
        status=word(attestation_pb2.AttestationStatus, answer.status, "ATTESTATION_STATUS_"),
        assurance=word(evidence_pb2.AssuranceLevel, answer.assurance, "ASSURANCE_LEVEL_"),
        expires_at=_time(answer.expires_at),
        roles=MappingProxyType(roles),
        as_of=answer.as_of,
        # Counted from before the question, so that no clock of the workload's matters.
        ends=asked_at + lifetime,
        lifetime=lifetime,
        silence_grace=grace,
        silence_then=answer.silence.then or "drop",
    )


def _standing(item: attestation_pb2.RoleResult) -> RoleStanding:
    return RoleStanding(
        role=item.role,
        status=word(attestation_pb2.AttestationStatus, item.status, "ATTESTATION_STATUS_"),
        mode=word(attestation_pb2.Mode, item.mode, "MODE_"),
        granted=item.granted,
        reason=item.reason,
        findings=item.findings,
        decision=item.decision_id,
    )


def _held(
    lease: credential_pb2.Lease,
    token: Secret | None,
    fields: Mapping[str, Secret],
    parameters: Mapping[str, Any],
    asked_at: float,
) -> Held:
    lifetime = _seconds(lease.expires_in)
    return Held(
        lease_id=lease.lease_id,
        role=lease.role,
        mode=word(attestation_pb2.Mode, lease.mode, "MODE_"),
        decision=lease.decision_id,
        revocability=word(credential_pb2.Revocability, lease.revocability, "REVOCABILITY_"),
        possession_required=lease.possession_required,
        renewable=lease.renewable,
        expires_at=_time(lease.expires_at),
        ends=asked_at + lifetime,
        lifetime=lifetime,
        token=token,
        fields=fields,
        parameters=parameters,
    )


def _rotating(held: Held, rotation: credential_pb2.Rotation) -> Held:
    return replace(held, rotate_every=_seconds(rotation.every), overlap=_seconds(rotation.overlap))


def _secrets(credential: credential_pb2.Credential) -> tuple[Secret | None, Mapping[str, Secret]]:
    if credential.WhichOneof("kind") == "token":
        return Secret(credential.token), MappingProxyType({})
    values = credential.fields.values
    return None, MappingProxyType({name: Secret(values[name]) for name in values})


def _parameters(struct: Struct) -> Mapping[str, Any]:
    return MappingProxyType(json_format.MessageToDict(struct))


def _seconds(duration: Duration) -> float:
    return duration.seconds + duration.nanos / 1e9


def _time(stamp: Timestamp) -> dt.datetime:
    return stamp.ToDatetime(tzinfo=dt.UTC)
