"""A bounded memory of what was used last."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """At most `size` values; the one unused for longest leaves first. Owned by one event loop."""

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError("a memory holds at least one value")
        self._size = size
        self._values: OrderedDict[K, V] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: K) -> V | None:
        """The value, now the one used last; None where it is not remembered."""
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def put(self, key: K, value: V) -> V:
        """Remember a value that always is the same for its key; what is remembered already wins."""
        kept = self._values.setdefault(key, value)
        self._values.move_to_end(key)
        if len(self._values) > self._size:
            self._values.popitem(last=False)
        return kept

    def replace(self, key: K, value: V) -> None:
        """Remember a value in place of another."""
        self._values.pop(key, None)
        self.put(key, value)

    def clear(self) -> None:
        """Forget all."""
        self._values.clear()
