"""What the schema found wrong, in words that say what to do."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from broker.settings.problems import nearest

_SHORT = 60


def faults(error: ValidationError, model: type[BaseModel]) -> Iterator[tuple[tuple[str, ...], str]]:
    """(key path below the table, what is wrong and what to do) of each fault."""
    for item in error.errors(include_url=False):
        path = tuple(str(part) for part in item["loc"] if part != "[key]")
        yield path, _message(item["type"], item, model, path)


def _message(kind: str, item: Any, model: type[BaseModel], path: tuple[str, ...]) -> str:
    context: Mapping[str, Any] = item.get("ctx", {})
    if kind == "extra_forbidden":
        return f"unknown key{nearest(path[-1], _keys(_model_at(model, path[:-1])))}"
    if kind == "missing":
        return "is missing; add it"
    if kind in ("enum", "literal_error"):
        expected = str(context["expected"]).replace("'", '"')
        return f"{_quoted(item.get('input'))} is not one of {expected.replace(' or ', ', ')}"
    if kind == "value_error":
        return str(context["error"])
    if kind in ("model_type", "dict_type", "model_attributes_type", "mapping_type"):
        return "is no table; give it keys"
    if kind in ("tuple_type", "list_type"):
        return 'is no list; write ["…"]'
    if kind == "string_type":
        return 'is no text; write it in quotes "…"'
    if kind == "too_short":
        return "is empty; name at least one"
    if kind == "string_pattern_mismatch":
        return f"{_quoted(item.get('input'))} has characters that do not belong there"
    return f"{str(item['msg'])[:1].lower()}{str(item['msg'])[1:]}"


def _quoted(value: object) -> str:
    if isinstance(value, enum.Enum):
        value = value.value
    text = f'"{value}"' if isinstance(value, str) else str(value)
    return text if len(text) <= _SHORT else "the value"


def _keys(model: type[BaseModel] | None) -> list[str]:
    if model is None:
        return []
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_at(model: type[BaseModel], path: tuple[str, ...]) -> type[BaseModel] | None:
    """The schema of the table at a key path, as far as it has one."""
    found: type[BaseModel] | None = model
    for key in path:
        if found is None:
            return None
        field = next((f for name, f in found.model_fields.items() if key in (name, f.alias)), None)
        found = _model_in(field.annotation) if field else None
    return found


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in get_args(annotation):
        found = _model_in(argument)
        if found is not None:
            return found
    return None
