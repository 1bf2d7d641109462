"""Recent: what was verified lately, by digest; bounded, the longest unused leaves first."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, Generic, TypeVar

T = TypeVar("T")

CAPACITY: Final = 4096


class Recent(Generic[T]):
    """A bounded memory. Whether what it holds is still good is for its user to check."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._items: OrderedDict[bytes, T] = OrderedDict()

    def get(self, name: bytes) -> T | None:
        """What was put under a name, if it is still there."""
        item = self._items.get(name)
        if item is not None:
            self._items.move_to_end(name)
        return item

    def put(self, name: bytes, item: T) -> None:
        """Remember, and forget the longest unused beyond the capacity."""
        self._items[name] = item
        self._items.move_to_end(name)
        while len(self._items) > self._capacity:
            self._items.popitem(last=False)
