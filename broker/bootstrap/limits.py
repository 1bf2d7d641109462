"""The configured limits, as each part wants them."""

from __future__ import annotations

from collections.abc import Mapping

from broker.adapters.evidence.sdk import EvidenceLimits
from broker.adapters.feed.local import FeedLimits
from broker.adapters.state.sqlite.store import SqliteLimits
from broker.api.limits import Limits as DoorLimits
from broker.attest import AttestLimits
from broker.issue import IssueLimits
from broker.model.role import Rate
from broker.report import ReportLimits
from broker.revoke import ProposeLimits
from broker.settings.server import Limits, Retention
from broker.upkeep import UpkeepLimits


def doors(limits: Limits) -> DoorLimits:
    """Of gRPC and HTTP."""
    return DoorLimits(
        small=limits.request,
        evidence=limits.evidence,
        manifest=limits.manifest,
        webhook=limits.webhook,
        call=limits.call,
        connection_age=limits.connection_age,
        connection_grace=limits.connection_grace,
        streams_per_connection=limits.streams_per_connection,
        streams_per_caller=limits.streams_per_caller,
        streams=limits.streams,
        public_streams=limits.public_streams,
        public_streams_per_address=limits.public_streams_per_address,
        http_connections=limits.http_connections,
        http_connections_per_address=limits.http_connections_per_address,
        state_age=limits.state_age,
        longest_life=limits.ttl_longest,
    )


def rates(limits: Limits) -> Mapping[str, Rate]:
    """By scope; a detector's rate is its policy's."""
    return {
        "address": Rate(limits.calls_per_address, 1.0),
        "attest": Rate(limits.attestations_per_address, 1.0),
        "identity": Rate(limits.calls_per_identity, 1.0),
        "self": Rate(limits.reports_per_workload, 1.0),
        "refused": Rate(limits.refusals, limits.refusals_per),
    }


def evidence(limits: Limits) -> EvidenceLimits:
    """Of one statement."""
    return EvidenceLimits(
        statement=limits.evidence,
        units=limits.evidence_units,
        hints=limits.evidence_units,
        age=limits.evidence_age,
    )


def feed(limits: Limits) -> FeedLimits:
    """Of watchers: every stream, and those of the broker's own parts."""
    return FeedLimits(queue=limits.watch_queue, subscribers=limits.streams + 16, fresh=limits.state_age)


def state(limits: Limits) -> SqliteLimits:
    """Of the state's queues."""
    return SqliteLimits(queue=limits.state_queue, read_queue=limits.state_queue, patience=limits.state)


def attest(limits: Limits) -> AttestLimits:
    """Of attestations."""
    return AttestLimits(lifetime=limits.attestation, renewal_window=limits.manifest_grace)


def propose(limits: Limits) -> ProposeLimits:
    """Of revocations that wait for a second operator."""
    return ProposeLimits(lifetime=limits.proposal, waiting=limits.proposals)


def issue(limits: Limits) -> IssueLimits:
    """Of leases."""
    return IssueLimits(pending=limits.backend, leases=limits.leases_per_attestation)


def report(limits: Limits) -> ReportLimits:
    """Of reports: an id is remembered for as long as a report of it could still be taken, and some more."""
    return ReportLimits(quarantine=limits.quarantine, replay=max(3600.0, 4 * limits.report_age))


def upkeep(limits: Limits, retention: Retention) -> UpkeepLimits:
    """Of upkeep."""
    return UpkeepLimits(
        interval=limits.poll,
        settle=limits.settle,
        longest_life=limits.ttl_longest,
        instance=limits.instance,
        pending=limits.backend,
        keep_leases=retention.leases,
        keep_detections=retention.detections,
        keep_decisions=retention.decisions,
    )
