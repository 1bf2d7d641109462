"""What the doors count (OpenMetrics names, base units, bounded labels: never a workload, an address or a path)."""

from __future__ import annotations

import time
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, exposition
from prometheus_client.openmetrics import exposition as openmetrics

from broker.model.credential import LeaseState
from broker.model.detection import DetectionState

_CALL_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_STAGE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 6.0, 30.0, 120.0, 600.0)

_OPENMETRICS = "application/openmetrics-text"


class Metrics:
    """One registry of one broker."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._calls = Counter(
            "lockstep_calls",
            "Calls answered, by method and status.",
            ("method", "code"),
            registry=self.registry,
        )
        self._by_call: dict[tuple[str, str], tuple[Counter, Histogram]] = {}
        self._seconds = Histogram(
            "lockstep_call_seconds",
            "Time from a call's arrival to its answer.",
            ("method",),
            unit="seconds",
            buckets=_CALL_BUCKETS,
            registry=self.registry,
        )
        self._refusals = Counter(
            "lockstep_refusals",
            "Calls refused, by method and reason.",
            ("method", "reason"),
            registry=self.registry,
        )
        self._streams = Gauge(
            "lockstep_streams", "Streams that are open.", ("method",), registry=self.registry
        )
        self._detections = Counter(
            "lockstep_detections",
            "Reports answered, by detector and how they ended.",
            ("detector", "state"),
            registry=self.registry,
        )
        self._stages = Histogram(
            "lockstep_revocation_stage_seconds",
            "Time from the decision of a revocation to one of its stages.",
            ("stage",),
            unit="seconds",
            buckets=_STAGE_BUCKETS,
            registry=self.registry,
        )
        self._leases = Gauge("lockstep_leases", "Live leases, by state.", ("state",), registry=self.registry)
        self._stuck = Gauge(
            "lockstep_stuck_leases",
            "Leases whose credential cannot be taken back yet.",
            registry=self.registry,
        )
        self._stuck_accounts = Gauge(
            "lockstep_stuck_accounts",
            "Accounts at backends that cannot be closed yet (counted up to 1,000).",
            registry=self.registry,
        )
        self._given_up = Gauge(
            "lockstep_irrevocable_leases",
            "Leases that a backend has given up taking back, by backend.",
            ("backend",),
            registry=self.registry,
        )
        self._attestations = Gauge("lockstep_attestations", "Attestations alive.", registry=self.registry)
        self._age = Gauge(
            "lockstep_revocation_state_age_seconds",
            "Age of the revocation state that this replica answers from.",
            unit="seconds",
            registry=self.registry,
        )
        self._denials = Gauge("lockstep_denials", "Live entries of the deny set.", registry=self.registry)
        self._contradictions = Counter(
            "lockstep_log_contradictions",
            "Watchers that know more of the revocation log than this state: a copy was restored, and nobody said so.",
            registry=self.registry,
        )
        self._internal = Counter(
            "lockstep_internal_errors",
            "Unexpected failures: each one is a bug.",
            ("method",),
            registry=self.registry,
        )

    def started(self) -> float:
        """Where `call` counts from."""
        return time.perf_counter()

    def call(self, method: str, code: str, started: float) -> None:
        """One call was answered."""
        # Looked up once: a label costs more than what it counts.
        found = self._by_call.get((method, code))
        if found is None:
            found = self._by_call[method, code] = (
                self._calls.labels(method, code),
                self._seconds.labels(method),
            )
        count, seconds = found
        count.inc()
        seconds.observe(time.perf_counter() - started)

    def refused(self, method: str, reason: str) -> None:
        """One call was refused for a reason of the table."""
        self._refusals.labels(method, reason).inc()

    def failed(self, method: str) -> None:
        """Something raised what no table knows."""
        self._internal.labels(method).inc()

    def stream(self, method: str, change: int) -> None:
        """One stream more, or fewer."""
        self._streams.labels(method).inc(change)

    def detection(self, detector: str, state: DetectionState, seconds: float) -> None:
        """One report was answered after some seconds. `detector` is a configured name, or ``self``."""
        self._detections.labels(detector, state.value).inc()
        if state is DetectionState.APPLIED:
            self.stage("denied", seconds)

    def stage(self, name: str, seconds: float) -> None:
        """A revocation reached a stage after some seconds: ``denied`` durably, ``told`` to one watcher."""
        self._stages.labels(name).observe(max(0.0, seconds))

    def contradicted(self) -> None:
        """A watcher resumed from a position that this log should have, and has not."""
        self._contradictions.inc()

    def feed(self, denials: int, age: float) -> None:
        """How much this replica denies, and how old (seconds) its view is."""
        self._denials.set(denials)
        self._age.set(age)

    def state(self, leases: Mapping[LeaseState, int], attestations: int, stuck_accounts: int = 0) -> None:
        """What the state holds now, at a scrape."""
        for lease_state in LeaseState:
            if lease_state.live:
                self._leases.labels(lease_state.value).set(leases.get(lease_state, 0))
        self._stuck.set(leases.get(LeaseState.STUCK, 0))
        self._stuck_accounts.set(stuck_accounts)
        self._attestations.set(attestations)

    def given_up(self, leases: Mapping[str, int]) -> None:
        """How many leases each backend has given up on; a backend that is left out is there no more."""
        self._given_up.clear()
        for backend, count in leases.items():
            self._given_up.labels(backend).set(count)

    def exposition(self) -> bytes:
        """The OpenMetrics text."""
        text: bytes = openmetrics.generate_latest(self.registry)  # type: ignore[no-untyped-call]
        return text

    def answer(self, accept: str) -> tuple[bytes, str]:
        """(text, its media type) for an HTTP ``Accept``: OpenMetrics 1.0 where it is named, else Prometheus' 0.0.4.

        Any text is taken: the client library's own choice raises on a version
        that is no number, and would repeat a caller's words in the answer.
        """
        if any(_takes_openmetrics(offer) for offer in accept.split(",")):
            return self.exposition(), openmetrics.CONTENT_TYPE_LATEST
        return exposition.generate_latest(self.registry), exposition.CONTENT_TYPE_PLAIN_0_0_4


def _takes_openmetrics(offer: str) -> bool:
    name, *parameters = (part.strip().lower() for part in offer.split(";"))
    # Weight zero is a refusal (RFC 9110, section 12.4.2).
    return name == _OPENMETRICS and not any(
        parameter.startswith("q=") and not parameter[2:].strip("0.") for parameter in parameters
    )
