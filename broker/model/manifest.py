"""Reference values: which code an application may run (in-toto Statement, predicate code-manifest/v1).

The parser takes the verified payload bytes of a DSSE envelope and is strict:
unknown keys, duplicate keys, wrong types and oversize lists are refused, since
two readers who disagree on a manifest approve different code.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final

from broker.model.evidence import Unit
from lockstep.formats import MANIFEST_PREDICATE_TYPE, STATEMENT_TYPE, UnitKind

MAX_UNITS: Final = 200_000
MAX_PAYLOAD: Final = 64 * 1024 * 1024
MAX_VERSION: Final = 2**63 - 1


class ManifestError(ValueError):
    """The payload is no manifest; the message says where."""


class ManifestState(enum.StrEnum):
    """in force → retired (no new starts) | withdrawn (revokes) | expired."""

    IN_FORCE = "in_force"
    RETIRED = "retired"
    WITHDRAWN = "withdrawn"
    EXPIRED = "expired"


class DynamicLoad(enum.StrEnum):
    """Whether units of the manifest may be loaded after start at all."""

    FORBIDDEN = "forbidden"
    LISTED = "listed"


@dataclass(frozen=True, slots=True)
class ManifestUnit:
    """One approved unit; `file_digests` help detectors that hash whole files."""

    unit: Unit
    file_digests: tuple[bytes, ...] = ()
    paths: tuple[str, ...] = ()
    package: str = ""
    required: bool = False


@dataclass(frozen=True, slots=True)
class Manifest:
    """One signed list of approved code. (application, version) binds one `digest` (of the payload).

    `not_before` and `not_after` are seconds since the epoch, UTC. `anonymous`
    lists the permissions of anonymous executable mappings that are allowed
    (for example ``rwxp`` for libffi callbacks); `unknown` lists names of
    unmeasurable code that are accepted (for example ``builtins.exec``).
    """

    digest: bytes
    application: str
    version: int
    label: str
    units: Mapping[Unit, ManifestUnit]
    includes: tuple[str, ...]
    dynamic_load: DynamicLoad
    anonymous: tuple[str, ...]
    unknown: tuple[str, ...]
    not_before: float
    not_after: float
    supersedes: int = 0

    def approved_digests(self) -> frozenset[bytes]:
        """Every digest that a detector may meet: unit digests and whole-file digests."""
        found = {unit.digest for unit in self.units}
        for entry in self.units.values():
            found.update(entry.file_digests)
        return frozenset(found)


@dataclass(frozen=True, slots=True)
class ReferenceValues:
    """One manifest with everything that it includes: one alternative for an appraisal."""

    manifest: Manifest
    layers: tuple[Manifest, ...] = ()

    @property
    def digests(self) -> tuple[bytes, ...]:
        """Digests of the manifest and its layers, the manifest first."""
        return (self.manifest.digest, *(layer.digest for layer in self.layers))

    def entry(self, unit: Unit) -> ManifestUnit | None:
        """The entry that approves a unit, nearest layer first."""
        for layer in (self.manifest, *self.layers):
            found = layer.units.get(unit)
            if found is not None:
                return found
        return None

    def approves_digest(self, digest: bytes) -> bool:
        """True where some layer approves a unit or a whole file of this digest."""
        return any(digest in layer.approved_digests() for layer in (self.manifest, *self.layers))


@dataclass(frozen=True, slots=True)
class ManifestRecord:
    """A manifest as the broker keeps it. `envelope` is the DSSE JSON; `signers` are names of pinned keys."""

    manifest: Manifest
    envelope: bytes = field(repr=False)
    signers: tuple[str, ...]
    state: ManifestState
    published_at: float


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ManifestError("duplicate key in JSON object")
    return found


def _refuse_constant(name: str) -> Any:
    raise ManifestError(f"{name} is not JSON")


def strict_json(data: bytes, *, limit: int = MAX_PAYLOAD) -> Any:
    """JSON without duplicate keys, NaN or infinities; raises `ManifestError`."""
    if len(data) > limit:
        raise ManifestError(f"larger than {limit} bytes")
    try:
        return json.loads(data, object_pairs_hook=_no_duplicates, parse_constant=_refuse_constant)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ManifestError("not JSON") from error


def _object(value: Any, where: str, keys: Iterable[str], required: Iterable[str] = ()) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ManifestError(f"{where}: not an object")
    unknown = sorted(set(value) - set(keys))
    if unknown:
        raise ManifestError(f"{where}: unknown key {unknown[0][:64]!r}")
    missing = sorted(set(required) - set(value))
    if missing:
        raise ManifestError(f"{where}: {missing[0]!r} is missing")
    return value


def _text(value: Any, where: str, *, limit: int = 4096, empty: bool = False) -> str:
    if not isinstance(value, str) or len(value) > limit or (not value and not empty) or not value.isprintable():
        raise ManifestError(f"{where}: not a printable text of at most {limit} characters")
    return value


def _texts(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > 10_000:
        raise ManifestError(f"{where}: not a list")
    return tuple(_text(item, f"{where}[{index}]") for index, item in enumerate(value))


def _digest(value: Any, where: str) -> bytes:
    if not isinstance(value, str) or len(value) != 64 or value != value.lower():
        raise ManifestError(f"{where}: not a lower-case hexadecimal SHA-256")
    try:
        return bytes.fromhex(value)
    except ValueError as error:
        raise ManifestError(f"{where}: not hexadecimal") from error


def _time(value: Any, where: str) -> float:
    text = _text(value, where, limit=40)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ManifestError(f"{where}: not an RFC 3339 time") from error
    if moment.tzinfo is None:
        raise ManifestError(f"{where}: without a time zone")
    return moment.astimezone(UTC).timestamp()


def _unit(value: Any, where: str) -> ManifestUnit:
    keys = ("digest", "kind", "file_digests", "paths", "package", "required")
    entry = _object(value, where, keys, ("digest", "kind"))
    try:
        kind = UnitKind(entry["kind"])
    except ValueError as error:
        raise ManifestError(f"{where}.kind: unknown kind") from error
    files = entry.get("file_digests", [])
    if not isinstance(files, list) or len(files) > 64:
        raise ManifestError(f"{where}.file_digests: not a list")
    required = entry.get("required", False)
    if not isinstance(required, bool):
        raise ManifestError(f"{where}.required: not a boolean")
    return ManifestUnit(
        unit=Unit(kind, _digest(entry["digest"], f"{where}.digest")),
        file_digests=tuple(_digest(item, f"{where}.file_digests") for item in files),
        paths=_texts(entry.get("paths", []), f"{where}.paths"),
        package=_text(entry.get("package", ""), f"{where}.package", empty=True),
        required=required,
    )


def parse_manifest(payload: bytes) -> Manifest:
    """The manifest in a verified DSSE payload (in-toto Statement v1); raises `ManifestError`.

    The subject's digest must be the canonical code-set digest of the units, so
    that a Statement cannot name one code set and list another.
    """
    statement = _object(
        strict_json(payload),
        "statement",
        ("_type", "subject", "predicateType", "predicate"),
        ("_type", "subject", "predicateType", "predicate"),
    )
    if statement["_type"] != STATEMENT_TYPE:
        raise ManifestError("statement._type: not an in-toto Statement v1")
    if statement["predicateType"] != MANIFEST_PREDICATE_TYPE:
        raise ManifestError("statement.predicateType: not a code manifest")
    predicate = _object(
        statement["predicate"],
        "predicate",
        (
            "application",
            "version",
            "label",
            "units",
            "includes",
            "dynamic_load",
            "anonymous",
            "unknown",
            "not_before",
            "not_after",
            "supersedes",
        ),
        ("application", "version", "units", "not_before", "not_after"),
    )
    version = predicate["version"]
    supersedes = predicate.get("supersedes", 0)
    for name, number in (("version", version), ("supersedes", supersedes)):
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= MAX_VERSION:
            raise ManifestError(f"predicate.{name}: not a whole number")
    if version == 0:
        raise ManifestError("predicate.version: starts at 1")
    raw_units = predicate["units"]
    if not isinstance(raw_units, list) or len(raw_units) > MAX_UNITS:
        raise ManifestError(f"predicate.units: not a list of at most {MAX_UNITS}")
    units: dict[Unit, ManifestUnit] = {}
    for index, item in enumerate(raw_units):
        entry = _unit(item, f"predicate.units[{index}]")
        if entry.unit in units:
            raise ManifestError(f"predicate.units[{index}]: listed twice")
        units[entry.unit] = entry
    try:
        dynamic_load = DynamicLoad(predicate.get("dynamic_load", DynamicLoad.LISTED.value))
    except ValueError as error:
        raise ManifestError("predicate.dynamic_load: unknown") from error
    application = _text(predicate["application"], "predicate.application", limit=128)
    manifest = Manifest(
        digest=sha256(payload).digest(),
        application=application,
        version=version,
        label=_text(predicate.get("label", ""), "predicate.label", limit=128, empty=True),
        units=units,
        includes=_texts(predicate.get("includes", []), "predicate.includes"),
        dynamic_load=dynamic_load,
        anonymous=_texts(predicate.get("anonymous", []), "predicate.anonymous"),
        unknown=_texts(predicate.get("unknown", []), "predicate.unknown"),
        not_before=_time(predicate["not_before"], "predicate.not_before"),
        not_after=_time(predicate["not_after"], "predicate.not_after"),
        supersedes=supersedes,
    )
    if manifest.not_after <= manifest.not_before:
        raise ManifestError("predicate.not_after: not after not_before")
    _check_subject(statement["subject"], manifest)
    return manifest


def _check_subject(value: Any, manifest: Manifest) -> None:
    from broker.model.evidence import CodeSet

    if not isinstance(value, list) or len(value) != 1:
        raise ManifestError("statement.subject: not exactly one")
    subject = _object(value[0], "subject", ("name", "digest"), ("name", "digest"))
    digests = _object(subject["digest"], "subject.digest", ("lockstepCodeSet",), ("lockstepCodeSet",))
    if subject["name"] != manifest.application:
        raise ManifestError("subject.name: another application")
    if _digest(digests["lockstepCodeSet"], "subject.digest") != CodeSet.of(manifest.units).digest:
        raise ManifestError("subject.digest: not the digest of the units")


def resolve_layers(
    manifest: Manifest, in_force: Mapping[str, Sequence[Manifest]], *, depth: int = 8
) -> tuple[Manifest, ...] | None:
    """The layers that a manifest includes, transitively; None where one is not in force or a cycle appears.

    Of several versions of a layer in force, all are part of the union: layers
    are patched by publishing the new one beside the old.
    """
    found: dict[bytes, Manifest] = {}

    def walk(current: Manifest, trail: tuple[str, ...]) -> bool:
        if len(trail) > depth:
            return False
        for name in current.includes:
            candidates = in_force.get(name, ())
            if not candidates or name in trail:
                return False
            for candidate in candidates:
                if candidate.digest not in found:
                    found[candidate.digest] = candidate
                    if not walk(candidate, (*trail, name)):
                        return False
        return True

    return tuple(found.values()) if walk(manifest, (manifest.application,)) else None
