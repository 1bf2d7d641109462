"""Becomes the program that an interpreter was asked to run, from inside that interpreter; standard library only.

A launcher that wants to see a Python child from its first import starts it with
a file of its own, which loads this one by path and calls `run`.
"""

import os
import runpy
import sys
from types import CodeType


def run(mode: str, target: str, arguments: list[str]) -> None:
    """What ``python TARGET``, ``python -m TARGET`` or ``python -c TARGET`` does, in the real ``__main__``.

    `mode` is ``script``, ``folder`` or ``archive`` (with a ``__main__`` in it), ``module`` or ``text``.
    """
    namespace = sys.modules["__main__"].__dict__
    for name in [name for name in namespace if not (name.startswith("__") and name.endswith("__"))]:
        del namespace[name]
    for name in ("__file__", "__cached__", "__doc__", "__annotations__"):
        namespace.pop(name, None)
    first = {"module": "-m", "text": "-c"}.get(mode, target)
    sys.argv[:] = [first, *arguments]
    options = ["-c", target] if mode == "text" else ["-m", target] if mode == "module" else [target]
    sys.orig_argv[:] = [sys.executable, *options, *arguments]
    if mode == "module":
        _on_path(os.getcwd())
        runpy._run_module_as_main(target)  # type: ignore[attr-defined]  # what python -m itself calls
        return
    if mode in ("folder", "archive"):
        sys.path.insert(0, target)  # whatever -P says: it is what was asked to run
        runpy._run_module_as_main("__main__", False)  # type: ignore[attr-defined]
        return
    _on_path(os.path.dirname(os.path.realpath(target)) if mode == "script" else "")
    exec(_code(mode, target, namespace), namespace)  # noqa: S102 - it is what an interpreter does


def _code(mode: str, target: str, namespace: dict[str, object]) -> CodeType:
    if mode == "text":
        return compile(target, "<string>", "exec")
    path = os.path.abspath(target)
    namespace["__file__"] = path
    with open(path, "rb") as file:
        return compile(file.read(), path, "exec")


def _on_path(folder: str) -> None:
    if not getattr(sys.flags, "safe_path", False):  # older interpreters have no -P
        sys.path.insert(0, folder)
