"""Reference values: which code an application may run (in-toto Statement, predicate code-manifest/v1).

The parser takes the verified payload bytes of a DSSE envelope and is strict:
unknown keys, duplicate keys, wrong types and oversize lists are refused, since
two readers who disagree on a manifest approve different code.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final

from broker.model.evidence import CodeSet, Unit
from broker.model.strict import (
    MAX_PAYLOAD,
    Malformed,
    read_number,
    read_object,
    read_sha256,
    read_text,
    read_texts,
    read_time,
    strict_json,
)
from lockstep.formats import (
    APPLICATION_NAME,
    MANIFEST_PREDICATE_TYPE,
    MAX_MANIFEST_VERSION,
    STATEMENT_TYPE,
    UnitKind,
)

__all__ = [
    "MAX_PAYLOAD",
    "MAX_UNITS",
    "MAX_VERSION",
    "DynamicLoad",
    "Manifest",
    "ManifestError",
    "ManifestRecord",
    "ManifestState",
    "ManifestUnit",
    "ReferenceValues",
    "parse_manifest",
    "resolve_layers",
    "strict_json",
]

MAX_UNITS: Final = 200_000
MAX_VERSION: Final = MAX_MANIFEST_VERSION

ManifestError = Malformed
"""The payload is no manifest; the message says where."""

_KINDS: Final = {kind.value: kind for kind in UnitKind}
_UNIT_KEYS: Final = frozenset(("digest", "kind", "file_digests", "paths", "package", "required"))
_PREDICATE_REQUIRED: Final = ("application", "version", "units", "not_before", "not_after")
_PREDICATE_KEYS: Final = frozenset(
    (*_PREDICATE_REQUIRED, "label", "includes", "dynamic_load", "anonymous", "unknown", "supersedes")
)


class ManifestState(enum.StrEnum):
    """proposed (signatures missing) → in force → retired (no new starts) | withdrawn (revokes) | expired."""

    PROPOSED = "proposed"
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
    units: Mapping[Unit, ManifestUnit] = field(repr=False, hash=False)
    includes: tuple[str, ...]
    dynamic_load: DynamicLoad
    anonymous: tuple[str, ...]
    unknown: tuple[str, ...]
    not_before: float
    not_after: float
    supersedes: int = 0
    _approved: frozenset[tuple[UnitKind, bytes]] = field(init=False, repr=False, compare=False)
    _required: tuple[ManifestUnit, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Derived once: a detector's report and every appraisal ask for these.
        approved = {(unit.kind, unit.digest) for unit in self.units}
        for unit, entry in self.units.items():
            approved.update((unit.kind, digest) for digest in entry.file_digests)
        object.__setattr__(self, "_approved", frozenset(approved))
        object.__setattr__(self, "_required", tuple(entry for entry in self.units.values() if entry.required))

    def approves_digest(self, digest: bytes, kinds: Iterable[UnitKind]) -> bool:
        """True where a unit of one of `kinds` has this digest, or a whole file of this digest."""
        return any((kind, digest) in self._approved for kind in kinds)

    def required_units(self) -> tuple[ManifestUnit, ...]:
        """Entries whose unit must run."""
        return self._required

    def covers(self, now: float) -> bool:
        """True from `not_before` until before `not_after`."""
        return self.not_before <= now < self.not_after


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

    def approves_digest(self, digest: bytes, kinds: Collection[UnitKind] = tuple(UnitKind)) -> bool:
        """True where some layer approves a unit of one of `kinds` with this digest, or with such a whole file."""
        return any(layer.approves_digest(digest, kinds) for layer in (self.manifest, *self.layers))


@dataclass(frozen=True, slots=True)
class ManifestRecord:
    """A manifest as the broker keeps it. `envelope` is the DSSE JSON; `signers` are names of pinned keys."""

    manifest: Manifest
    envelope: bytes = field(repr=False)
    signers: tuple[str, ...]
    state: ManifestState
    published_at: float


def _unit(value: Any, where: str) -> ManifestUnit:
    entry = read_object(value, where, _UNIT_KEYS, ("digest", "kind"))
    kind = _KINDS.get(entry["kind"]) if isinstance(entry["kind"], str) else None
    if kind is None:
        raise Malformed(f"{where}: unknown kind")
    files = entry.get("file_digests", [])
    if not isinstance(files, list) or len(files) > 64:
        raise Malformed(f"{where}: file_digests is not a list of at most 64")
    required = entry.get("required", False)
    if not isinstance(required, bool):
        raise Malformed(f"{where}: required is not a boolean")
    return ManifestUnit(
        unit=Unit(kind, read_sha256(entry["digest"], where)),
        file_digests=tuple(read_sha256(item, where) for item in files),
        paths=read_texts(entry.get("paths", []), where, count=1_000),
        package=read_text(entry.get("package", ""), where, empty=True),
        required=required,
    )


def _units(value: Any) -> dict[Unit, ManifestUnit]:
    if not isinstance(value, list) or len(value) > MAX_UNITS:
        raise Malformed(f"predicate.units: not a list of at most {MAX_UNITS}")
    units: dict[Unit, ManifestUnit] = {}
    for index, item in enumerate(value):
        entry = _unit(item, f"predicate.units[{index}]")
        if units.setdefault(entry.unit, entry) is not entry:
            raise Malformed(f"predicate.units[{index}]: listed twice")
    return units


def _application(value: Any, where: str) -> str:
    if not isinstance(value, str) or not APPLICATION_NAME.fullmatch(value):
        raise Malformed(f"{where}: not the name of an application (1 to 128 of A-Z a-z 0-9 . _ / @ + -)")
    return value


def parse_manifest(payload: bytes) -> Manifest:
    """The manifest in a verified DSSE payload (in-toto Statement v1); raises `Malformed`.

    The subject's digest must be the canonical code-set digest of the units, so
    that a Statement cannot name one code set and list another.
    """
    keys = ("_type", "subject", "predicateType", "predicate")
    statement = read_object(strict_json(payload), "statement", keys, keys)
    if statement["_type"] != STATEMENT_TYPE:
        raise Malformed("statement._type: not an in-toto Statement v1")
    if statement["predicateType"] != MANIFEST_PREDICATE_TYPE:
        raise Malformed("statement.predicateType: not a code manifest")
    predicate = read_object(statement["predicate"], "predicate", _PREDICATE_KEYS, _PREDICATE_REQUIRED)
    dynamic_load = predicate.get("dynamic_load", DynamicLoad.LISTED.value)
    if dynamic_load not in list(DynamicLoad):
        raise Malformed("predicate.dynamic_load: unknown")
    includes = predicate.get("includes", [])
    if not isinstance(includes, list) or len(includes) > 100:
        raise Malformed("predicate.includes: not a list of at most 100")
    manifest = Manifest(
        digest=sha256(payload).digest(),
        application=_application(predicate["application"], "predicate.application"),
        version=read_number(predicate["version"], "predicate.version", least=1, most=MAX_VERSION),
        label=read_text(predicate.get("label", ""), "predicate.label", limit=128, empty=True),
        units=_units(predicate["units"]),
        includes=tuple(_application(name, "predicate.includes") for name in includes),
        dynamic_load=DynamicLoad(dynamic_load),
        anonymous=read_texts(predicate.get("anonymous", []), "predicate.anonymous", count=100),
        unknown=read_texts(predicate.get("unknown", []), "predicate.unknown"),
        not_before=read_time(predicate["not_before"], "predicate.not_before"),
        not_after=read_time(predicate["not_after"], "predicate.not_after"),
        supersedes=read_number(predicate.get("supersedes", 0), "predicate.supersedes", most=MAX_VERSION),
    )
    if manifest.not_after <= manifest.not_before:
        raise Malformed("predicate.not_after: not after not_before")
    _check_subject(statement["subject"], manifest)
    return manifest


def _check_subject(value: Any, manifest: Manifest) -> None:
    if not isinstance(value, list) or len(value) != 1:
        raise Malformed("statement.subject: not exactly one")
    subject = read_object(value[0], "subject", ("name", "digest"), ("name", "digest"))
    digests = read_object(subject["digest"], "subject.digest", ("lockstepCodeSet",), ("lockstepCodeSet",))
    if subject["name"] != manifest.application:
        raise Malformed("subject.name: another application")
    if read_sha256(digests["lockstepCodeSet"], "subject.digest") != CodeSet.of(manifest.units).digest:
        raise Malformed("subject.digest: not the digest of the units")


def resolve_layers(
    manifest: Manifest, in_force: Mapping[str, Sequence[Manifest]], *, depth: int = 8
) -> tuple[Manifest, ...] | None:
    """The layers that a manifest includes, transitively and in a fixed order; None where one is not in force.

    Of several versions of a layer in force, all are part of the union: layers
    are patched by publishing the new one beside the old. A version whose own
    layers are not in force approves nothing and is left out, so that it cannot
    take down what stands on the others. What includes itself, or stands on more
    than `depth` layers, never resolves; nor does what would include another
    version of its own application, since two releases must not mix.
    """
    reachable: dict[str, Sequence[Manifest]] = {}
    names = list(manifest.includes)
    while names:
        name = names.pop()
        if name not in reachable:
            reachable[name] = in_force.get(name, ()) if name != manifest.application else ()
            names.extend(include for item in reachable[name] for include in item.includes)
    # From the ground up: each round takes what stands on earlier rounds alone, so no circle ever gets in.
    grounded: dict[str, list[Manifest]] = {}
    for _ in range(depth):
        ready = {
            name: [item for item in items if all(include in grounded for include in item.includes)]
            for name, items in reachable.items()
        }
        ready = {name: items for name, items in ready.items() if items}
        if ready == grounded:
            break
        grounded = ready
    if any(name not in grounded for name in manifest.includes):
        return None
    found: dict[bytes, Manifest] = {}
    waiting = list(reversed(manifest.includes))
    seen = set()
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            for item in grounded[name]:
                found[item.digest] = item
                waiting.extend(reversed(item.includes))
    return tuple(found.values())
