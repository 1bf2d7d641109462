"""What each audit event means (PEP 578): which bytes are about to run, and are they approved?"""

from __future__ import annotations

import ast
import importlib._bootstrap as _bootstrap
import importlib._bootstrap_external as _external
import os
import time
import zipimport
from collections.abc import Callable, Iterable, Iterator, Mapping
from hashlib import sha256
from types import CodeType, FrameType
from typing import Any, Final

from lockstep_client.guard.generators import Generators, frames
from lockstep_client.guard.observation import Approved, Observation
from lockstep_client.guard.programs import Started, started
from lockstep_client.measure.hashing import HashCache

Judgement = Callable[[tuple[Any, ...], FrameType | None], Iterator[Observation]]
_WRITES: Final = os.O_WRONLY | os.O_RDWR
_SUBINTERPRETERS: Final = frozenset({"_interpreters", "_xxsubinterpreters", "_testcapi", "_testinternalcapi"})


def concerns(event: str, args: tuple[Any, ...]) -> bool:
    """False for the many events of a busy kind that cannot matter; cheap, since it is asked thousands of times."""
    if event == "object.__setattr__":
        return bool(args[1] == "__code__")
    if event == "open":
        path = args[0]
        if isinstance(path, str):
            return path.endswith("/mem")
        return isinstance(path, bytes) and path.endswith(b"/mem")
    if event == "import":
        return args[1] is not None or args[0] in _SUBINTERPRETERS
    return True


class Judge:
    """Turns events into observations of code that is not approved; each method is one event's judgement."""

    def __init__(
        self, approved: Approved, generators: Generators, cache: HashCache, sweep: Callable[[], None]
    ) -> None:
        """`sweep` asks for a look at executable memory, soon and elsewhere."""
        self._approved = approved
        self._generators = generators
        self._cache = cache
        self._sweep = sweep
        # Frames of the import system are told by their code objects, which no text can name.
        self._calls = _code(_bootstrap._call_with_frames_removed)  # type: ignore[attr-defined]
        self._compiles = _code(_external.SourceLoader.source_to_code)
        self._unmarshals = _code(_external._compile_bytecode)  # type: ignore[attr-defined]
        self._zips = frozenset(
            {_code(zipimport._compile_source), _code(zipimport._unmarshal_code)}  # type: ignore[attr-defined]
        )
        self._parses = _code(ast.parse)

    def events(self) -> Mapping[str, Judgement]:
        """Which event goes to which judgement."""
        return {
            "compile": self.compile,
            "marshal.loads": self.unmarshal,
            "marshal.load": self.unmarshal_file,
            "code.__new__": self.assemble,
            "object.__setattr__": self.assign,
            "import": self.load_extension,
            "ctypes.dlopen": self.open_library,
            "sqlite3.load_extension": self.open_extension,
            "open": self.open_file,
            "cpython.PyInterpreterState_New": self.interpreter,
            "subprocess.Popen": self.process,
            "os.posix_spawn": self.spawn,
            "os.exec": self.spawn,
            "os.system": self.shell,
            "pty.spawn": self.terminal,
        }

    def compile(self, args: tuple[Any, ...], frame: FrameType | None) -> Iterator[Observation]:
        """Source text, of a module that is imported or from anywhere else."""
        source, filename = args[0], str(args[1])
        if isinstance(source, str):
            source = source.encode("utf-8", "surrogatepass")
        if not isinstance(source, bytes):
            if source is not None and not self._generators.vouches(frame):
                yield _seen("generated_code", b"", filename, _where(frame), 0)
            return
        digest = sha256(source).digest()
        if digest in self._approved or (frame is not None and frame.f_code is self._parses):
            return
        if frame is not None and frame.f_code is self._calls and _caller(frame) is self._compiles:
            self._generators.refuse_file(filename)
            yield _seen("module", digest, filename, _module_name(frame, filename), len(source))
        elif frame is not None and frame.f_code in self._zips:
            yield from self._archive(frame, filename, digest, len(source))
        elif not self._generators.vouches(frame):
            yield _seen("generated_code", digest, filename, _where(frame), len(source))

    def unmarshal(self, args: tuple[Any, ...], frame: FrameType | None) -> Iterator[Observation]:
        """Bytecode: the import system's, or somebody's own."""
        data = bytes(args[0])
        digest = sha256(data).digest()
        if digest in self._approved:
            return
        if frame is not None and frame.f_code is self._unmarshals:
            path = _local(frame, "bytecode_path") or _local(frame, "source_path")
            self._generators.refuse_file(_local(frame, "source_path"))
            yield _seen("module", digest, path, _local(frame, "name"), len(data))
        elif frame is not None and frame.f_code in self._zips:
            yield from self._archive(frame, _local(frame, "pathname"), digest, len(data))
        elif not self._generators.vouches(frame):
            yield _seen("generated_code", digest, "", _where(frame), len(data))

    def unmarshal_file(self, args: tuple[Any, ...], frame: FrameType | None) -> Iterator[Observation]:
        """Bytecode straight from a file object: its bytes do not come by here."""
        if not self._generators.vouches(frame):
            yield _seen("generated_code", b"", "", _where(frame), 0)

    def assemble(self, args: tuple[Any, ...], frame: FrameType | None) -> Iterator[Observation]:
        """A code object put together by hand, or copied with a change."""
        if not self._generators.vouches(frame):
            data = bytes(args[0])
            yield _seen("generated_code", sha256(data).digest(), str(args[1]), _where(frame), len(data))

    def assign(self, args: tuple[Any, ...], frame: FrameType | None) -> Iterator[Observation]:
        """Another code object put into a function."""
        if isinstance(args[2], CodeType) and not self._generators.vouches(frame):
            data = args[2].co_code
            yield _seen(
                "generated_code", sha256(data).digest(), args[2].co_filename, _where(frame), len(data)
            )

    def load_extension(self, args: tuple[Any, ...], frame: FrameType | None) -> Iterator[Observation]:
        """An extension module, before it is mapped; a door to interpreters where no hook follows."""
        name, path = str(args[0]), args[1]
        if name in _SUBINTERPRETERS:
            yield _seen("generated_code", b"", "", f"subinterpreters: {name}", 0)
        if isinstance(path, str | bytes):
            self._sweep()
            yield from self._file("library", os.fsdecode(path), name)

    def open_library(self, args: tuple[Any, ...], frame: FrameType | None) -> Iterator[Observation]:
        """A library by path, before it is mapped; one by bare name shows in the sweep."""
        self._sweep()
        name = args[0]
        if isinstance(name, str | bytes | os.PathLike):
            path = os.fsdecode(name)
            if "/" in path:
                yield from self._file("library", path, os.path.basename(path))

    def open_extension(self, args: tuple[Any, ...], frame: FrameType | None) -> Iterator[Observation]:
        """A library that a database is told to load."""
        return self.open_library(args[1:], frame)

    def open_file(self, args: tuple[Any, ...], frame: FrameType | None) -> Iterator[Observation]:
        """Writing to a process's memory around its protections."""
        path, flags = os.fsdecode(args[0]), args[2]
        if path.startswith("/proc/") and isinstance(flags, int) and flags & _WRITES:
            yield _seen("text_patch", b"", path, _where(frame), 0)

    def interpreter(self, args: tuple[Any, ...], frame: FrameType | None) -> Iterator[Observation]:
        """A subinterpreter: audit hooks made from Python do not follow there."""
        yield _seen("generated_code", b"", "", "subinterpreters: new interpreter", 0)

    def process(self, args: tuple[Any, ...], frame: FrameType | None) -> Iterator[Observation]:
        """A program in its own folder and environment, and what an interpreter is told to run."""
        program, arguments, folder, environ = args
        yield from self._started(started(program, arguments, folder, environ), frame)

    def spawn(self, args: tuple[Any, ...], frame: FrameType | None) -> Iterator[Observation]:
        """The same by a system call, which does not say whether a bare name is searched for."""
        program, arguments, environ = args
        yield from self._started(started(program, arguments, None, environ, searched=False), frame)

    def shell(self, args: tuple[Any, ...], frame: FrameType | None) -> Iterator[Observation]:
        """A command line for ``/bin/sh``."""
        yield from self._started(started("/bin/sh", ["/bin/sh", "-c", args[0]]), frame)

    def terminal(self, args: tuple[Any, ...], frame: FrameType | None) -> Iterator[Observation]:
        """A program in a terminal of its own."""
        yield from self._started(started(None, args[0]), frame)

    def _started(self, items: Iterable[Started], frame: FrameType | None) -> Iterator[Observation]:
        for item in items:
            if item.text:
                data = item.text.encode("utf-8", "surrogateescape")
                digest = sha256(data).digest()
                if digest not in self._approved:
                    yield _seen("generated_code", digest, "", _where(frame), len(data))
            elif item.path:
                yield from self._file(item.kind, item.path, os.path.basename(item.path))
            else:
                yield _seen(item.kind, b"", "", item.name, 0)

    def _archive(self, frame: FrameType, path: str, digest: bytes, size: int) -> Iterator[Observation]:
        for caller in frames(frame, 4):
            archive = getattr(caller.f_locals.get("self"), "archive", None)
            if isinstance(archive, str):
                try:
                    if self._cache.file(archive).whole in self._approved:
                        return
                except OSError:
                    break
        yield _seen("module", digest, path, os.path.basename(path), size)

    def _file(self, kind: str, path: str, name: str) -> Iterator[Observation]:
        try:
            found = self._cache.file(path)
        except (FileNotFoundError, NotADirectoryError):
            return  # what is not there does not run, and says so itself
        except OSError:
            # It may run all the same: a program need not be readable to those who may start it.
            yield _seen(kind, b"", os.path.abspath(path), name, 0)
            return
        if found.whole not in self._approved:
            yield _seen(kind, found.whole, os.path.abspath(path), name, found.size)


def _seen(kind: str, digest: bytes, path: str, name: str, size: int) -> Observation:
    return Observation(kind, digest, path, name, size, time.time())


def _code(function: Any) -> CodeType:
    code = function.__code__
    assert isinstance(code, CodeType)  # noqa: S101
    return code


def _caller(frame: FrameType) -> CodeType | None:
    return frame.f_back.f_code if frame.f_back is not None else None


def _local(frame: FrameType, name: str) -> str:
    value = frame.f_locals.get(name)
    return value if isinstance(value, str) else ""


def _module_name(frame: FrameType, path: str) -> str:
    for caller in frames(frame, 6):
        name = caller.f_locals.get("fullname")
        if isinstance(name, str):
            return name
    return os.path.basename(path)


def _where(frame: FrameType | None) -> str:
    """Who asked, for people: module and function, and the line."""
    if frame is None:
        return ""
    return f"{frame.f_globals.get('__name__')}.{frame.f_code.co_qualname}:{frame.f_lineno}"
