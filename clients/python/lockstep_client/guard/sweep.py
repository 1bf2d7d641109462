"""Executable memory that no audit event announced: libraries, memfds and pages that appeared since the last look."""

from __future__ import annotations

import time
from collections.abc import Callable

from lockstep_client.guard.observation import Approved, Observation
from lockstep_client.measure.hashing import HashCache
from lockstep_client.measure.mappings import measure_native


class Sweep:
    """Compares what is mapped executable now with what is approved.

    After the fact, and blind to what came and went between two looks.
    """

    def __init__(self, approved: Approved, cache: HashCache, tell: Callable[[Observation], None]) -> None:
        self._approved = approved
        self._cache = cache
        self._tell = tell

    def __call__(self) -> None:
        """One look; raises nothing for what cannot be read."""
        found = measure_native(self._cache)
        now = time.time()
        names = {hint.digest: hint for hint in found.hints}
        for _, digest in found.units:
            if digest in self._approved:
                continue
            hint = names[digest]
            kind = "memfd" if hint.path.startswith("/memfd:") else "library"
            self._tell(Observation(kind, digest, hint.path, hint.name, 0, now))
        for item in found.anonymous:
            if item.name.startswith("memfd:"):
                self._tell(Observation("memfd", b"", item.name, item.name, item.size, now))
            elif not item.deleted and not self._approved.allows_memory(item.permissions):
                self._tell(Observation("anon_exec", b"", item.name, item.permissions, item.size, now))
