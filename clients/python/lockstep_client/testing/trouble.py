"""Something that is wrong until it is said to be over."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Self


class Trouble:
    """Lasts until :meth:`end`, or to the end of a ``with`` block, whatever happens in it."""

    def __init__(self, end: Callable[[], None]) -> None:
        self._end: Callable[[], None] | None = end

    def end(self) -> None:
        """All is well again; idempotent. Raises `LockstepError` where it cannot be mended."""
        end, self._end = self._end, None
        if end is not None:
            end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()
