"""Reference values from what is already there: an environment, an application, an image, a process."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Collection as Names
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

from lockstep.formats import UnitKind
from lockstep_client.manifest.collection import Collection
from lockstep_client.manifest.files import CodeFile, Hashed, Progress, find_code, hash_files, staleness
from lockstep_client.manifest.model import ManifestError
from lockstep_client.manifest.native import linkage, outside_libraries
from lockstep_client.manifest.packages import Debian, SitePackages, interpreter_purl, source_of
from lockstep_client.measure.hashing import HashCache
from lockstep_client.measure.launch import measure_process
from lockstep_client.measure.model import Unit, UnitHint

_SITE_NAMES: Final = frozenset({"site-packages", "dist-packages"})
_NOT_STDLIB: Final = ("site-packages", "dist-packages", "test", "idlelib", "turtledemo", "ensurepip")
_NOT_IMAGE: Final = ("proc", "sys", "dev", "run", "tmp")
_ASK: Final = """
import json, os, sys, sysconfig
print(json.dumps({
    "executable": os.path.realpath(sys.executable),
    "version": ".".join(map(str, sys.version_info[:3])),
    "stdlib": sorted({os.path.realpath(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")}),
    "sites": [path for path in sys.path if os.path.basename(path) in ("site-packages", "dist-packages")],
    "archive": [path for path in sys.path if path.endswith(".zip") and os.path.isfile(path)],
}))
"""


@dataclass(slots=True)
class Remarks:
    """What the author should know: files that differ from what their package recorded, and what was left out."""

    modified: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    """(path, why)."""
    uncompiled: int = 0
    """Sources without bytecode: a first run that writes some would then run what nobody approved."""


class Builder:
    """Gathers units for a manifest; every method adds, in any order, and the result is the same."""

    def __init__(self, cache: HashCache | None = None, progress: Progress | None = None) -> None:
        self.collection = Collection()
        self.remarks = Remarks()
        self._cache = cache if cache is not None else HashCache()
        self._progress = progress
        self._sites: dict[str, SitePackages] = {}
        self._debian = Debian()
        self._native: set[str] = set()

    def environment(self, folder: str) -> None:
        """A virtual environment: packages, console scripts, and the interpreter behind it."""
        folder = os.path.abspath(folder)
        python = os.path.join(folder, "bin", "python")
        if not os.path.exists(os.path.join(folder, "pyvenv.cfg")) or not os.path.exists(python):
            raise ManifestError(f"{folder} is no virtual environment (no pyvenv.cfg with bin/python)")
        facts = self.interpreter(python)
        inside = [
            site for site in facts["sites"] if os.path.realpath(site).startswith(os.path.realpath(folder))
        ]
        for site in inside:
            self.site_packages(site)
        owners = [self._site(site) for site in inside]
        # Links lead to the interpreter, which is there already and under its own package.
        programs = [item for item in find_code(os.path.join(folder, "bin")) if not os.path.islink(item.path)]
        for item in self._hash(programs):
            self._add(item, owners)

    def site_packages(self, folder: str) -> None:
        """A folder of installed wheels, each file with its package where the RECORD confirms it."""
        folder = os.path.abspath(folder)
        if not os.path.isdir(folder):
            raise ManifestError(f"{folder} is no folder")
        site = self._site(folder)
        for item in self._hash(list(find_code(folder))):
            self._add(item, [site])

    def application(self, folder: str) -> None:
        """A folder of the application's own code: its sources may also be run as scripts.

        Hidden folders and virtual environments inside are left out.
        """
        folder = os.path.abspath(folder)
        if os.path.isfile(folder):
            for item in self._hash(
                [CodeFile(folder, UnitKind.SCRIPT), CodeFile(folder, UnitKind.PYTHON_SOURCE)]
            ):
                self._add(item, [])
            return
        if not os.path.isdir(folder):
            raise ManifestError(f"{folder} is no folder")
        for item in self._hash(list(find_code(folder, scripts=True, enter_hidden=False))):
            self._add(item, [])

    def interpreter(self, python: str) -> dict[str, Any]:
        """An interpreter, its standard library and the libraries that these pull in; raises `ManifestError`."""
        facts = _ask(python)
        package = f"pkg:generic/cpython@{quote(str(facts['version']), safe='')}"
        executable = str(facts["executable"])
        files = [CodeFile(executable, UnitKind.EXECUTABLE)]
        files += [CodeFile(path, UnitKind.PYTHON_ARCHIVE) for path in facts["archive"]]
        for stdlib in facts["stdlib"]:
            files += find_code(stdlib, skip=[os.path.join(stdlib, name) for name in _NOT_STDLIB])
        for item in self._hash(list(dict.fromkeys(files))):
            self._add(item, [], package=self._debian.owner(item.path) or package)
        return facts

    def libraries(self, loader: str = "") -> None:
        """Shared libraries that everything added so far needs from outside; call it last.

        `loader` is the dynamic loader; by default the one that an executable names.
        """
        loaders = [loader] if loader else [linkage(path).loader for path in sorted(self._native)]
        chosen = next((item for item in loaders if item), "")
        if not chosen:
            return
        paths = outside_libraries(chosen, self._native)
        for item in self._hash([CodeFile(path, UnitKind.SHARED_OBJECT) for path in paths]):
            self._add(item, [], package=self._debian.owner(item.path) or interpreter_purl(item.path))

    def image(self, root: str) -> None:
        """Every code file under the root folder of an unpacked image; paths are those inside it."""
        root = os.path.abspath(root)
        if not os.path.isdir(root):
            raise ManifestError(f"{root} is no folder: unpack the image first")
        debian = Debian(root)
        skip = [os.path.join(root, name) for name in _NOT_IMAGE]
        files = list(find_code(root, scripts=True, skip=skip))
        folders = sorted({folder for item in files if (folder := _site_folder(item.path))})
        sites = [self._site(folder) for folder in folders]
        prefix = root.rstrip("/")
        for item in self._hash(files):
            self._add(item, sites, prefix=prefix, package=debian.owner(item.path.removeprefix(prefix)))

    def measured(self, units: Iterable[Unit], hints: Iterable[UnitHint]) -> None:
        """What a process or a decision says that it loaded; packages are looked up where the files are here."""
        names = {hint.digest: hint for hint in hints}
        for kind, digest in sorted(units):
            hint = names.get(digest)
            path = hint.path if hint else ""
            self.collection.add(kind, digest, path=path, package=self._owner_here(kind, digest, path))

    def process(self, pid: int) -> None:
        """What a running process and its descendants have mapped; raises `ManifestError` where there is none.

        Modules of a Python that runs already show nowhere: build those from
        its environment, or start it with ``lockstep run``.
        """
        found = measure_process(pid, self._cache)
        if not found.units:
            raise ManifestError(f"process {pid} cannot be measured: it has ended, or is another user's")
        self.measured(found.units, found.hints)
        for item in found.unknown:
            self.remarks.skipped.append((item.name, item.reason))

    def recorded_owner(self, path: str) -> str:
        """The package whose RECORD names a path, whatever is in the file now; empty where none does."""
        folder = _site_folder(path)
        owner = self._site(folder).owner(path) if folder else None
        return owner.package if owner is not None else ""

    def _owner_here(self, kind: UnitKind, digest: bytes, claimed: str) -> str:
        """Whose file this is, where the claimed path holds these very bytes; anybody can claim a path."""
        path = os.path.realpath(claimed) if claimed else ""
        try:
            if kind is UnitKind.PYTHON_BYTECODE:
                here = self._cache.bytecode(path)
                genuine = here.body == digest and not staleness(path, here.head)
            else:
                genuine = self._cache.file(path).whole == digest
        except OSError:
            return ""
        if not genuine:
            return ""
        folder = _site_folder(path)
        if not folder:
            return self._debian.owner(path) or interpreter_purl(path)
        owner = self._site(folder).owner(path)
        if owner is None or (owner.digest and owner.digest != digest):
            return ""
        return owner.package

    def _site(self, folder: str) -> SitePackages:
        if folder not in self._sites:
            self._sites[folder] = SitePackages.read(folder)
        return self._sites[folder]

    def _hash(self, files: Sequence[CodeFile]) -> list[Hashed]:
        sources = {item.path for item in files if item.kind is UnitKind.PYTHON_SOURCE}
        compiled = {source_of(item.path) for item in files if item.kind is UnitKind.PYTHON_BYTECODE}
        self.remarks.uncompiled += len(sources - compiled)
        return hash_files(files, self._cache, self._progress)

    def _add(self, item: Hashed, sites: Names[SitePackages], *, prefix: str = "", package: str = "") -> None:
        if item.error:
            self.remarks.skipped.append((item.path, item.error))
            return
        for site in sites:
            owner = site.owner(item.path)
            if owner is None:
                continue
            if owner.digest and owner.digest != item.whole:
                # Not what the package shipped: it is nobody's until a person says so.
                self.remarks.modified.append(item.path)
            else:
                package = owner.package
            break
        if item.kind in (UnitKind.SHARED_OBJECT, UnitKind.EXECUTABLE):
            self._native.add(item.path)
        path = item.path.removeprefix(prefix) if prefix else item.path
        self.collection.add(item.kind, item.digest, path=path, package=package, whole=item.whole)


def _site_folder(path: str) -> str:
    """The nearest folder above a path that is named like a site folder, empty where there is none."""
    parts = path.split("/")
    for index in range(len(parts) - 2, 0, -1):
        if parts[index] in _SITE_NAMES:
            return "/".join(parts[: index + 1])
    return ""


def _ask(python: str) -> dict[str, Any]:
    command = [python, "-I", "-c", _ASK]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ManifestError(f"{python} does not run: {error}") from None
    try:
        facts = json.loads(answer.stdout)
    except ValueError:
        raise ManifestError(
            f"{python} is no Python interpreter that answers: {answer.stderr[-200:]}"
        ) from None
    return dict(facts)
