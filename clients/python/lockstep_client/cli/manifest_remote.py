"""The manifests that a broker keeps: found, read, published and ended."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from google.protobuf.message import Message

from lockstep.formats import MAX_MANIFEST_VERSION, Reason
from lockstep.v1 import decision_pb2, manifest_pb2
from lockstep_client.errors import InvalidRequest
from lockstep_client.manifest import CodeManifest, ManifestError, ManifestUnit, read_payload
from lockstep_client.manifest.signing import read_envelope
from lockstep_client.methods import Method
from lockstep_client.operator import Operator

_SERVICE: Final = "/lockstep.v1.ManifestService"
_PUBLISH: Final = Method(f"{_SERVICE}/PublishManifest", manifest_pb2.PublishManifestResponse.FromString)
_GET: Final = Method(f"{_SERVICE}/GetManifest", manifest_pb2.GetManifestResponse.FromString)
_LIST: Final = Method(f"{_SERVICE}/ListManifests", manifest_pb2.ListManifestsResponse.FromString)
_RETIRE: Final = Method(f"{_SERVICE}/RetireManifest", manifest_pb2.RetireManifestResponse.FromString)
_WITHDRAW: Final = Method(f"{_SERVICE}/WithdrawManifest", manifest_pb2.WithdrawManifestResponse.FromString)
_LOWER: Final = Method(f"{_SERVICE}/LowerMinVersion", manifest_pb2.LowerMinVersionResponse.FromString)
_TARGET: Final = re.compile(r"^(?P<application>[^@\s]+?)(@(?P<version>[1-9]\d*))?$")
_DEPTH: Final = 8
_TIMEOUT: Final = 30.0
"""Seconds: a manifest may be many megabytes."""
A = TypeVar("A")


@dataclass(frozen=True, slots=True)
class Target:
    """A manifest as a person names it: a digest, or an application with or without a version (0: in force)."""

    digest: bytes = b""
    application: str = ""
    version: int = 0

    @classmethod
    def parse(cls, text: str) -> Target:
        """``payments``, ``payments@3`` or 64 hexadecimal digits; raises `ManifestError`."""
        if re.fullmatch(r"[0-9a-fA-F]{64}", text):
            return cls(digest=bytes.fromhex(text))
        match = _TARGET.match(text)
        if match is None:
            raise ManifestError(
                f"{text!r} names no manifest: say application, application@version or a digest"
            )
        return cls(application=match["application"], version=int(match["version"] or 0))


class Manifests:
    """A broker's manifests, over an operator's connection. Raises the SDK's errors."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator

    def get(self, target: Target) -> tuple[manifest_pb2.ManifestSummary, bytes]:
        """(summary, envelope). Raises `InvalidRequest` (not_found)."""
        answer = self._call(
            _GET,
            manifest_pb2.GetManifestRequest(
                digest=target.digest, application=target.application, version=target.version
            ),
        )
        return answer.manifest, answer.envelope

    def in_force(self, application: str) -> CodeManifest | None:
        """The newest in force, None where there is none."""
        try:
            _, envelope = self.get(Target(application=application))
        except InvalidRequest as error:
            if error.reason == Reason.NOT_FOUND:
                return None
            raise
        return read_payload(read_envelope(envelope)[0])

    def layers(self, names: Sequence[str], depth: int = _DEPTH) -> dict[str, tuple[ManifestUnit, ...]]:
        """Units of the manifests in force that these names include, theirs too; missing ones are absent."""
        found: dict[str, tuple[ManifestUnit, ...]] = {}
        for name in names:
            layer = self.in_force(name)
            if layer is None:
                continue
            found[name] = layer.units
            if depth > 0:
                found.update(self.layers([item for item in layer.includes if item not in found], depth - 1))
        return found

    def next_version(self, application: str) -> int:
        """The first that is free beyond all that came into force; what is only proposed stands in nobody's way."""
        items = self.list(application, ended=True)
        proposed = manifest_pb2.MANIFEST_STATE_PROPOSED
        counted = (
            item.version for item in items if item.state != proposed and item.version < MAX_MANIFEST_VERSION
        )
        version = max(counted, default=0) + 1
        taken = {item.version for item in items}
        while version in taken:
            version += 1
        return version

    def list(self, application: str, *, ended: bool) -> Sequence[manifest_pb2.ManifestSummary]:
        """Newest first; all applications where the name is empty."""
        request = manifest_pb2.ListManifestsRequest(application=application, include_ended=ended)
        return self._call(_LIST, request).manifests

    def publish(self, envelope: bytes) -> manifest_pb2.PublishManifestResponse:
        """Hand a signed manifest in."""
        return self._call(_PUBLISH, manifest_pb2.PublishManifestRequest(envelope=envelope))

    def retire(self, digest: bytes, reason: str, ticket: str) -> manifest_pb2.RetireManifestResponse:
        """No new starts under it."""
        return self._call(
            _RETIRE, manifest_pb2.RetireManifestRequest(digest=digest, reason=reason, ticket=ticket)
        )

    def withdraw(self, digest: bytes, reason: str, ticket: str) -> manifest_pb2.WithdrawManifestResponse:
        """Revokes what runs under it."""
        return self._call(
            _WITHDRAW, manifest_pb2.WithdrawManifestRequest(digest=digest, reason=reason, ticket=ticket)
        )

    def lower(
        self, application: str, version: int, reason: str, ticket: str
    ) -> manifest_pb2.LowerMinVersionResponse:
        """Let a version and later ones be published again."""
        request = manifest_pb2.LowerMinVersionRequest(
            application=application, min_version=version, reason=reason, ticket=ticket
        )
        return self._call(_LOWER, request)

    def explain(self, decision: str) -> decision_pb2.ExplainDecisionResponse:
        """A decision with the code set that it was about."""
        return self._operator.explain(decision, code_set=True)

    def _call(self, method: Method[A], message: Message) -> A:
        return self._operator.transport.unary(method, message, self._operator.caller, _TIMEOUT)
