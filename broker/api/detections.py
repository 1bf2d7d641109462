"""DetectionService: reports on a stream, each answered by its sequence once it is durable."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Protocol

from broker.api.access import GRPC
from broker.api.arrival import Call
from broker.api.callers import Named
from broker.api.convert import detections as convert
from broker.api.duplex import Duplex
from broker.api.metrics import Metrics
from broker.api.routes import Route, Stream
from broker.api.standing import Standing
from broker.errors import Denied, InvalidRequest
from broker.model.caller import DetectorCaller, WorkloadCaller
from broker.model.detection import Detection
from broker.model.requests import ReportAnswer
from broker.model.role import DetectorPolicy
from broker.ports import Clock, RoleSource
from lockstep.formats import Reason
from lockstep.v1 import detection_pb2 as pb

Reports = Duplex[pb.ReportRequest, pb.ReportResponse]


class Reporter(Protocol):
    """What this room needs of `broker.report.Reporter`."""

    async def report(self, detection: Detection, policy: DetectorPolicy) -> ReportAnswer: ...
    async def report_self(self, caller: WorkloadCaller, detection: Detection) -> ReportAnswer: ...


def by_open(message: pb.ReportRequest) -> Named:
    """The attestation that the opening message names."""
    return Named(attestation_id=message.open.attestation_id)


class DetectionRoom:
    """A workload speaks of itself, a detector of what its scope has."""

    def __init__(self, reporter: Reporter, roles: RoleSource, clock: Clock, metrics: Metrics) -> None:
        self._reporter = reporter
        self._roles = roles
        self._clock = clock
        self._metrics = metrics

    def routes(self) -> Mapping[str, Route]:
        """Full method to route."""
        return {"/lockstep.v1.DetectionService/Report": Stream(pb.ReportRequest, self.run, by_open)}

    async def run(
        self, first: pb.ReportRequest, call: Call[WorkloadCaller | DetectorCaller], duplex: Reports
    ) -> None:
        """Until the reporter has no more to say, or may say no more."""
        if first.WhichOneof("message") != "open":
            raise InvalidRequest("the first message opens the stream")
        caller = call.caller
        if isinstance(caller, DetectorCaller) and first.open.detector not in ("", caller.policy.name):
            raise Denied(Reason.NOT_ENTITLED, "this identity is another detector")
        name = "self" if isinstance(caller, WorkloadCaller) else caller.policy.name
        standing = Standing(caller, GRPC[call.method], self._roles)
        while (message := await self._next(duplex, standing)) is not None:
            caller = self._still(standing, name)
            kind = message.WhichOneof("message")
            if kind == "heartbeat":
                await duplex.send(pb.ReportResponse(seq=message.heartbeat.seq))
                continue
            if kind != "detection":
                raise InvalidRequest("after the opening, detections and heartbeats")
            started = self._clock.monotonic()
            detection = convert.detection(message.detection, name, self._clock.now())
            if isinstance(caller, WorkloadCaller):
                answer = await self._reporter.report_self(caller, detection)
            else:
                answer = await self._reporter.report(detection, caller.policy)
            self._metrics.detection(name, answer.state, self._clock.monotonic() - started)
            await duplex.send(convert.report_response(message.detection.seq, answer))

    async def _next(self, duplex: Reports, standing: Standing) -> pb.ReportRequest | None:
        """The next message; raises at the end of the identity, also where none comes."""
        while True:
            until = standing.until
            wait = None if until is None else until - self._clock.now()
            try:
                async with asyncio.timeout(wait):
                    return await duplex.receive()
            except TimeoutError:
                standing.current(self._clock.now())

    def _still(self, standing: Standing, name: str) -> WorkloadCaller | DetectorCaller:
        """The reporter as it is by now, a detector with the policy of now. Raises `Denied`, `Unauthenticated`."""
        caller = standing.current(self._clock.now())
        if isinstance(caller, WorkloadCaller):
            return caller
        if not isinstance(caller, DetectorCaller) or caller.policy.name != name:
            raise Denied(Reason.NOT_ENTITLED, "this identity is another detector now: open the stream again")
        return caller
