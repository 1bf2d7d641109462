"""Measuring a process that was started for it: its tree's native code, and the modules of its Pythons."""

from __future__ import annotations

import json
import os
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from lockstep_client.measure import bootstrap
from lockstep_client.measure.hashing import HashCache
from lockstep_client.measure.interpreters import is_interpreter, python_command
from lockstep_client.measure.mappings import measure_native
from lockstep_client.measure.model import CodeSetLike, Measurement, UnknownCode
from lockstep_client.measure.modules import Interpreter, ModuleCode, measure_modules
from lockstep_client.measure.own import assemble
from lockstep_client.measure.pathfiles import measure_path_files
from lockstep_client.measure.process import children, image_started_at, process_ref

_BOOTSTRAP: Final = str(Path(bootstrap.__file__).resolve())
_MOST: Final = 64 * 1024 * 1024
_TIMEOUT: Final = 2.0


@dataclass(frozen=True, slots=True)
class Modules:
    """What one Python process answered about its modules."""

    facts: list[tuple[str, str, str, tuple[str, ...], str]]
    sites: tuple[str, ...]
    interpreter: Interpreter


def measure_process(
    pid: int,
    cache: HashCache | None = None,
    base: CodeSetLike | None = None,
    modules: Mapping[int, Modules] | None = None,
) -> Measurement:
    """What `pid` and its descendants have loaded, from outside: level *self* of whoever asks.

    `modules`: what Python processes said of themselves, by pid. An interpreter
    that said nothing is named in `unknown`: files that it read once are mapped
    nowhere. Raises nothing for what cannot be read or has gone.
    """
    cache = cache if cache is not None else HashCache()
    whole: Measurement | None = None
    for member in (pid, *children(pid)):
        code = ModuleCode()
        said = (modules or {}).get(member)
        executable = _executable(member)
        if said is not None:
            code = measure_modules(said.facts, cache, image_started_at(member), said.interpreter)
            measure_path_files(code, cache, said.sites)
        elif executable and is_interpreter(executable):
            name = os.path.basename(executable)
            code.unknown.append(
                UnknownCode(None, f"interpreter {name}", "what it was given to run was not measured")
            )
        native = measure_native(cache, member)
        if member != pid and not native.units:
            continue  # it has ended meanwhile
        found = assemble(code, native, base, process_ref(member))
        whole = found if whole is None else whole.merged(found)
    return whole if whole is not None else Measurement(frozenset(), measured_at=time.time())


class Launch:
    """The launcher's side of a program that is started to be measured.

    ``subprocess.Popen(launch.command(argv, env), pass_fds=launch.descriptors)``,
    then `started`; `measure` whenever it is needed, from one thread at a time.
    """

    def __init__(self) -> None:
        self._register, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._register.setblocking(False)
        self._processes: dict[int, socket.socket] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def descriptors(self) -> tuple[int, ...]:
        """To be inherited by the program."""
        return (self._theirs.fileno(),)

    def command(self, arguments: Sequence[str], environ: Mapping[str, str]) -> list[str]:
        """The command with the bootstrap in front of a Python program; any other as it is."""
        found = python_command(arguments, environ)
        if found is None:
            return list(arguments)
        return [
            found.python,
            *found.options,
            _BOOTSTRAP,
            str(self._theirs.fileno()),
            found.mode,
            found.target,
            *found.arguments,
        ]

    def started(self) -> None:
        """Call once the program has been started: the launcher's copy of its end is closed."""
        self._theirs.close()

    def measure(self, pid: int, cache: HashCache, base: CodeSetLike | None = None) -> Measurement:
        """The program and its descendants; every Python among them that answers within two seconds is asked."""
        self._meet()
        deadline = time.monotonic() + _TIMEOUT
        said: dict[int, Modules] = {}
        for member, connection in list(self._processes.items()):
            answer = _ask(connection, deadline)
            if answer is None:
                connection.close()
                del self._processes[member]
            else:
                said[member] = answer
        return measure_process(pid, cache, base, said)

    def close(self) -> None:
        """Stop asking; the program goes on."""
        for connection in (self._register, self._theirs, *self._processes.values()):
            connection.close()
        self._processes.clear()

    def _meet(self) -> None:
        while True:
            try:
                text, descriptors, _, _ = socket.recv_fds(self._register, 64, 1)
            except BlockingIOError:
                return
            if not text:
                return
            for descriptor in descriptors:
                connection = socket.socket(fileno=descriptor)
                # The pid as the kernel recorded it where the pair was made, not as the message says.
                credentials = connection.getsockopt(
                    socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")
                )
                member = struct.unpack("3i", credentials)[0]
                previous = self._processes.pop(member, None)
                if previous is not None:
                    previous.close()
                self._processes[member] = connection


def _ask(connection: socket.socket, deadline: float) -> Modules | None:
    try:
        connection.settimeout(max(0.05, deadline - time.monotonic()))
        connection.sendall(bootstrap.QUESTION)
        size = int.from_bytes(_exactly(connection, 8, deadline), "big")
        if size > _MOST:
            return None
        answer: dict[str, Any] = json.loads(_exactly(connection, size, deadline))
        return Modules(
            facts=[
                (str(how), str(name), str(path), tuple(map(str, cached)), str(reason))
                for how, name, path, cached, reason in answer["facts"]
            ],
            sites=tuple(map(str, answer["sites"])),
            interpreter=Interpreter(bytes.fromhex(answer["magic"]), str(answer["check_hashes"])),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _exactly(connection: socket.socket, size: int, deadline: float) -> bytes:
    parts: list[bytes] = []
    while size:
        connection.settimeout(max(0.05, deadline - time.monotonic()))
        part = connection.recv(min(size, 1 << 20))
        if not part:
            raise OSError("closed")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _executable(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)")
    except OSError:
        return ""
