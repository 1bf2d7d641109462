"""Measuring another process: its tree's native code, and the modules that its Pythons speak of."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass

from lockstep_client.measure.facts import Fact
from lockstep_client.measure.hashing import HashCache
from lockstep_client.measure.interpreters import is_interpreter
from lockstep_client.measure.mappings import measure_native
from lockstep_client.measure.model import CodeSetLike, Measurement, UnknownCode
from lockstep_client.measure.modules import Interpreter, ModuleCode, measure_modules
from lockstep_client.measure.own import assemble
from lockstep_client.measure.pathfiles import measure_path_files
from lockstep_client.measure.process import children, image_started_at, process_ref


@dataclass(frozen=True, slots=True)
class Modules:
    """What one Python process answered about its modules."""

    facts: list[Fact]
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


def _executable(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)")
    except OSError:
        return ""
