"""Measuring this very process: modules on this thread, native code on a second one."""

from __future__ import annotations

import threading
import time

from lockstep.formats import UnitKind
from lockstep_client.measure.facts import module_facts, site_folders
from lockstep_client.measure.hashing import HashCache
from lockstep_client.measure.mappings import NativeCode, hash_from_the_end, measure_native
from lockstep_client.measure.model import CodeSetLike, Measurement, ProcessRef, UnknownCode
from lockstep_client.measure.modules import Interpreter, ModuleCode, measure_modules
from lockstep_client.measure.pathfiles import measure_path_files
from lockstep_client.measure.process import image_started_at, process_ref


def measure_self(cache: HashCache | None = None, base: CodeSetLike | None = None) -> Measurement:
    """What this Python process has loaded, as far as it can know.

    `cache` makes a second measurement cheap; `base` is what an earlier one
    found: its units stay, since what was once loaded stays recorded. Nothing is
    raised for code that cannot be read or has no file: it is named in `unknown`
    and `anonymous`, and the broker decides.

    Level *self*: a process under somebody else's control says what it likes.
    """
    cache = cache if cache is not None else HashCache()
    native: list[NativeCode] = []
    second = threading.Thread(
        target=lambda: native.append(measure_native(cache)), name="lockstep-measure", daemon=True
    )
    try:
        second.start()
    except RuntimeError:  # no thread can start: at interpreter shutdown, or at the limit
        native.append(measure_native(cache))
    modules = measure_modules(module_facts(), cache, image_started_at(), Interpreter.current())
    measure_path_files(modules, cache, site_folders())
    if second.ident is not None:
        hash_from_the_end(cache, second.is_alive)
        second.join()
    return assemble(modules, native[0] if native else None, base)


def assemble(
    modules: ModuleCode,
    native: NativeCode | None,
    base: CodeSetLike | None,
    process: ProcessRef | None = None,
) -> Measurement:
    """One measurement of modules, native code and what was there before."""
    units = set(modules.units)
    hints = dict(modules.hints)
    unknown = list(modules.unknown)
    if native is None:
        unknown.append(UnknownCode(UnitKind.SHARED_OBJECT, "native mappings", "the measuring thread died"))
        native = NativeCode(frozenset(), (), (), (), {})
    units |= native.units
    names = {native.files[path]: name for path, name in modules.extensions.items() if path in native.files}
    for hint in native.hints:
        name = names.get(hint.digest)
        hints.setdefault(hint.digest, hint if name is None else type(hint)(hint.digest, hint.path, name))
    if base is not None:
        units |= base.units
    return Measurement(
        units=frozenset(units),
        hints=tuple(hints.values()),
        unknown=tuple(dict.fromkeys(unknown + list(native.unknown))),
        anonymous=native.anonymous,
        process=process if process is not None else process_ref(),
        measured_at=time.time(),
    )
