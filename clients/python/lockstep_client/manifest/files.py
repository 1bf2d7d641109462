"""Code files under a folder: found, told apart by kind, and hashed on a few threads."""

from __future__ import annotations

import os
import re
import stat
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from lockstep.formats import UnitKind
from lockstep_client.manifest.packages import source_of
from lockstep_client.measure.hashing import HEADER, HashCache

Progress = Callable[[int, int], None]
"""Told (files done, files in all) as hashing goes on; called on the caller's thread only."""

_SHARED: Final = re.compile(r"\.so(\.\d[\w.]*)?$")
_CHUNK: Final = 128
_THREADS: Final = 2
_ARCHIVES: Final = (".egg", ".pyz", ".pyzw")
_ELF: Final = b"\x7fELF"


@dataclass(frozen=True, slots=True)
class CodeFile:
    """A file that holds code; `path` is where it is now."""

    path: str
    kind: UnitKind


@dataclass(frozen=True, slots=True)
class Hashed:
    """A code file with its unit's digest and the whole file's; `error` where it could not be read."""

    path: str
    kind: UnitKind
    digest: bytes
    whole: bytes
    error: str = ""


def find_code(
    root: str, *, scripts: bool = False, skip: Collection[str] = (), enter_hidden: bool = True
) -> Iterator[CodeFile]:
    """Every code file under `root`, in a fixed order; links to folders are not followed.

    `skip` holds absolute folders to leave out. With `scripts`, a Python source is
    also a script that may be run by its path. Virtual environments below `root`
    are left out: they are trees of their own.
    """
    try:
        entries = sorted(os.scandir(root), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        try:
            if entry.is_dir(follow_symlinks=False):
                if entry.path in skip or (not enter_hidden and entry.name.startswith(".")):
                    continue
                if os.path.exists(os.path.join(entry.path, "pyvenv.cfg")):
                    continue
                yield from find_code(entry.path, scripts=scripts, skip=skip, enter_hidden=enter_hidden)
                continue
            kinds = _kinds(entry, scripts)
        except OSError:
            continue
        for kind in kinds:
            yield CodeFile(entry.path, kind)


def _kinds(entry: os.DirEntry[str], scripts: bool) -> Sequence[UnitKind]:
    name = entry.name
    if name.endswith(".py"):
        if scripts:
            return (UnitKind.PYTHON_SOURCE, UnitKind.SCRIPT)
        return (UnitKind.PYTHON_SOURCE,)
    if name.endswith(".pyc"):
        in_cache = os.path.basename(os.path.dirname(entry.path)) == "__pycache__"
        # A name that the import system would not look for (a test runner's rewritten copy) never runs.
        return () if in_cache and source_of(entry.path) is None else (UnitKind.PYTHON_BYTECODE,)
    if name.endswith(".pth"):
        return (UnitKind.PYTHON_PATH_FILE,)
    if _SHARED.search(name):
        return (UnitKind.SHARED_OBJECT,)
    if name.endswith(_ARCHIVES) or re.fullmatch(r"python\d+\.zip", name):
        return (UnitKind.PYTHON_ARCHIVE,)
    status = entry.stat()
    if not stat.S_ISREG(status.st_mode) or not status.st_mode & 0o111:
        return ()
    with open(entry.path, "rb") as file:
        head = file.read(4)
    if head == _ELF:
        return (UnitKind.EXECUTABLE,)
    return (UnitKind.SCRIPT,) if head[:2] == b"#!" else ()


def hash_files(files: Sequence[CodeFile], cache: HashCache, progress: Progress | None = None) -> list[Hashed]:
    """Digests in the order of `files`; unreadable ones say why, stale bytecode says so and is not approved."""
    chunks = [files[start : start + _CHUNK] for start in range(0, len(files), _CHUNK)]
    results: list[list[Hashed] | None] = [None] * len(chunks)
    waiting = iter(range(len(chunks)))
    lock = threading.Lock()

    def work(tell: Progress | None) -> None:
        while True:
            with lock:
                index = next(waiting, None)
            if index is None:
                return
            results[index] = [_hash(item, cache) for item in chunks[index]]
            if tell is not None:
                tell(sum(len(item) for item in results if item is not None), len(files))

    others = [threading.Thread(target=work, args=(None,), daemon=True) for _ in range(_THREADS - 1)]
    if len(chunks) > 1:
        for thread in others:
            thread.start()
    work(progress)
    for thread in others:
        if thread.ident is not None:
            thread.join()
    if progress is not None:
        progress(len(files), len(files))
    return [item for chunk in results for item in chunk or ()]


def _hash(item: CodeFile, cache: HashCache) -> Hashed:
    try:
        if item.kind is not UnitKind.PYTHON_BYTECODE:
            whole = cache.file(item.path).whole
            return Hashed(item.path, item.kind, whole, whole)
        found = cache.whole_bytecode(item.path)
        error = staleness(item.path, found.head)
        return Hashed(item.path, item.kind, found.body, found.whole, error)
    except OSError as error:
        return Hashed(item.path, item.kind, b"", b"", (error.strerror or str(error)).lower())


def staleness(path: str, head: bytes) -> str:
    """Why bytecode will not run, empty where it will; `head` is its header (PEP 552).

    What its source no longer answers for never runs: approving it would approve old code.
    """
    if len(head) < HEADER:
        return "not bytecode"
    source = source_of(path)
    if source is None or int.from_bytes(head[4:8], "little") != 0:
        return ""
    try:
        status = os.stat(source)
    except OSError:
        return "bytecode without its source"
    if head[8:12] != (int(status.st_mtime) & 0xFFFFFFFF).to_bytes(4, "little") or head[12:16] != (
        status.st_size & 0xFFFFFFFF
    ).to_bytes(4, "little"):
        return "bytecode older than its source"
    return ""
