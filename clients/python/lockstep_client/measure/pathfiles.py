"""The ``.pth`` files that an interpreter obeyed at its start: lines of code that no module shows."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

from lockstep.formats import UnitKind
from lockstep_client.measure.hashing import HashCache
from lockstep_client.measure.modules import ModuleCode

_SITE_FOLDERS = frozenset({"site-packages", "dist-packages"})


def site_folders() -> tuple[str, ...]:
    """Folders of this interpreter whose ``.pth`` files were read; empty under ``-S``.

    Folders added later by ``site.addsitedir`` are known only where they carry a
    site folder's name and stand on the path.
    """
    site = sys.modules.get("site")
    if site is None or sys.flags.no_site:
        return ()
    folders = list(site.getsitepackages())
    if site.ENABLE_USER_SITE:
        folders.append(site.getusersitepackages())
    folders.extend(item for item in sys.path if os.path.basename(item) in _SITE_FOLDERS)
    return tuple(dict.fromkeys(folders))


def measure_path_files(code: ModuleCode, cache: HashCache, folders: Iterable[str]) -> None:
    """Add every ``.pth`` file of some site folders; hidden ones are not read by ``site`` either."""
    for folder in folders:
        try:
            names = sorted(os.listdir(folder))
        except OSError:
            continue
        for name in names:
            if not name.endswith(".pth") or name.startswith("."):
                continue
            path = os.path.join(folder, name)
            try:
                digest = cache.file(path).whole
            except OSError as error:
                code.say(
                    name,
                    f"cannot be read: {(error.strerror or str(error)).lower()}",
                    UnitKind.PYTHON_PATH_FILE,
                )
                continue
            code.add(UnitKind.PYTHON_PATH_FILE, digest, path, name)
