"""Reading: the main file, the files that it includes, then the environment; nothing is judged here but shape."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from broker.crypto.keyfiles import KeyFileError, read_public
from broker.settings.problems import Problem, nearest, shown

NAMED: Final = (
    "identity",
    "signers",
    "manifests",
    "backends",
    "cutters",
    "roles",
    "detectors",
    "operators",
    "resource_servers",
)
"""Tables of named entries: any file may have some, each name stands in one file only."""
SERVER: Final = (
    "cluster",
    "issuer",
    "reflection",
    "listen",
    "tls",
    "state",
    "keys",
    "audit",
    "retention",
    "http",
    "limits",
)
"""Keys of the main file."""
PREFIX: Final = "LOCKSTEP_"
_MAX_FILE: Final = 4 * 1024 * 1024
_MAX_FILES: Final = 1_000


@dataclass(frozen=True, slots=True)
class Entry:
    """One named entry as it was written, and the file it stands in."""

    raw: Any
    file: Path


@dataclass(slots=True)
class Source:
    """Everything that was written, before it is understood.

    `overridden` maps key paths that the environment set to the variable's name.
    """

    file: Path
    server: dict[str, Any] = field(default_factory=dict)
    entries: dict[tuple[str, str], Entry] = field(default_factory=dict)
    overridden: dict[tuple[str, ...], str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def origin(self, path: tuple[str, ...], file: Path) -> str:
        """Where a key was set: a file, or a variable of the environment."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.overridden:
                return self.overridden[path[:length]]
        return shown(file)


def read(file: Path, environment: Mapping[str, str]) -> Source:
    """Read a configuration; faults of form are in `Source.problems`."""
    source = Source(file)
    _read_file(source, file, trail=(), seen=set())
    _apply(source, environment)
    return source


def _read_file(source: Source, file: Path, trail: tuple[Path, ...], seen: set[Path]) -> None:
    real = file.resolve()
    if real in seen:
        return
    seen.add(real)
    if len(seen) > _MAX_FILES:
        source.problems.append(Problem(shown(file), "include", f"more than {_MAX_FILES} files"))
        return
    tables = _parse(source, file)
    if tables is None:
        return
    for key, value in tables.items():
        if key == "include":
            continue
        if key in NAMED:
            _take(source, file, key, value)
        elif key not in SERVER:
            known = (*NAMED, *SERVER, "include") if not trail else (*NAMED, "include")
            source.problems.append(Problem(shown(file), key, f"unknown key{nearest(key, known)}"))
        elif trail:
            source.problems.append(
                Problem(shown(file), key, f"belongs into the main file, {shown(source.file)}; move it there")
            )
        else:
            source.server[key] = value
    for path in _included(source, file, tables.get("include", [])):
        way = (*trail, real)
        if path.resolve() in way:
            circle = " → ".join(shown(item) for item in (*way[way.index(path.resolve()) :], path))
            source.problems.append(
                Problem(shown(file), "include", f"includes itself: {circle}; break the circle")
            )
        else:
            _read_file(source, path, way, seen)


def _parse(source: Source, file: Path) -> dict[str, Any] | None:
    try:
        return tomllib.loads(read_public(file, limit=_MAX_FILE).decode("utf-8"))
    except KeyFileError as error:
        message = f"{str(error).removeprefix(f'{file}: ')}; check the path and its permissions"
    except UnicodeDecodeError:
        message = "is not UTF-8 text; save it as UTF-8"
    except ValueError as error:  # tomllib.TOMLDecodeError is one
        message = f"is no TOML: {error}"
    except RecursionError:
        message = "is nested too deeply to be read"
    source.problems.append(Problem(shown(file), "", message))
    return None


def _take(source: Source, file: Path, table: str, value: Any) -> None:
    if not isinstance(value, dict):
        source.problems.append(Problem(shown(file), table, f"is no table; write [{table}.NAME]"))
        return
    for name, raw in value.items():
        other = source.entries.get((table, name))
        if other is not None:
            source.problems.append(
                Problem(
                    shown(file),
                    f"{table}.{name}",
                    f"stands in {shown(other.file)} too; keep one, or rename one",
                )
            )
        else:
            source.entries[table, name] = Entry(raw, file)


def _included(source: Source, file: Path, patterns: Any) -> list[Path]:
    if not isinstance(patterns, list) or not all(isinstance(item, str) and item for item in patterns):
        source.problems.append(
            Problem(shown(file), "include", 'is no list of file patterns; write ["roles.d/*.toml"]')
        )
        return []
    found: list[Path] = []
    for pattern in patterns:
        folder, wanted = file.parent, pattern
        if Path(pattern).is_absolute():
            folder, wanted = Path("/"), pattern.lstrip("/")
        try:
            matches = sorted(folder.glob(wanted))
        except (ValueError, NotImplementedError, OSError):
            matches = []
            source.problems.append(Problem(shown(file), "include", f'"{pattern}" is no file pattern'))
        # A pattern may match nothing yet; a file named outright must be there.
        if not matches and not any(mark in pattern for mark in "*?["):
            source.problems.append(Problem(shown(file), "include", f'"{pattern}": no such file; create it'))
        found.extend(matches)
    return found


# --- the environment ----------------------------------------------------------------------------------


def _apply(source: Source, environment: Mapping[str, str]) -> None:
    """``LOCKSTEP_LISTEN__TLS=…`` sets ``listen.tls``.

    A variable without ``__`` counts only where it names a key of one value: the
    SDK's variables have the prefix too, and so have Kubernetes' for a Service
    called lockstep.
    """
    for variable in sorted(environment):
        if not variable.startswith(PREFIX):
            continue
        path = tuple(variable.removeprefix(PREFIX).lower().split("__"))
        if len(path) == 1 and path[0] not in ("cluster", "issuer", "reflection"):
            continue
        problem = _set(source, path, variable, environment[variable])
        if problem:
            source.problems.append(Problem("environment", variable, problem))


def _set(source: Source, path: tuple[str, ...], variable: str, text: str) -> str:
    if not all(path) or path[0] not in (*NAMED, *SERVER):
        return f"sets no key of the configuration{nearest(path[0], (*NAMED, *SERVER))}"
    value = _value(text)
    if path[0] in SERVER:
        source.overridden[path] = variable
        return _put(source.server, path, value)
    names = [name for table, name in source.entries if table == path[0]]
    fitting = [name for name in names if _as_variable(name) == path[1]]
    if len(fitting) != 1:
        return f"names none of [{path[0]}.…]{nearest(path[1], map(_as_variable, names))}"
    name = fitting[0]
    entry = source.entries[path[0], name]
    source.overridden[(path[0], name, *path[2:])] = variable
    if len(path) == 2:
        source.entries[path[0], name] = Entry(value, entry.file)
        return ""
    if not isinstance(entry.raw, dict):
        return f"{path[0]}.{name} has no keys below it"
    return _put(entry.raw, path[2:], value)


def _put(table: dict[str, Any], path: tuple[str, ...], value: Any) -> str:
    for key in path[:-1]:
        below = table.setdefault(key, {})
        if not isinstance(below, dict):
            return f"{key} has no keys below it"
        table = below
    table[path[-1]] = value
    return ""


def _as_variable(name: str) -> str:
    return name.lower().replace("-", "_").replace(".", "_")


def _value(text: str) -> Any:
    # Lists and tables as in the file; everything else is text, which the schema turns into what it wants.
    if text.lstrip().startswith(("[", "{")):
        try:
            return tomllib.loads(f"value = {text}")["value"]
        except (tomllib.TOMLDecodeError, RecursionError):
            return text
    return text
