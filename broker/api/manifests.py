"""ManifestService: publish, look, retire, withdraw, lower."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Protocol

from broker.api.arrival import Call
from broker.api.convert import manifests as convert
from broker.api.convert.scalars import digest, text
from broker.api.routes import Route, Unary
from broker.errors import Denied, InvalidRequest
from broker.model.caller import DetectorCaller, OperatorCaller
from broker.model.manifest import MAX_VERSION, ManifestRecord
from broker.model.requests import LowerAnswer, PublishAnswer, WithdrawAnswer
from broker.ports import RoleSource
from lockstep.formats import Reason
from lockstep.v1 import manifest_pb2 as pb

_SERVICE = "/lockstep.v1.ManifestService/"


class Publisher(Protocol):
    """What this room needs of `broker.publish.Publisher`."""

    async def publish(self, envelope: bytes, actor: str) -> PublishAnswer: ...
    async def retire(
        self, digest: bytes, actor: str, reason: str, ticket: str
    ) -> tuple[ManifestRecord, str]: ...
    async def withdraw(self, digest: bytes, actor: str, reason: str, ticket: str) -> WithdrawAnswer: ...
    async def lower(
        self, application: str, version: int, actor: str, reason: str, ticket: str
    ) -> LowerAnswer: ...
    async def get(self, digest: bytes | None, application: str, version: int) -> ManifestRecord: ...
    def list(self, application: str, include_ended: bool) -> AsyncIterator[ManifestRecord]: ...


class ManifestRoom:
    """One verb a method."""

    def __init__(self, publisher: Publisher, roles: RoleSource) -> None:
        self._publisher = publisher
        self._roles = roles

    def routes(self) -> Mapping[str, Route]:
        """Full method to route."""
        return {
            _SERVICE + "PublishManifest": Unary(pb.PublishManifestRequest, self.publish),
            _SERVICE + "GetManifest": Unary(pb.GetManifestRequest, self.get),
            _SERVICE + "ListManifests": Unary(pb.ListManifestsRequest, self.list),
            _SERVICE + "RetireManifest": Unary(pb.RetireManifestRequest, self.retire),
            _SERVICE + "WithdrawManifest": Unary(pb.WithdrawManifestRequest, self.withdraw),
            _SERVICE + "LowerMinVersion": Unary(pb.LowerMinVersionRequest, self.lower),
        }

    async def publish(
        self, request: pb.PublishManifestRequest, call: Call[OperatorCaller]
    ) -> pb.PublishManifestResponse:
        """A signed manifest."""
        answer = await self._publisher.publish(request.envelope, call.caller.actor)
        return pb.PublishManifestResponse(
            manifest=convert.summary(answer.record),
            decision_id=answer.decision_id,
            in_force=answer.in_force,
            signatures_present=answer.signatures_present,
            signatures_required=answer.signatures_required,
        )

    async def get(
        self, request: pb.GetManifestRequest, call: Call[OperatorCaller | DetectorCaller]
    ) -> pb.GetManifestResponse:
        """By digest, by version, or the newest in force."""
        named = digest(request.digest, "digest") if request.digest else None
        application = text(request.application, "application", 128)
        if named is None and not application:
            raise InvalidRequest("name a digest or an application")
        if request.version > MAX_VERSION:
            raise InvalidRequest("version: too large")
        record = await self._publisher.get(named, application, request.version)
        if not self._sees(call.caller, record.manifest.application):
            raise Denied(Reason.NOT_ENTITLED, "no role within the scope of your right runs this application")
        return pb.GetManifestResponse(manifest=convert.summary(record), envelope=record.envelope)

    async def list(
        self, request: pb.ListManifestsRequest, call: Call[OperatorCaller | DetectorCaller]
    ) -> pb.ListManifestsResponse:
        """Newest version first."""
        application = text(request.application, "application", 128)
        return pb.ListManifestsResponse(
            manifests=[
                convert.summary(record)
                async for record in self._publisher.list(application, request.include_ended)
                if self._sees(call.caller, record.manifest.application)
            ]
        )

    def _sees(self, caller: OperatorCaller | DetectorCaller, application: str) -> bool:
        """An operator with a scope sees what its roles run."""
        if isinstance(caller, DetectorCaller):
            return True
        return caller.reach("read").touches_application(self._roles.current(), application)

    async def retire(
        self, request: pb.RetireManifestRequest, call: Call[OperatorCaller]
    ) -> pb.RetireManifestResponse:
        """No new starts."""
        record, decision = await self._publisher.retire(
            digest(request.digest, "digest"), call.caller.actor, *_why(request.reason, request.ticket)
        )
        return pb.RetireManifestResponse(manifest=convert.summary(record), decision_id=decision)

    async def withdraw(
        self, request: pb.WithdrawManifestRequest, call: Call[OperatorCaller]
    ) -> pb.WithdrawManifestResponse:
        """Revokes what runs under it."""
        answer = await self._publisher.withdraw(
            digest(request.digest, "digest"), call.caller.actor, *_why(request.reason, request.ticket)
        )
        return pb.WithdrawManifestResponse(
            manifest=convert.summary(answer.record),
            decision_id=answer.decision_id,
            revocation_id=answer.revocation_id,
            attestations=answer.attestations,
        )

    async def lower(
        self, request: pb.LowerMinVersionRequest, call: Call[OperatorCaller]
    ) -> pb.LowerMinVersionResponse:
        """Older versions may come again."""
        application = text(request.application, "application", 128, empty=False)
        answer = await self._publisher.lower(
            application, request.min_version, call.caller.actor, *_why(request.reason, request.ticket)
        )
        return pb.LowerMinVersionResponse(decision_id=answer.decision_id, before=answer.before)


def _why(reason: str, ticket: str) -> tuple[str, str]:
    return text(reason, "reason", 1000), text(ticket, "ticket", 1000)
