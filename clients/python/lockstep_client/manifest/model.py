"""A code manifest as its author holds it, and the bytes that are signed (in-toto Statement v1)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final

from lockstep.formats import (
    APPLICATION_NAME,
    MANIFEST_PREDICATE_TYPE,
    MAX_MANIFEST_VERSION,
    STATEMENT_TYPE,
    UnitKind,
    canonical_json,
    code_set_digest,
)
from lockstep_client.errors import LockstepError
from lockstep_client.measure.model import Unit

MAX_PATHS: Final = 16
"""Paths kept for one digest: enough for people, bounded for the file that a thousand packages share."""
MAX_FILE_DIGESTS: Final = 64
MAX_UNITS: Final = 200_000


class ManifestError(LockstepError):
    """The manifest cannot be built, read or signed; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class ManifestUnit:
    """One approved unit: what runs, the whole files that carry it, where it is, and whose it is.

    `package` is a package URL, empty where no package or more than one names the
    unit: a ban of a package must never hit what others have too.
    """

    kind: UnitKind
    digest: bytes
    file_digests: tuple[bytes, ...] = ()
    paths: tuple[str, ...] = ()
    package: str = ""
    required: bool = False

    @property
    def unit(self) -> Unit:
        """(kind, digest)."""
        return (self.kind, self.digest)


@dataclass(frozen=True, slots=True)
class CodeManifest:
    """Which code an application may run. Times are UTC; `version` starts at 1 and only grows."""

    application: str
    version: int
    units: tuple[ManifestUnit, ...]
    not_before: datetime
    not_after: datetime
    label: str = ""
    includes: tuple[str, ...] = ()
    dynamic_load: str = "listed"
    anonymous: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    supersedes: int = 0

    @property
    def code_set_digest(self) -> bytes:
        """Canonical digest (32 bytes) of the units."""
        return code_set_digest((entry.kind.value, entry.digest) for entry in self.units)

    def payload(self) -> bytes:
        """The Statement to be signed: the same manifest gives the same bytes. Raises `ManifestError`."""
        check_names(self.application, self.version, self.includes)
        if len(self.units) > MAX_UNITS:
            raise ManifestError(
                f"{len(self.units):,} units, at most {MAX_UNITS:,}: split a base off and name it under includes"
            )
        predicate: dict[str, Any] = {
            "application": self.application,
            "version": self.version,
            "units": [_unit(entry) for entry in sorted(self.units, key=lambda item: item.unit)],
            "not_before": _time(self.not_before),
            "not_after": _time(self.not_after),
            "dynamic_load": self.dynamic_load,
        }
        optional: dict[str, Any] = {
            "label": self.label,
            "includes": list(self.includes),
            "anonymous": list(self.anonymous),
            "unknown": list(self.unknown),
            "supersedes": self.supersedes,
        }
        predicate.update({key: value for key, value in optional.items() if value})
        statement = {
            "_type": STATEMENT_TYPE,
            "subject": [
                {"name": self.application, "digest": {"lockstepCodeSet": self.code_set_digest.hex()}}
            ],
            "predicateType": MANIFEST_PREDICATE_TYPE,
            "predicate": predicate,
        }
        return canonical_json(statement)

    @property
    def digest(self) -> bytes:
        """SHA-256 of the payload: the manifest's name at the broker."""
        return sha256(self.payload()).digest()


def check_names(application: str, version: int, includes: Iterable[str] = ()) -> None:
    """Raises `ManifestError` for what no broker takes: a name that no configuration can have, or no version."""
    for name in (application, *includes):
        if not APPLICATION_NAME.fullmatch(name):
            raise ManifestError(
                f"{name!r} is no name of an application: 1 to 128 of A-Z a-z 0-9 . _ / @ + -, a letter or digit first"
            )
    if not 1 <= version <= MAX_MANIFEST_VERSION:
        raise ManifestError(f"version {version}: from 1 to {MAX_MANIFEST_VERSION}")


def _unit(entry: ManifestUnit) -> dict[str, Any]:
    found: dict[str, Any] = {"kind": entry.kind.value, "digest": entry.digest.hex()}
    if entry.file_digests:
        found["file_digests"] = [item.hex() for item in sorted(entry.file_digests)[:MAX_FILE_DIGESTS]]
    if entry.paths:
        found["paths"] = sorted(_printable(path) for path in entry.paths)[:MAX_PATHS]
    if entry.package:
        found["package"] = entry.package
    if entry.required:
        found["required"] = True
    return found


def _printable(path: str) -> str:
    if path.isprintable():
        return path[:4096]
    return path.encode("unicode_escape", "backslashreplace").decode("ascii")[:4096]


def _time(moment: datetime) -> str:
    if moment.tzinfo is None:
        raise ManifestError("a manifest's times need a time zone")
    return moment.astimezone(UTC).isoformat(timespec="seconds")


def read_payload(payload: bytes) -> CodeManifest:
    """The manifest in a Statement. The broker's reader is the strict one; this is for its author.

    Raises `ManifestError`.
    """
    try:
        statement = json.loads(payload)
        predicate: Mapping[str, Any] = statement["predicate"]
        if (statement["_type"], statement["predicateType"]) != (STATEMENT_TYPE, MANIFEST_PREDICATE_TYPE):
            raise ManifestError("not a code manifest (in-toto Statement v1)")
        return CodeManifest(
            application=str(predicate["application"]),
            version=int(predicate["version"]),
            units=tuple(_read_unit(item) for item in predicate["units"]),
            not_before=datetime.fromisoformat(predicate["not_before"]),
            not_after=datetime.fromisoformat(predicate["not_after"]),
            label=str(predicate.get("label", "")),
            includes=_texts(predicate.get("includes")),
            dynamic_load=str(predicate.get("dynamic_load", "listed")),
            anonymous=_texts(predicate.get("anonymous")),
            unknown=_texts(predicate.get("unknown")),
            supersedes=int(predicate.get("supersedes", 0)),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ManifestError(f"not a code manifest: {type(error).__name__} {error}") from None


def _read_unit(item: Mapping[str, Any]) -> ManifestUnit:
    return ManifestUnit(
        kind=UnitKind(item["kind"]),
        digest=bytes.fromhex(item["digest"]),
        file_digests=tuple(bytes.fromhex(text) for text in item.get("file_digests", ())),
        paths=_texts(item.get("paths")),
        package=str(item.get("package", "")),
        required=bool(item.get("required", False)),
    )


def _texts(items: Iterable[Any] | None) -> tuple[str, ...]:
    return tuple(str(item) for item in items or ())
