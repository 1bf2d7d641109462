"""Where a new process will stand: its folder and its variables, by which names on its command line are looked up."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Place:
    """The folder that a process begins in (empty: ours), and its environment."""

    folder: str
    environ: Mapping[str, str]

    @classmethod
    def of(cls, folder: object = None, environ: object = None) -> Place:
        """As an audit event names them; None is ours. Raises `TypeError` for what is neither."""
        at = "" if folder is None else os.fsdecode(_path(folder))
        if environ is None:
            return cls(at, os.environ)
        if not isinstance(environ, Mapping):
            raise TypeError("not an environment")
        return cls(at, {os.fsdecode(name): os.fsdecode(value) for name, value in environ.items()})

    def within(self, word: str) -> str:
        """A path as the new process will read it."""
        return os.path.join(self.folder, word)

    def is_file(self, word: str) -> bool:
        """True where a word names a file from there."""
        return os.path.isfile(self.within(word))

    def program(self, word: str) -> str:
        """The file that a program's name stands for; empty where none does, and nothing will run."""
        if not word:
            return ""
        if "/" in word:
            return self.within(word)
        for folder in self.folders("PATH", os.defpath):
            candidate = os.path.join(folder, word)
            if os.path.isfile(candidate) and os.access(candidate, os.X_OK):
                return candidate
        return ""

    def folders(self, variable: str, default: str = "") -> Sequence[str]:
        """A variable's list of folders; an empty item is the folder itself."""
        value = self.environ.get(variable, default)
        return [self.within(item) for item in value.split(os.pathsep)] if value else []

    def moved(self, folder: str) -> Place:
        """The same in another folder."""
        return replace(self, folder=self.within(folder))

    def given(self, name: str, value: str) -> Place:
        """The same with one more variable."""
        return replace(self, environ={**self.environ, name: value})


def _path(value: object) -> str | bytes | os.PathLike[str]:
    if isinstance(value, str | bytes | os.PathLike):
        return value
    raise TypeError("not a path")
