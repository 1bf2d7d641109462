"""Runs a Python program so that its launcher can ask which modules it has loaded; standard library only.

Started by path, before any code of the application: ``python [options]
bootstrap.py DESCRIPTOR MODE TARGET [arguments]``. Each process, forked ones
too, hands its launcher one end of a socket pair over the inherited descriptor
and answers on the other; a process that is executed anew does not come by here,
and its launcher sees that it did not.
"""

import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    del sys.path[0]  # this folder is nobody's import path

import _thread
import importlib.machinery
import importlib.util
import json
import os
import runpy
import socket
from types import CodeType, ModuleType

QUESTION = b"modules"


def load(name: str, folder: str, file: str) -> ModuleType:
    """A neighbour of this file as a module, by its path alone."""
    loader = importlib.machinery.SourceFileLoader(name, os.path.join(folder, file))
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec is not None  # noqa: S101 - a loader was given
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    loader.exec_module(module)
    return module


class Answering:
    """Answers its launcher for as long as the process lives."""

    def __init__(self, descriptor: int, facts: ModuleType) -> None:
        os.set_inheritable(descriptor, False)
        self._register = socket.socket(fileno=descriptor)
        self._facts = facts

    def begin(self) -> None:
        """In every new process; a launcher that has gone is no reason to stop."""
        mine, theirs = socket.socketpair()
        try:
            socket.send_fds(self._register, [str(os.getpid()).encode()], [theirs.fileno()])
            _thread.start_new_thread(self._serve, (mine,))
        except (OSError, RuntimeError):
            mine.close()
        finally:
            theirs.close()

    def _serve(self, own: socket.socket) -> None:
        try:
            while own.recv(len(QUESTION)) == QUESTION:
                answer = json.dumps(self._answer()).encode()
                own.sendall(len(answer).to_bytes(8, "big") + answer)
        except OSError:
            pass
        own.close()

    def _answer(self) -> dict[str, object]:
        return {
            "facts": self._facts.module_facts(),
            "sites": self._facts.site_folders(),
            "magic": importlib.util.MAGIC_NUMBER.hex(),
            "check_hashes": getattr(sys.modules["_imp"], "check_hash_based_pycs", "default"),
        }


def run(mode: str, target: str, arguments: list[str]) -> None:
    """What ``python TARGET``, ``python -m TARGET`` or ``python -c TARGET`` does, in the real ``__main__``."""
    namespace = sys.modules["__main__"].__dict__
    for name in [name for name in namespace if not (name.startswith("__") and name.endswith("__"))]:
        del namespace[name]
    for name in ("__file__", "__cached__", "__doc__", "__annotations__"):
        namespace.pop(name, None)
    first = {"script": target, "module": "-m", "text": "-c"}[mode]
    sys.argv[:] = [first, *arguments]
    options = ["-c", target] if mode == "text" else ["-m", target] if mode == "module" else [target]
    sys.orig_argv[:] = [sys.executable, *options, *arguments]
    if mode == "module":
        _on_path(os.getcwd())
        runpy._run_module_as_main(target)  # type: ignore[attr-defined]  # what python -m itself calls
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
    if not sys.flags.safe_path:
        sys.path.insert(0, folder)


def _begin() -> None:
    folder = os.path.dirname(os.path.abspath(__file__))
    own = load("_lockstep_bootstrap", folder, "bootstrap.py")
    answering = own.Answering(int(sys.argv[1]), load("_lockstep_facts", folder, "facts.py"))
    answering.begin()
    os.register_at_fork(after_in_child=answering.begin)
    own.run(sys.argv[2], sys.argv[3], sys.argv[4:])


if __name__ == "__main__":
    _begin()
