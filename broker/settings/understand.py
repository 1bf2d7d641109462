"""From what was written to typed tables: each entry against its schema, every fault with its place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from broker.settings.book import Tables
from broker.settings.operators import OperatorTable
from broker.settings.problems import Problem, nearest, shown
from broker.settings.server import Server, Table
from broker.settings.source import Entry, Source
from broker.settings.tables import (
    BACKEND_KINDS,
    CUTTER_KINDS,
    DETECTOR_KINDS,
    IDENTITY_KINDS,
    ApplicationTable,
    ResourceServerTable,
    RoleTable,
)
from broker.settings.values import File, Name
from broker.settings.wording import faults

M = TypeVar("M", bound=BaseModel)

_NAME: TypeAdapter[str] = TypeAdapter(Name)
_FILE: TypeAdapter[Any] = TypeAdapter(File)


def server(source: Source) -> Server | None:
    """The server's own tables, or None with the faults noted."""
    return _validate(source, Server, source.server, source.file, ())


def tables(source: Source) -> Tables:
    """Every named entry that its schema accepts; the faults of the others are noted."""
    found = Tables()
    for (kind, name), entry in source.entries.items():
        _check_name(source, kind, name, entry)
        match kind:
            case "identity":
                _keep(found.identity, name, _plug(source, kind, name, entry, IDENTITY_KINDS))
            case "backends":
                _keep(found.backends, name, _plug(source, kind, name, entry, BACKEND_KINDS))
            case "cutters":
                _keep(found.cutters, name, _plug(source, kind, name, entry, CUTTER_KINDS))
            case "detectors":
                _keep(found.detectors, name, _plug(source, kind, name, entry, DETECTOR_KINDS))
            case "manifests":
                _keep(found.manifests, name, _entry(source, kind, name, entry, ApplicationTable))
            case "roles":
                _keep(found.roles, name, _entry(source, kind, name, entry, RoleTable))
            case "operators":
                _keep(found.operators, name, _entry(source, kind, name, entry, OperatorTable))
            case "resource_servers":
                _keep(found.resource_servers, name, _entry(source, kind, name, entry, ResourceServerTable))
            case _:
                _signer(source, found, name, entry)
    for name in [name for name in found.roles if not _parameters(source, found, name)]:
        del found.roles[name]
    return found


def _keep(into: dict[str, Any], name: str, table: object) -> None:
    if table is not None:
        into[name] = table


def _validate(source: Source, model: type[M], raw: Any, file: Any, prefix: tuple[str, ...]) -> M | None:
    try:
        return model.model_validate(raw, context={"folder": file.parent})
    except ValidationError as error:
        for path, message in faults(error, model):
            whole = (*prefix, *path)
            source.problems.append(Problem(source.origin(whole, file), ".".join(whole), message))
    return None


def _entry(source: Source, kind: str, name: str, entry: Entry, model: type[M]) -> M | None:
    return _validate(source, model, entry.raw, entry.file, (kind, name))


def _plug(source: Source, kind: str, name: str, entry: Entry, kinds: Mapping[str, type[M]]) -> M | None:
    raw = entry.raw
    written = raw.get("kind") if isinstance(raw, dict) else None
    if not isinstance(written, str):
        expected = ", ".join(f'"{known}"' for known in sorted(kinds))
        where = source.origin((kind, name), entry.file)
        source.problems.append(Problem(where, f"{kind}.{name}.kind", f"is missing; one of {expected}"))
        return None
    if written not in kinds:
        where = source.origin((kind, name, "kind"), entry.file)
        message = f'there is no kind "{written}"{nearest(written, kinds)}'
        source.problems.append(Problem(where, f"{kind}.{name}.kind", message))
        return None
    return _entry(source, kind, name, entry, kinds[written])


def _check_name(source: Source, kind: str, name: str, entry: Entry) -> None:
    try:
        _NAME.validate_python(name)
    except ValidationError as error:
        message = str(error.errors()[0]["ctx"]["error"])
        source.problems.append(Problem(shown(entry.file), f"{kind}.{name!r}", message))


def _signer(source: Source, found: Tables, name: str, entry: Entry) -> None:
    try:
        found.signers[name] = _FILE.validate_python(entry.raw, context={"folder": entry.file.parent})
    except ValidationError as error:
        where = source.origin(("signers", name), entry.file)
        source.problems.append(Problem(where, f"signers.{name}", str(error.errors()[0]["ctx"]["error"])))


def _parameters(source: Source, found: Tables, name: str) -> bool:
    """Check a role's parameters against its backend's schema and fill the backend's defaults in."""
    table, entry = found.roles[name], source.entries["roles", name]
    given = dict(table.backend.model_extra or {})
    backend = found.backends.get(table.backend.use)
    if backend is None:
        found.parameters[name] = given
        return True  # checks.py says that there is no such backend
    schema: type[Table] = backend.Parameters
    checked = _validate(source, schema, given, entry.file, ("roles", name, "backend"))
    if checked is None:
        return False
    defaults = {key: getattr(backend, key) for key in schema.model_fields if hasattr(backend, key)}
    own = checked.model_dump(exclude_unset=True, exclude_none=True)
    found.parameters[name] = {key: value for key, value in (defaults | own).items() if value is not None}
    return True
