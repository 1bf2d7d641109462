"""Statements, manifests and code sets for tests, from few words."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from broker.model.evidence import Assurance, CodeSet, Evidence, ProcessRef, Unit
from broker.model.manifest import Manifest, ManifestUnit, parse_manifest
from lockstep.formats import MANIFEST_PREDICATE_TYPE, STATEMENT_TYPE, UnitKind

START = 1_790_000_000.0
END = START + 86_400 * 30


def digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def unit(text: str, kind: UnitKind = UnitKind.PYTHON_SOURCE) -> Unit:
    return Unit(kind, digest(text))


def rfc3339(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat().replace("+00:00", "Z")


def entry(item: ManifestUnit | Unit) -> dict[str, Any]:
    whole = item if isinstance(item, ManifestUnit) else ManifestUnit(item)
    return {
        "kind": whole.unit.kind.value,
        "digest": whole.unit.digest.hex(),
        "file_digests": [value.hex() for value in whole.file_digests],
        "paths": list(whole.paths),
        "package": whole.package,
        "required": whole.required,
    }


def statement(
    units: Iterable[ManifestUnit | Unit] = (),
    *,
    application: str = "payments",
    version: int = 1,
    not_before: float = START,
    not_after: float = END,
    **predicate: Any,
) -> dict[str, Any]:
    """The in-toto Statement of a manifest; `predicate` adds or replaces its members."""
    listed = list(units)
    code = CodeSet.of(item.unit if isinstance(item, ManifestUnit) else item for item in listed)
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": application, "digest": {"lockstepCodeSet": code.digest.hex()}}],
        "predicateType": MANIFEST_PREDICATE_TYPE,
        "predicate": {
            "application": application,
            "version": version,
            "units": [entry(item) for item in listed],
            "not_before": rfc3339(not_before),
            "not_after": rfc3339(not_after),
            **predicate,
        },
    }


def payload(*args: Any, **kwargs: Any) -> bytes:
    """The bytes of `statement`, as a publisher would sign them."""
    return json.dumps(statement(*args, **kwargs)).encode()


def manifest(*args: Any, **kwargs: Any) -> Manifest:
    """The parsed manifest of `statement`."""
    return parse_manifest(payload(*args, **kwargs))


def evidence(units: Iterable[Unit], **fields: Any) -> Evidence:
    """Evidence of some units at level self."""
    code = CodeSet.of(units)
    return Evidence(
        **{
            "level": Assurance.SELF,
            "key_thumbprint": bytes(32),
            "process": ProcessRef(),
            "units": code.units,
            "code_set_digest": code.digest,
            **fields,
        }
    )


def names(manifests: Sequence[Manifest] | None) -> list[tuple[str, int]] | None:
    """(application, version) of each, to compare."""
    return None if manifests is None else [(item.application, item.version) for item in manifests]
