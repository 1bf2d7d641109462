"""The first file that a Python child runs: opens the link to its launcher, then becomes the program.

Standard library only, and neighbours by path: the child's environment need not
have this package.
"""

import sys

if __name__ == "__main__" and not getattr(sys.flags, "safe_path", False):
    del sys.path[0]  # this folder is nobody's import path

import importlib.machinery
import importlib.util
import os
from types import ModuleType


def _load(name: str, *path: str) -> ModuleType:
    loader = importlib.machinery.SourceFileLoader(name, os.path.join(*path))
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec is not None  # noqa: S101 - a loader was given
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    loader.exec_module(module)
    return module


def _begin() -> None:
    here = os.path.dirname(os.path.abspath(__file__))
    measure = os.path.join(os.path.dirname(here), "measure")
    facts = _load("_lockstep_facts", measure, "facts.py")
    runner = _load("_lockstep_bootstrap", measure, "bootstrap.py")
    bypath = _load("_lockstep_bypath", here, "bypath.py")
    _load("_lockstep_inside", here, "inside.py").begin(facts, runner, bypath)


if __name__ == "__main__":
    _begin()
