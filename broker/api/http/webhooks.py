"""POST /v1/detections/{source}: authentic reports go to the verb; the answer comes after the verb's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from starlette.responses import JSONResponse, Response

from broker.api.http.app import Answer, Asked
from broker.api.http.body import read_body
from broker.api.limits import Limits
from broker.api.metrics import Metrics
from broker.errors import InvalidRequest, NotFound
from broker.model.detection import Detection, DetectionKind
from broker.model.requests import ReportAnswer
from broker.model.role import DetectorPolicy
from broker.ports import Clock, DetectorSource

_MAX_REPORTS = 1000
_MAX_HEADERS = 64


class Reporter(Protocol):
    """What this room needs of `broker.report.Reporter`."""

    async def report(self, detection: Detection, policy: DetectorPolicy) -> ReportAnswer: ...


class WebhookRoom:
    """Each dialect's plug checks its own signature over the raw bytes."""

    def __init__(
        self, sources: DetectorSource, reporter: Reporter, clock: Clock, limits: Limits, metrics: Metrics
    ) -> None:
        self._sources = sources
        self._reporter = reporter
        self._clock = clock
        self._limits = limits
        self._metrics = metrics

    def answers(self) -> Mapping[tuple[str, str], Answer]:
        """(method, path) to answer."""
        return {("POST", "/v1/detections/{source}"): self.receive}

    async def receive(self, asked: Asked) -> Response:
        """202 with how each report ended, durable; one that fails leaves those before it done."""
        found = self._sources.detector(asked.request.path_params["source"])
        if found is None:
            raise NotFound("no such detector")
        detector, policy = found
        headers = _headers(asked.request.headers.items())
        body = await read_body(asked.request, self._limits.webhook, self._limits.body)
        # The body may have taken its time: signatures are aged by when it was whole.
        detections = detector.parse(headers, body, self._clock.now())
        if len(detections) > _MAX_REPORTS:
            raise InvalidRequest(f"more than {_MAX_REPORTS} reports in one body")
        reports = []
        for detection in detections:
            if detection.kind is DetectionKind.HEARTBEAT:
                continue
            started = self._clock.monotonic()
            answer = await self._reporter.report(detection, policy)
            self._metrics.detection(policy.name, answer.state, self._clock.monotonic() - started)
            reports.append(
                {
                    "event": detection.event_id,
                    "state": answer.state.value,
                    "detection": answer.detection_id,
                    "decision": answer.decision_id,
                    "reason": answer.reason,
                }
            )
        return JSONResponse({"reports": reports}, 202)


def _headers(items: list[tuple[str, str]]) -> Mapping[str, str]:
    """Lower-case names; repeated ones joined as RFC 9110 section 5.3 allows, so that none hides another."""
    if len(items) > _MAX_HEADERS:
        raise InvalidRequest("too many headers")
    found: dict[str, str] = {}
    for name, value in items:
        key = name.lower()
        found[key] = f"{found[key]}, {value}" if key in found else value
    return found
