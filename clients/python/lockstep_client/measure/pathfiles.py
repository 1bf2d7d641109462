"""The ``.pth`` files that an interpreter obeyed at its start: lines of code that no module shows."""

from __future__ import annotations

import os
from collections.abc import Iterable

from lockstep.formats import UnitKind
from lockstep_client.measure.hashing import HashCache
from lockstep_client.measure.modules import ModuleCode


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
