"""Which bytes will run: the command is resolved once, opened, hashed by descriptor, and that descriptor is executed."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lockstep import formats
from lockstep.formats import UnitKind
from lockstep_client.errors import ConfigurationError
from lockstep_client.measure.interpreters import PythonCommand, is_interpreter, python_command
from lockstep_client.measure.interpreters import resolve as find

BOOTSTRAP = str(Path(__file__).with_name("bootstrap.py").resolve())
_WIRE = str(Path(formats.__file__).resolve().parent)
"""Where the child finds what it needs of the wire's own package."""
_SHEBANG_LIMIT = 4096
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Program:
    """A program file held open: `fd` is what is executed, `digest` its SHA-256 by that descriptor."""

    path: str
    fd: int
    digest: bytes

    @property
    def name(self) -> str:
        """The file's own name."""
        return os.path.basename(self.path)

    @property
    def execute(self) -> str:
        """A path to this very inode, whatever happens to its name meanwhile (``fexecve``)."""
        return f"/proc/self/fd/{self.fd}"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is executed: `program` with `arguments` (without its own name).

    `script` is the file that an interpreter reads first, where one does (text, or
    a Python archive); `python` what a Python is to run, whose modules are measured from inside.
    """

    program: Program
    arguments: tuple[str, ...]
    script: Program | None = None
    python: PythonCommand | None = None

    def with_bootstrap(self, socket: str, credential: str) -> tuple[str, ...]:
        """Arguments with the bootstrap put in. `credential` is the file whose opening waits, or empty."""
        if self.python is None:
            return self.arguments
        found = self.python
        return (
            *found.options,
            BOOTSTRAP,
            socket,
            credential,
            _WIRE,
            found.mode,
            found.target,
            *found.arguments,
        )

    @property
    def script_kind(self) -> UnitKind:
        """What `script` counts as."""
        archive = self.python is not None and self.python.mode == "archive"
        return UnitKind.PYTHON_ARCHIVE if archive else UnitKind.SCRIPT

    @property
    def unseen(self) -> bool:
        """True for an interpreter whose text nobody measures."""
        return self.python is None and is_interpreter(self.program.path)

    def close(self) -> None:
        """Let the descriptors go."""
        os.close(self.program.fd)
        if self.script is not None:
            os.close(self.script.fd)


def resolve(command: Sequence[str], environ: Mapping[str, str]) -> Plan:
    """Find, open and hash. Raises `ConfigurationError` where there is no such program, or it is nobody's to run."""
    first = find(command[0], environ)
    _executable(first)
    python = python_command(command, environ)
    if python is not None:
        _executable(python.python)
        one_file = python.mode in ("script", "archive")
        script = _open(os.path.abspath(python.target)) if one_file else None
        return Plan(_open(python.python), tuple(command[1:]), script, python)
    return _with_shebang(_open(first), tuple(command[1:]), environ)


def _with_shebang(first: Program, arguments: tuple[str, ...], environ: Mapping[str, str]) -> Plan:
    shebang = _shebang(first.fd)
    if shebang is None:
        return Plan(first, arguments)
    interpreter, *options = shebang
    if os.path.basename(interpreter) == "env" and options:
        interpreter, *options = options[0].removeprefix("-S").split()
    path = find(interpreter, environ)
    _executable(path)
    return Plan(_open(path), (*options, first.path, *arguments), first)


def _executable(path: str) -> None:
    if os.path.isfile(path) and not os.access(path, os.X_OK):
        raise ConfigurationError(f"{path}: {os.strerror(errno.EACCES)}", setting="command")


def _open(path: str) -> Program:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}", setting="command") from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise ConfigurationError(f"{path}: not a program", setting="command")
    digest = hashlib.sha256()
    offset = 0
    while chunk := os.pread(fd, _CHUNK, offset):
        digest.update(chunk)
        offset += len(chunk)
    return Program(path, fd, digest.digest())


def _shebang(fd: int) -> list[str] | None:
    head = os.pread(fd, _SHEBANG_LIMIT, 0)
    if not head.startswith(b"#!"):
        return None
    # Linux gives the interpreter at most one argument, white space included.
    return os.fsdecode(head[2:].partition(b"\n")[0].strip()).split(None, 1)
