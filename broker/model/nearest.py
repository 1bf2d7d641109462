"""What was expected in the place of a unit that failed: for people who ask why; nothing is decided on it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from broker.model.manifest import Manifest, ManifestUnit, ReferenceValues
from lockstep.formats import UnitKind

_MODULE = re.compile(r"\w+(?:\.\w+)+")


@dataclass(frozen=True, slots=True)
class Nearest:
    """The approved unit at the same path, or at the path that ends alike.

    `path` is the manifest's own; `exact` is True where it is the very path
    asked for.
    """

    entry: ManifestUnit
    manifest: Manifest
    path: str
    exact: bool


def nearest(
    references: Iterable[ReferenceValues], *, path: str = "", name: str = "", kind: UnitKind | None = None
) -> Nearest | None:
    """What the reference values approve where a failing unit was found; None where nothing is alike.

    `path` and `name` are the measurer's hints. Paths are alike when their last
    components are (environments lie elsewhere on another machine); the longest
    ending wins, then the same kind, then the earlier reference and layer.
    """
    wanted = _components(path) if path else _components_of_name(name)
    if not wanted:
        return None
    best: Nearest | None = None
    best_score = (0, False)
    for entry, manifest, candidate in _places(references, wanted[-1]):
        exact = bool(path) and candidate == path
        score = (
            1_000_000 if exact else _common_ending(wanted, _components(candidate)),
            kind is not None and entry.unit.kind is kind,
        )
        # A lone file name (__init__.py) says nothing, unless it is all that was asked for.
        if score > best_score and (score[0] > 1 or len(wanted) == 1):
            best, best_score = Nearest(entry, manifest, candidate, exact), score
    return best


def _places(
    references: Iterable[ReferenceValues], file_name: str
) -> Iterator[tuple[ManifestUnit, Manifest, str]]:
    seen = set()
    for reference in references:
        for manifest in (reference.manifest, *reference.layers):
            if manifest.digest in seen:
                continue
            seen.add(manifest.digest)
            for entry in manifest.units.values():
                for path in entry.paths:
                    if path.endswith(file_name):
                        yield entry, manifest, path


def _components(path: str) -> list[str]:
    return [part for part in path.split("/") if part]


def _components_of_name(name: str) -> list[str]:
    """Components of a file name, or of the source file that a dotted module name stands for."""
    if _MODULE.fullmatch(name) and not name.endswith((".py", ".so", ".js")):
        return _components(name.replace(".", "/") + ".py")
    return _components(name)


def _common_ending(one: list[str], two: list[str]) -> int:
    count = 0
    for left, right in zip(reversed(one), reversed(two), strict=False):
        if left != right:
            break
        count += 1
    return count
