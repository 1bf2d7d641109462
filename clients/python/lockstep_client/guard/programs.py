"""Programs that a process starts: the file that runs, and the file or text that it hands to an interpreter."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Sequence
from typing import Final

from lockstep_client.guard.commands import Started, files, interpreted
from lockstep_client.guard.place import Place

__all__ = ["Started", "started"]

_PRELOADED: Final = ("LD_PRELOAD", "LD_AUDIT")
_LOADER: Final = re.compile(r"^(ld-linux[-\w.]*|ld-musl[-\w.]*|ld\.so)$")
_LOADER_VALUES: Final = frozenset(
    {"--library-path", "--preload", "--audit", "--argv0", "--inhibit-rpath", "--glibc-hwcaps-prepend"}
)
_DEEPEST: Final = 8
"""Programs that start programs on one command line."""


def started(
    executable: object,
    arguments: object,
    folder: object = None,
    environ: object = None,
    *,
    searched: bool = True,
) -> Iterator[Started]:
    """The program, what it will preload, and for an interpreter what its command line makes it run.

    Arguments as an audit event has them. `searched` where a bare name is looked
    up in ``PATH``; where it may or may not be, both files count.
    """
    words = _words(arguments)
    program = _text(executable) or (words[0] if words else "")
    try:
        place = Place.of(folder, environ)
    except (TypeError, ValueError, OSError):
        yield Started("exec", name=f"{program}: where it starts cannot be read")
        return
    yield from _preloaded(place)
    if searched or "/" in program:
        yield from _program(place.program(program), words, place, _DEEPEST)
        return
    if place.is_file(program):
        yield from _program(place.within(program), words, place, _DEEPEST)
    # Where the system searches, it does in our own variables.
    yield from _program(Place.of().program(program), words, place, _DEEPEST)


def _program(path: str, words: Sequence[str], place: Place, depth: int) -> Iterator[Started]:
    if not path:
        return  # every try of it fails, and says so itself
    yield Started("exec", path=path)
    name, own = os.path.basename(path), os.path.basename(words[0] if words else path)
    names = (name, os.path.basename(os.path.realpath(path)))
    rest = words[1:]
    if depth == 0:
        yield Started("exec", name=f"{name}: too many programs on one command line")
    elif "env" in names:
        yield from _environment(rest, place, depth)
    elif any(_LOADER.match(item) for item in names):
        yield from _loaded(rest, place, depth)
    elif name == "busybox":
        # The applet is the first argument, or the name that it was called by.
        applet, rest = (rest[0] if rest else "", rest[1:]) if own == "busybox" else (own, rest)
        yield from interpreted((applet,), path, rest, place)
    else:
        yield from interpreted(names, path, rest, place)


def _environment(words: Sequence[str], place: Place, depth: int) -> Iterator[Started]:
    """``env [option] [NAME=VALUE] program``: the program stands where env puts it."""
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        option, joined, value = word.partition("=")
        if word in ("-S", "--split-string") or option == "--split-string" or word.startswith("-S"):
            text = value if joined and option == "--split-string" else word[2:].lstrip("=")
            text = text or (waiting.pop(0) if waiting else "")
            waiting[:0] = _split(text)
        elif word in ("-C", "--chdir"):
            place = place.moved(waiting.pop(0) if waiting else "")
        elif option == "--chdir" or (word.startswith("-C") and len(word) > 2):
            place = place.moved(value if option == "--chdir" else word[2:])
        elif word in ("-u", "--unset") and waiting:
            waiting.pop(0)
        elif word.startswith("-"):
            continue
        elif joined and option:
            place = place.given(option, value)
            yield from _preloaded(place)
        else:
            yield from _program(place.program(word), [word, *waiting], place, depth - 1)
            return


def _loaded(words: Sequence[str], place: Place, depth: int) -> Iterator[Started]:
    """The loader as a program: it runs the file that it is given, whatever that one's mode is."""
    position = 0
    while position < len(words) and words[position].startswith("-"):
        position += 2 if words[position] in _LOADER_VALUES else 1
    if position < len(words):
        program = words[position]
        yield from _program(place.within(program), words[position:], place, depth - 1)
    yield from files(words[:position], place)


def _preloaded(place: Place) -> Iterator[Started]:
    for variable in _PRELOADED:
        value = place.environ.get(variable, "")
        if value and value != os.environ.get(variable):
            for path in re.split(r"[ :]", value):
                if "/" in path:
                    yield Started("library", path=place.within(path))


def _split(text: str) -> Sequence[str]:
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()


def _words(arguments: object) -> Sequence[str]:
    if isinstance(arguments, str | bytes | os.PathLike):
        return (_text(arguments),)
    if isinstance(arguments, Sequence):
        return tuple(_text(item) for item in arguments)
    return ()


def _text(value: object) -> str:
    if isinstance(value, str | bytes | os.PathLike):
        return os.fsdecode(value)
    return ""
