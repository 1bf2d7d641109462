"""Reference values of an application that stands on layers from signed folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from broker.model.manifest import ReferenceValues
from broker.ports import ManifestSource


class LayeredManifests:
    """A `broker.ports.ManifestSource`: another one, whose layers' folders are looked at first.

    Nobody else would look at the folder of a layer that no role names. A layer whose folder has nothing in
    force (its index has expired) takes down what stands on it, as any layer does that has ended.
    """

    def __init__(self, own: ManifestSource, layers: Mapping[str, ManifestSource]) -> None:
        """`layers` are the applications with a folder that `own`'s may include, at any depth."""
        self._own = own
        self._layers = dict(layers)

    async def alternatives(self, application: str, now: float) -> Sequence[ReferenceValues]:
        """What `own` has in force, where its folders have. Raises `Unavailable`."""
        gone = {name for name, layer in self._layers.items() if not await layer.alternatives(name, now)}
        found = await self._own.alternatives(application, now)
        return [item for item in found if gone.isdisjoint(layer.application for layer in item.layers)]

    async def by_digests(self, digests: Sequence[bytes]) -> ReferenceValues | None:
        """As `own` has them, in force or not."""
        return await self._own.by_digests(digests)

    def invalidate(self) -> None:
        """Look again at the next question."""
        for layer in self._layers.values():
            layer.invalidate()
        self._own.invalidate()
