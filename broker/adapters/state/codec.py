"""Nouns as text and bytes for a database, and back; every plug of a database uses the same.

JSON is compact and in ASCII, so that no text of a caller (a lone surrogate, a
NUL) can fail to be stored inside it. Floats come back bit for bit.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Sequence
from typing import Any, Final

from broker.model.appraisal import Status
from broker.model.attestation import ApplicationResult
from broker.model.evidence import ProcessRef, Unit, UnitHint
from broker.model.identity import InstanceClaims, WorkloadIdentity
from broker.model.manifest import DynamicLoad, Manifest, ManifestUnit
from broker.model.revocation import Unconfirmed
from broker.model.step import Step
from lockstep.formats import UnitKind

DIGEST_SIZE: Final = 32

UNIT_CODES: Final[dict[UnitKind, int]] = {
    UnitKind.EXECUTABLE: 1,
    UnitKind.SHARED_OBJECT: 2,
    UnitKind.PYTHON_SOURCE: 3,
    UnitKind.PYTHON_BYTECODE: 4,
    UnitKind.PYTHON_ARCHIVE: 5,
    UnitKind.PYTHON_PATH_FILE: 6,
    UnitKind.SCRIPT: 7,
    UnitKind.MODULE_JS: 8,
    UnitKind.MODEL: 9,
    UnitKind.DATA_CODE: 10,
}
"""Numbers of kinds in databases: never renumber, only add."""

_UNIT_KINDS: Final = {code: kind for kind, code in UNIT_CODES.items()}


_ENCODER: Final = json.JSONEncoder(separators=(",", ":"))


def to_json(value: object) -> str:
    """Compact JSON in ASCII."""
    return _ENCODER.encode(value)


def pack_digests(digests: Iterable[bytes]) -> bytes:
    """Digests of 32 bytes, one after the other."""
    return b"".join(digests)


def unpack_digests(packed: bytes) -> tuple[bytes, ...]:
    """The inverse of `pack_digests`."""
    return tuple(packed[at : at + DIGEST_SIZE] for at in range(0, len(packed), DIGEST_SIZE))


UNIT_SIZE: Final = 1 + DIGEST_SIZE
"""Bytes of a packed unit."""


def pack_units(units: Iterable[Unit]) -> bytes:
    """Sorted units, `UNIT_SIZE` bytes each: the number of the kind, then the digest."""
    return b"".join(sorted(bytes((UNIT_CODES[unit.kind],)) + unit.digest for unit in units))


def unpack_units(packed: bytes) -> frozenset[Unit]:
    """The inverse of `pack_units`."""
    return frozenset(
        Unit(_UNIT_KINDS[packed[at]], packed[at + 1 : at + UNIT_SIZE])
        for at in range(0, len(packed), UNIT_SIZE)
    )


def pack_names(names: Iterable[UnitHint]) -> tuple[int, bytes]:
    """(bytes before compression, names): digests with what somebody calls them."""
    text = to_json([[item.digest.hex(), item.path, item.name] for item in names]).encode("ascii")
    return len(text), zlib.compress(text, 3)


def unpack_names(packed: bytes) -> tuple[UnitHint, ...]:
    """The inverse of `pack_names`."""
    return tuple(
        UnitHint(bytes.fromhex(digest), path, name)
        for digest, path, name in json.loads(zlib.decompress(packed))
    )


def identity_json(identity: WorkloadIdentity) -> list[Any]:
    """A verified identity."""
    place = identity.instance
    return [
        identity.provider,
        identity.issuer,
        identity.subject,
        identity.not_after,
        dict(identity.claims),
        [place.node, place.pod_uid, place.container_id],
    ]


def read_identity(value: Sequence[Any]) -> WorkloadIdentity:
    """The inverse of `identity_json`."""
    provider, issuer, subject, not_after, claims, place = value
    return WorkloadIdentity(provider, issuer, subject, not_after, claims, InstanceClaims(*place))


def process_json(process: ProcessRef) -> list[Any]:
    """A process."""
    return [
        process.node,
        process.boot_id,
        process.pid,
        process.start_ticks,
        process.exec_seq,
        process.container_id,
        process.pod_uid,
    ]


def read_process(value: Sequence[Any]) -> ProcessRef:
    """The inverse of `process_json`."""
    return ProcessRef(*value)


def results_json(results: Iterable[ApplicationResult]) -> list[Any]:
    """Results, one an application."""
    return [
        [item.application, int(item.status), [digest.hex() for digest in item.manifests], item.findings]
        for item in results
    ]


def read_results(value: Iterable[Sequence[Any]]) -> tuple[ApplicationResult, ...]:
    """The inverse of `results_json`."""
    return tuple(
        ApplicationResult(application, Status(status), tuple(map(bytes.fromhex, manifests)), findings)
        for application, status, manifests, findings in value
    )


def steps_json(steps: Iterable[Step]) -> list[Any]:
    """Steps of a receipt."""
    return [[step.name, step.at, step.detail] for step in steps]


def read_steps(value: Iterable[Sequence[Any]]) -> tuple[Step, ...]:
    """The inverse of `steps_json`."""
    return tuple(Step(*item) for item in value)


def unconfirmed_json(items: Iterable[Unconfirmed]) -> list[Any]:
    """What a receipt could not confirm."""
    return [[item.lease_id, item.what, item.until] for item in items]


def read_unconfirmed(value: Iterable[Sequence[Any]]) -> tuple[Unconfirmed, ...]:
    """The inverse of `unconfirmed_json`."""
    return tuple(Unconfirmed(*item) for item in value)


def pack_manifest(manifest: Manifest) -> bytes:
    """A manifest's content, compressed; its digest and envelope are kept beside it."""
    units = [
        [
            UNIT_CODES[entry.unit.kind],
            entry.unit.digest.hex(),
            [digest.hex() for digest in entry.file_digests],
            entry.paths,
            entry.package,
            entry.required,
        ]
        for entry in manifest.units.values()
    ]
    content = {
        "label": manifest.label,
        "units": units,
        "includes": manifest.includes,
        "dynamic_load": manifest.dynamic_load,
        "anonymous": manifest.anonymous,
        "unknown": manifest.unknown,
        "not_before": manifest.not_before,
        "not_after": manifest.not_after,
        "supersedes": manifest.supersedes,
    }
    return zlib.compress(to_json(content).encode("ascii"), 3)


def unpack_manifest(digest: bytes, application: str, version: int, packed: bytes) -> Manifest:
    """The inverse of `pack_manifest`."""
    content = json.loads(zlib.decompress(packed))
    units = {}
    for code, unit_digest, files, paths, package, required in content["units"]:
        unit = Unit(_UNIT_KINDS[code], bytes.fromhex(unit_digest))
        units[unit] = ManifestUnit(unit, tuple(map(bytes.fromhex, files)), tuple(paths), package, required)
    return Manifest(
        digest=digest,
        application=application,
        version=version,
        label=content["label"],
        units=units,
        includes=tuple(content["includes"]),
        dynamic_load=DynamicLoad(content["dynamic_load"]),
        anonymous=tuple(content["anonymous"]),
        unknown=tuple(content["unknown"]),
        not_before=content["not_before"],
        not_after=content["not_after"],
        supersedes=content["supersedes"],
    )
