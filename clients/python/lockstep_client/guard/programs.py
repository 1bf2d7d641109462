"""Programs that a process starts: the file that runs, and the script or text that it hands to an interpreter."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lockstep_client.measure.interpreters import OWN_COMMANDS, is_interpreter, resolve


@dataclass(frozen=True, slots=True)
class Started:
    """Something that a new process is to run: a file by `path`, or `text`; `kind` as in an observation."""

    kind: str
    path: str = ""
    text: str = ""


def started(executable: object, arguments: object) -> Iterator[Started]:
    """The program, and for an interpreter every file on its command line and every text after ``-c`` or ``-e``."""
    words = _words(arguments)
    program = _text(executable) or (words[0] if words else "")
    path = resolve(program, os.environ)
    yield Started("exec", path=path)
    if not is_interpreter(path):
        return
    takes_text = False
    for word in words[1:]:
        if takes_text:
            if not OWN_COMMANDS.match(word):
                yield Started("generated_code", text=word)
            takes_text = False
        elif word.startswith("-") and not word.startswith("--") and word[-1] in "ce":
            takes_text = True
        elif not word.startswith("-") and os.path.isfile(word):
            yield Started("script", path=word)


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
