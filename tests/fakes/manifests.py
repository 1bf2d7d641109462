"""A broker's manifest and decision services over real gRPC and TLS, judged by the broker's own parser and verifier."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2, status_pb2

from broker.crypto.dsse import DsseVerifier
from broker.errors import Denied
from broker.model.manifest import Manifest, ManifestState, parse_manifest
from lockstep.formats import ERROR_DOMAIN, MANIFEST_PAYLOAD_TYPE
from lockstep.v1 import decision_pb2, decision_pb2_grpc, manifest_pb2, manifest_pb2_grpc
from tests.fakes.tls import ServerFiles

TOKEN = "operator.jwt.x"


@dataclass(frozen=True)
class Kept:
    """One manifest that was published."""

    manifest: Manifest
    envelope: bytes
    signers: frozenset[str]
    state: ManifestState


@dataclass
class Desk(manifest_pb2_grpc.ManifestServiceServicer, decision_pb2_grpc.DecisionServiceServicer):
    """Behaves as the services say; `threshold` signatures put a manifest in force."""

    verifier: DsseVerifier
    threshold: int = 1
    kept: list[Kept] = field(default_factory=list)
    decisions: dict[str, decision_pb2.ExplainDecisionResponse] = field(default_factory=dict)
    said: list[tuple[str, str]] = field(default_factory=list)
    floors: dict[str, int] = field(default_factory=dict)

    def PublishManifest(
        self, request: manifest_pb2.PublishManifestRequest, context: grpc.ServicerContext
    ) -> manifest_pb2.PublishManifestResponse:
        self._enter(context)
        try:
            payload, signers = self.verifier.verify(request.envelope, MANIFEST_PAYLOAD_TYPE)
        except Denied as error:
            raise refuse(
                context, grpc.StatusCode.PERMISSION_DENIED, error.reason.value, error.message
            ) from error
        manifest = parse_manifest(payload)
        counted = (item for item in self.of(manifest.application) if item.state is not ManifestState.PROPOSED)
        least = max((item.manifest.version + 1 for item in counted), default=0)
        if manifest.version < self.floors.get(manifest.application, least):
            raise refuse(context, grpc.StatusCode.ABORTED, "rollback", "there is a later version")
        in_force = len(signers) >= self.threshold
        state = ManifestState.IN_FORCE if in_force else ManifestState.PROPOSED
        self.kept.append(Kept(manifest, request.envelope, signers, state))
        return manifest_pb2.PublishManifestResponse(
            manifest=summary(self.kept[-1]),
            decision_id="D-PUB",
            in_force=in_force,
            signatures_present=len(signers),
            signatures_required=self.threshold,
        )

    def GetManifest(
        self, request: manifest_pb2.GetManifestRequest, context: grpc.ServicerContext
    ) -> manifest_pb2.GetManifestResponse:
        self._enter(context)
        for item in self.of(request.application):
            if request.digest:
                match = item.manifest.digest == request.digest
            elif request.version:
                match = item.manifest.version == request.version
            else:
                match = item.state is ManifestState.IN_FORCE
            if match:
                return manifest_pb2.GetManifestResponse(manifest=summary(item), envelope=item.envelope)
        raise refuse(context, grpc.StatusCode.NOT_FOUND, "not_found", "no such manifest")

    def ListManifests(
        self, request: manifest_pb2.ListManifestsRequest, context: grpc.ServicerContext
    ) -> manifest_pb2.ListManifestsResponse:
        self._enter(context)
        live = (ManifestState.IN_FORCE, ManifestState.PROPOSED)
        found = [item for item in self.of(request.application) if request.include_ended or item.state in live]
        return manifest_pb2.ListManifestsResponse(manifests=map(summary, found))

    def RetireManifest(
        self, request: manifest_pb2.RetireManifestRequest, context: grpc.ServicerContext
    ) -> manifest_pb2.RetireManifestResponse:
        item = self._end(request.digest, request.reason, request.ticket, ManifestState.RETIRED, context)
        return manifest_pb2.RetireManifestResponse(manifest=summary(item), decision_id="D-RET")

    def WithdrawManifest(
        self, request: manifest_pb2.WithdrawManifestRequest, context: grpc.ServicerContext
    ) -> manifest_pb2.WithdrawManifestResponse:
        item = self._end(request.digest, request.reason, request.ticket, ManifestState.WITHDRAWN, context)
        return manifest_pb2.WithdrawManifestResponse(
            manifest=summary(item), decision_id="D-WDR", revocation_id="V-1", attestations=4
        )

    def LowerMinVersion(
        self, request: manifest_pb2.LowerMinVersionRequest, context: grpc.ServicerContext
    ) -> manifest_pb2.LowerMinVersionResponse:
        self._enter(context)
        self.said.append((request.reason, request.ticket))
        before = max(item.manifest.version for item in self.of(request.application))
        self.floors[request.application] = request.min_version
        return manifest_pb2.LowerMinVersionResponse(decision_id="D-LOW", before=before)

    def ExplainDecision(
        self, request: decision_pb2.ExplainDecisionRequest, context: grpc.ServicerContext
    ) -> decision_pb2.ExplainDecisionResponse:
        self._enter(context)
        found = self.decisions.get(request.decision_id)
        if found is None:
            raise refuse(
                context, grpc.StatusCode.NOT_FOUND, "not_found", "no such decision, or it is not yours"
            )
        return found

    def of(self, application: str) -> list[Kept]:
        """Newest first; all where the name is empty."""
        found = [item for item in self.kept if application in ("", item.manifest.application)]
        return sorted(found, key=lambda item: -item.manifest.version)

    def _end(
        self, digest: bytes, reason: str, ticket: str, state: ManifestState, context: grpc.ServicerContext
    ) -> Kept:
        self._enter(context)
        self.said.append((reason, ticket))
        for index, item in enumerate(self.kept):
            if item.manifest.digest == digest:
                self.kept[index] = replace(item, state=state)
                return self.kept[index]
        raise refuse(context, grpc.StatusCode.NOT_FOUND, "not_found", "no such manifest")

    def _enter(self, context: grpc.ServicerContext) -> None:
        if dict(context.invocation_metadata()).get("authorization") != f"Bearer {TOKEN}":
            raise refuse(context, grpc.StatusCode.UNAUTHENTICATED, "no_identity", "who are you?")


def refuse(context: grpc.ServicerContext, code: grpc.StatusCode, reason: str, message: str) -> Exception:
    """Abort as the broker's doors do; raises by itself."""
    info = error_details_pb2.ErrorInfo(reason=reason.upper(), domain=ERROR_DOMAIN)
    detail = AnyMessage()
    detail.Pack(info)
    status = status_pb2.Status(code=code.value[0], message=message, details=[detail])
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(code, message)
    return AssertionError("abort raises")


def summary(item: Kept) -> manifest_pb2.ManifestSummary:
    """As the broker says it."""
    found = manifest_pb2.ManifestSummary(
        digest=item.manifest.digest,
        application=item.manifest.application,
        version=item.manifest.version,
        label=item.manifest.label,
        state=manifest_pb2.ManifestState.Value(f"MANIFEST_STATE_{item.state.name}"),
        units=len(item.manifest.units),
        includes=item.manifest.includes,
        signers=sorted(item.signers),
    )
    found.not_before.FromSeconds(int(item.manifest.not_before))
    found.not_after.FromSeconds(int(item.manifest.not_after))
    return found


def serve(desk: Desk, tls: ServerFiles) -> tuple[grpc.Server, str]:
    """(server, address): started on a free port."""
    server = grpc.server(ThreadPoolExecutor(4), options=(("grpc.so_reuseport", 0),))
    manifest_pb2_grpc.add_ManifestServiceServicer_to_server(desk, server)
    decision_pb2_grpc.add_DecisionServiceServicer_to_server(desk, server)
    credentials = grpc.ssl_server_credentials([(tls.key, tls.certificate)])
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    return server, f"127.0.0.1:{port}"
