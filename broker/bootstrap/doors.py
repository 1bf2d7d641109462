"""The doors of one broker: every room at its door, behind one gate."""

from __future__ import annotations

import structlog

from broker.api.access import GRPC
from broker.api.answers import Answers
from broker.api.attestation import AttestationRoom
from broker.api.callers import DoorRates, Threshold
from broker.api.credentials import CredentialRoom
from broker.api.decisions import DecisionRoom
from broker.api.detections import DetectionRoom
from broker.api.drain import Drain
from broker.api.http.app import build_app
from broker.api.http.gate import GateRoom
from broker.api.http.introspection import TokenRoom
from broker.api.http.server import HttpDoor
from broker.api.http.status import Readiness, StatusRoom
from broker.api.http.webhooks import WebhookRoom
from broker.api.interceptors import Gate
from broker.api.manifests import ManifestRoom
from broker.api.metrics import Metrics
from broker.api.oversight import OversightRoom
from broker.api.proofs import KnownKeys, Possession, UsedProofs
from broker.api.revocations import RevocationRoom
from broker.api.routes import Route
from broker.api.seats import Seats
from broker.api.server import DoorConfig, Doors
from broker.api.tasks import Crew
from broker.api.tls import Certificates
from broker.api.watching import WatchRoom
from broker.bootstrap import limits as bounds
from broker.bootstrap.live import Live, LiveComponents, LiveDetectors, LiveIdentities, LiveRoles
from broker.bootstrap.targets import Targets
from broker.bootstrap.verbs import Verbs
from broker.crypto.proof import RollingNonce
from broker.ports import Clock, RevocationFeed, StateStore, TokenSigner
from broker.settings.server import Server, gate_issuer

_GRANTS_AT_ONCE = 1000


def open_doors(
    server: Server,
    live: Live,
    verbs: Verbs,
    *,
    clock: Clock,
    secret: bytes,
    tokens: TokenSigner,
    gate_keys: TokenSigner | None,
    state: StateStore,
    feed: RevocationFeed,
    certificates: Certificates,
    drain: Drain,
    targets: Targets,
    log: structlog.typing.FilteringBoundLogger,
) -> Doors:
    """Built, not yet started; `secret` is behind the rolling nonce."""
    limits = bounds.doors(server.limits)
    metrics = Metrics()
    possession = Possession(
        server.cluster,
        RollingNonce(secret),
        KnownKeys(state, limits.known_keys),
        UsedProofs(limits.known_proofs),
    )
    roles = LiveRoles(live)
    threshold = Threshold(possession, LiveIdentities(live), roles, DoorRates(verbs.rates))
    crew = Crew(_GRANTS_AT_ONCE, log)
    watch = WatchRoom(feed, state, roles, clock, drain, limits, metrics)
    rooms = (
        AttestationRoom(verbs.verifier),
        CredentialRoom(verbs.issuer, crew),
        RevocationRoom(verbs.revoker, verbs.proposer, watch),
        DetectionRoom(verbs.reporter, roles, clock, metrics),
        ManifestRoom(verbs.publisher, roles),
        DecisionRoom(verbs.explainer),
        OversightRoom(verbs.overseer, verbs.approver),
    )
    routes: dict[str, Route] = {method: route for room in rooms for method, route in room.routes().items()}
    unserved = [method for method, row in GRPC.items() if not row.foreign and method not in routes]
    if unserved:
        raise AssertionError(f"no room serves {unserved[0]}")
    gate = Gate(routes, threshold, clock, limits, Seats(limits), Answers(metrics, log))
    readiness = Readiness(feed, drain, limits)
    # The feed was loaded before the doors are built: nothing is ever served without it.
    readiness.loaded()
    answers = {
        **WebhookRoom(LiveDetectors(live), verbs.reporter, clock, limits, metrics).answers(),
        **TokenRoom(verbs.issuer, verbs.revoker, tokens, feed, server.issuer, limits).answers(),
        **GateRoom(gate_keys, gate_issuer(server.issuer)).answers(),
        **StatusRoom(
            readiness,
            metrics,
            state,
            feed,
            clock,
            metrics_local_only=server.http.metrics == "loopback",
            components=LiveComponents(live, targets.states),
            given_up=verbs.upkeep.given_up,
        ).answers(),
    }
    listen = server.listen
    http = None
    if listen.http:
        app = build_app(answers, threshold, clock, limits, metrics, log)
        http = HttpDoor(str(listen.http), app, certificates.https(), limits)
    config = DoorConfig(
        tls=str(listen.tls or ""), mtls=str(listen.mtls or ""), reflection=server.reflection, limits=limits
    )
    return Doors(config, gate, certificates, crew, drain, log, http)
