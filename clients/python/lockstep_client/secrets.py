"""A value that shows itself only when asked by name."""

from __future__ import annotations

from typing import Never


class Secret:
    """Hides in repr, str, format, pickle and copy; :meth:`reveal` gives the text."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The secret itself. Keep it no longer than the call that needs it."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(…)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec)

    def __eq__(self, other: object) -> bool:
        # By identity of the wrapper: comparing texts invites timing and truthiness mistakes.
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def __reduce_ex__(self, _protocol: object) -> Never:
        raise TypeError("a Secret cannot be pickled or copied")
