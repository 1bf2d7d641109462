"""Which files the modules of this interpreter came from, as its import system says; standard library only.

Kept apart and free of other imports, since a process that was started to be
measured loads it by path before any code of the application.
"""

from __future__ import annotations

import importlib.machinery
import os
import re
import sys
import zipimport
from types import FunctionType, ModuleType

SOURCE = "source"
SOURCELESS = "sourceless"
EXTENSION = "extension"
ARCHIVE = "archive"
SCRIPT = "script"
UNKNOWN = "unknown"

Fact = tuple[str, str, str, tuple[str, ...], str]
"""(how, module name, path, paths of possible bytecode, reason where unknown)."""

_IMP = sys.modules["_imp"]
# What the standard library starts its own children with: approved code under another name.
OWN_COMMANDS = re.compile(
    r"from multiprocessing\.(spawn|forkserver|resource_tracker) import (spawn_main|main); "
    r"(spawn_main|main)\([\w\s=,.:/\[\]{}'\"-]*\)\Z"
)
_TAKES_VALUE = frozenset("WX")
_SITE_FOLDERS = frozenset({"site-packages", "dist-packages"})


def command_text(arguments: list[str]) -> str | None:
    """The text after ``-c`` on an interpreter's command line (`sys.orig_argv`), None where there is none."""
    position = 1
    while position < len(arguments):
        argument = arguments[position]
        if argument == "--check-hash-based-pycs":
            position += 2
            continue
        if not argument.startswith("-") or argument in ("-", "--"):
            return None
        if argument.startswith("--"):
            position += 1
            continue
        for index, letter in enumerate(argument[1:], 2):
            if letter == "c":
                rest = argument[index:]
                return rest or (arguments[position + 1] if position + 1 < len(arguments) else "")
            if letter == "m":
                return None
            if letter in _TAKES_VALUE:
                position += not argument[index:]
                break
        position += 1
    return None


def module_facts() -> list[Fact]:
    """One fact a module of `sys.modules`; modules that belong to the executable and namespaces have none.

    Reads attributes past any ``__getattribute__``, so that no lazy module is
    woken, and never believes ``__file__`` alone.
    """
    found: list[Fact] = []
    seen: set[int] = set()
    for name, module in list(sys.modules.items()):
        namespace = _namespace(module)
        if name in ("__main__", "__mp_main__") and namespace.get("__spec__") is None:
            found.extend(_main(name, namespace))
            continue
        spec = namespace.get("__spec__") or _spec_of_stand_in(module, namespace)
        if id(spec) in seen and sys.modules.get(getattr(spec, "name", "")) is module:
            continue  # the same module under another name
        if spec is not None:
            seen.add(id(spec))
        found.extend(_module(name, module, namespace, spec))
    text = command_text(getattr(sys, "orig_argv", []))
    if text is not None and not OWN_COMMANDS.match(text):
        found.append((UNKNOWN, "python -c", "", (), "text on the command line has no file"))
    return found


def _namespace(module: object) -> dict[str, object]:
    try:
        found = object.__getattribute__(module, "__dict__")
    except AttributeError:
        return {}
    return found if isinstance(found, dict) else dict(found)


def _spec_of_stand_in(module: object, namespace: dict[str, object]) -> object:
    """A module that put an object of its own in its place: the spec of where its functions came from."""
    if type(module) is ModuleType or _defines_functions(namespace):
        return None
    kind = module if isinstance(module, type) else type(module)
    for value in _functions(kind):
        return value.__globals__.get("__spec__")
    return None


def _functions(kind: type) -> list[FunctionType]:
    return [
        value for base in kind.__mro__ for value in vars(base).values() if isinstance(value, FunctionType)
    ]


def _main(name: str, namespace: dict[str, object]) -> list[Fact]:
    path = namespace.get("__file__")
    if isinstance(path, str) and path and not path.startswith("<"):  # 3.13 says "<stdin>"
        if path.endswith(".pyc"):
            return [(SOURCELESS, name, path, (path,), "")]
        return [(SCRIPT, name, path, (), "")]
    if command_text(getattr(sys, "orig_argv", [])) is not None:
        return []  # said once, below
    return [(UNKNOWN, "python -", "", (), "read from standard input or typed: no file")]


def _module(name: str, module: object, namespace: dict[str, object], spec: object) -> list[Fact]:
    if spec is None:
        return _without_spec(name, module, namespace)
    spec_name = getattr(spec, "name", None)
    origin = getattr(spec, "origin", None)
    loader = getattr(spec, "loader", None)
    if not isinstance(spec_name, str):
        return [(UNKNOWN, name, "", (), "its spec has no name")]
    if spec_name != name and name not in ("__main__", "__mp_main__"):
        own = sys.modules.get(spec_name)
        # A stand-in has no spec of its own and claims nothing.
        if own is not None and own is not module and namespace.get("__spec__") is spec:
            if not _holds_code(namespace):
                return []
            return [(UNKNOWN, name, "", (), f"claims to be {spec_name}, which is another module")]
    kind = loader if isinstance(loader, type) else type(loader)
    if kind is importlib.machinery.SourceFileLoader and isinstance(origin, str):
        return [(SOURCE, name, origin, _bytecode(namespace, spec, loader, origin), "")]
    if kind is importlib.machinery.ExtensionFileLoader and isinstance(origin, str):
        return [(EXTENSION, name, origin, (), "")]
    if kind is importlib.machinery.BuiltinImporter:
        return [] if _IMP.is_builtin(spec_name) else [(UNKNOWN, name, "", (), "says builtin, is not")]
    if kind is importlib.machinery.FrozenImporter:
        original = getattr(getattr(spec, "loader_state", None), "origname", None) or spec_name
        frozen = _IMP.is_frozen(original) or _IMP.is_frozen(spec_name)
        return [] if frozen else [(UNKNOWN, name, "", (), "says frozen, is not")]
    if kind is importlib.machinery.SourcelessFileLoader and isinstance(origin, str):
        return [(SOURCELESS, name, origin, (origin,), "")]
    if kind is zipimport.zipimporter:
        archive = getattr(loader, "archive", "")
        return [(ARCHIVE, name, archive, (), "")]
    if origin is None and getattr(spec, "submodule_search_locations", None) is not None:
        # A namespace package has no code; if some was put there, it is said.
        return _without_spec(name, module, namespace)
    if loader is None and origin is None:
        return _without_spec(name, module, namespace)
    return _by_another_loader(name, namespace, kind)


def _by_another_loader(name: str, namespace: dict[str, object], kind: type) -> list[Fact]:
    """A loader that is not the import system's own: its code is unknown, but for two harmless habits.

    An importer that hands out a module that exists already (six, setuptools)
    writes its name over the spec and leaves ``__loader__``; a namespace in which
    nothing was executed has no code.
    """
    loader = namespace.get("__loader__")
    path = getattr(loader, "path", None)
    if type(loader) is importlib.machinery.SourceFileLoader and isinstance(path, str):
        cached = namespace.get("__cached__")
        return [(SOURCE, name, path, (cached,) if isinstance(cached, str) else (), "")]
    if type(loader) is importlib.machinery.ExtensionFileLoader and isinstance(path, str):
        return [(EXTENSION, name, path, (), "")]
    if not _holds_code(namespace):
        return []
    return [(UNKNOWN, name, "", (), f"loaded by {_label(kind)}")]


def _holds_code(namespace: dict[str, object]) -> bool:
    """True where text was executed in a namespace: ``exec`` leaves ``__builtins__`` behind."""
    return "__builtins__" in namespace or _defines_functions(namespace)


def _defines_functions(namespace: dict[str, object]) -> bool:
    return any(
        isinstance(value, FunctionType) and value.__globals__ is namespace
        for value in list(namespace.values())
    )


def _bytecode(namespace: dict[str, object], spec: object, loader: object, origin: str) -> tuple[str, ...]:
    """Where the bytecode of a source module may be: as recorded at import, and as the spec says.

    They differ where ``sys.pycache_prefix`` changed in between; all are looked at.
    """
    candidates = [namespace.get("__cached__"), getattr(spec, "cached", None)]
    path = getattr(loader, "path", None)
    if isinstance(path, str) and path != origin:
        candidates.append(path)  # another file than the origin: not bytecode, so it will not be valid
    return tuple(dict.fromkeys(item for item in candidates if isinstance(item, str) and item))


def _without_spec(name: str, module: object, namespace: dict[str, object]) -> list[Fact]:
    """Made by native code (belongs to its shared object), or by ``exec`` of text (unknown)."""
    if not isinstance(module, ModuleType):
        # A class without functions (typing.io) or a native object has no code of its own.
        if _functions(module if isinstance(module, type) else type(module)):
            return [(UNKNOWN, name, "", (), "an object whose functions come from no module")]
        return []
    if "__builtins__" in namespace:
        return [(UNKNOWN, name, "", (), "made by exec: no file behind it")]
    if _defines_functions(namespace):
        return [(UNKNOWN, name, "", (), "holds functions that no file defines")]
    return []


def _label(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def site_folders() -> tuple[str, ...]:
    """Folders of this interpreter whose ``.pth`` files were read; empty under ``-S``.

    Folders added later by ``site.addsitedir`` are known only where they carry a
    site folder's name and stand on the path.
    """
    site = sys.modules.get("site")
    if site is None or sys.flags.no_site:
        return ()
    folders = list(site.getsitepackages())
    if site.ENABLE_USER_SITE:
        folders.append(site.getusersitepackages())
    folders.extend(item for item in sys.path if os.path.basename(item) in _SITE_FOLDERS)
    return tuple(dict.fromkeys(folders))
