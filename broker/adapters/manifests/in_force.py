"""Which reference values hold at a moment, of the manifests that nobody has ended: pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from broker.model.manifest import Manifest, ReferenceValues, resolve_layers

Published = Mapping[str, Sequence[Manifest]]
"""Manifests by application: neither retired nor withdrawn, their window not looked at."""


def alternatives_in_force(published: Published, application: str, now: float) -> tuple[ReferenceValues, ...]:
    """Every manifest of an application that covers `now` and whose layers do, newest version first."""
    in_force = {name: [item for item in items if item.covers(now)] for name, items in published.items()}
    found = []
    for manifest in sorted(in_force.get(application, ()), key=lambda item: item.version, reverse=True):
        layers = resolve_layers(manifest, in_force)
        if layers is not None:
            found.append(ReferenceValues(manifest, layers))
    return tuple(found)


def next_change(published: Published, now: float) -> float:
    """When the next of the manifests begins or ends (seconds, UTC); infinity where none will."""
    moments = (
        moment
        for items in published.values()
        for item in items
        for moment in (item.not_before, item.not_after)
    )
    return min((moment for moment in moments if moment > now), default=math.inf)


def reference_values(digests: Sequence[bytes], known: Mapping[bytes, Manifest]) -> ReferenceValues | None:
    """The first digest's manifest with the rest as its layers; None where one is unknown."""
    whole = [known[digest] for digest in digests if digest in known]
    if not whole or len(whole) != len(digests):
        return None
    return ReferenceValues(whole[0], tuple(whole[1:]))
