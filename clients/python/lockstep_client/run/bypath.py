"""Modules of this package in a process that need not have it: loaded by path, under names of their own.

Standard library only. ``lockstep_client.guard`` becomes ``_lockstep_client.guard``,
so that the program's own packages, and another version of this one among them,
are found as if nobody were here.
"""

from __future__ import annotations

import builtins
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any


class ByPath:
    """Finds packages in `folders`, by their public names. What is loaded finds the others the same way."""

    def __init__(self, folders: Mapping[str, str]) -> None:
        self._folders = dict(folders)

    def module(self, name: str) -> ModuleType:
        """A module by its public name, loaded once; packages around it are not. Raises what its code raises."""
        private = f"_{name}"
        if private in sys.modules:
            return sys.modules[private]
        package, *rest = name.split(".")
        path = os.path.join(self._folders[package], *rest)
        file = os.path.join(path, "__init__.py") if os.path.isdir(path) else f"{path}.py"
        loader = importlib.machinery.SourceFileLoader(private, file)
        spec = importlib.util.spec_from_loader(private, loader)
        assert spec is not None  # noqa: S101 - a loader was given
        module = importlib.util.module_from_spec(spec)
        # An import statement asks the builtins of its own module how to import.
        module.__dict__["__builtins__"] = {**vars(builtins), "__import__": self._import}
        sys.modules[private] = module
        try:
            loader.exec_module(module)
        except BaseException:
            del sys.modules[private]
            raise
        return module

    def _import(
        self, name: str, names: Any = None, local: Any = None, fromlist: Any = (), level: int = 0
    ) -> Any:
        """`builtins.__import__` for the modules that were loaded here; the interpreter gives all five by position."""
        if level == 0 and fromlist and name.partition(".")[0] in self._folders:
            return self.module(name)
        return builtins.__import__(name, names, local, fromlist, level)
