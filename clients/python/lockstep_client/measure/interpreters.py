"""Programs that run what they are told, and how a Python command line says what that is."""

from __future__ import annotations

import os
import re
import shlex
import zipimport
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from lockstep_client.measure.facts import OWN_COMMANDS

_INTERPRETER: Final = re.compile(
    r"^(python[\d.]*|pypy[\d.]*|perl[\d.]*|ruby[\d.]*|node|nodejs|deno|bun|php[\d.]*|lua[\d.]*|"
    r"sh|bash|dash|ash|zsh|ksh|busybox|env|ld-linux[-\w.]*|ld-musl[-\w.]*|ld\.so)$"
)
_PYTHON: Final = re.compile(r"^(python|pypy)[\d.]*$")
_LONG_SHEBANG: Final = re.compile(r"^'''exec' (?P<python>\"[^\"]+\"|\S+) \"\$0\" \"\$@\"$")
_TAKE_VALUE: Final = frozenset("WX")

__all__ = ["OWN_COMMANDS", "PythonCommand", "is_interpreter", "is_python", "python_command", "resolve"]


def is_interpreter(path: str) -> bool:
    """True for a program, by its name or the name behind a link, that runs other files or text."""
    names = (os.path.basename(path), os.path.basename(os.path.realpath(path)))
    return any(_INTERPRETER.match(name) for name in names)


def is_python(path: str) -> bool:
    """The same for Python alone."""
    names = (os.path.basename(path), os.path.basename(os.path.realpath(path)))
    return any(_PYTHON.match(name) for name in names)


@dataclass(frozen=True, slots=True)
class PythonCommand:
    """A Python command line taken apart: `mode` is ``script``, ``folder``, ``archive``, ``module`` or ``text``."""

    python: str
    options: tuple[str, ...]
    mode: str
    target: str
    arguments: tuple[str, ...]


def python_command(command: Sequence[str], environ: Mapping[str, str]) -> PythonCommand | None:
    """What a command runs in Python, through its shebang too; None where it is no Python, or reads its input."""
    program = resolve(command[0], environ)
    if is_python(program):
        return _parse(program, command[1:])
    line = _shebang(program)
    if not line:
        return None
    words = [word for word in line if word != "-S"]
    if os.path.basename(words[0]) == "env" and len(words) > 1:
        words = [resolve(words[1], environ), *words[2:]]
    if not is_python(words[0]):
        return None
    return _parse(words[0], [*words[1:], program, *command[1:]])


def resolve(program: str, environ: Mapping[str, str]) -> str:
    """The path that a shell would run; the word itself where there is none."""
    if not program or "/" in program:
        return program
    for folder in environ.get("PATH", os.defpath).split(os.pathsep):
        candidate = os.path.join(folder, program)
        if os.path.isfile(candidate) and os.access(candidate, os.X_OK):
            return candidate
    return program


def _shebang(path: str) -> list[str]:
    try:
        with open(path, "rb") as file:
            head = file.read(4096)
    except OSError:
        return []
    if not head.startswith(b"#!"):
        return []
    lines = head.decode("utf-8", "replace").splitlines()
    # Installers write this where a path is too long for the kernel.
    if lines[0].strip() == "#!/bin/sh" and len(lines) > 1 and (match := _LONG_SHEBANG.match(lines[1])):
        return [match["python"].strip('"')]
    return shlex.split(lines[0][2:])


def _parse(python: str, arguments: Sequence[str]) -> PythonCommand | None:
    position = 0
    while position < len(arguments):
        argument = arguments[position]
        if argument == "--check-hash-based-pycs":
            position += 2
        elif argument.startswith("--") or argument == "-":
            return None
        elif not argument.startswith("-"):
            options, rest = arguments[:position], arguments[position + 1 :]
            return PythonCommand(python, tuple(options), _mode(argument), argument, tuple(rest))
        else:
            for index, letter in enumerate(argument[1:], 2):
                if letter in "cm":
                    return _last_option(python, arguments, position, index, letter)
                if letter in "ihV?":
                    return None
                if letter in _TAKE_VALUE:
                    position += not argument[index:]
                    break
            position += 1
    return None


def _mode(path: str) -> str:
    """How Python takes a path: what its import system can look into is not read as text."""
    if os.path.isdir(path):
        return "folder"
    try:
        zipimport.zipimporter(path)
    except zipimport.ZipImportError:
        return "script"
    return "archive"


def _last_option(
    python: str, arguments: Sequence[str], position: int, index: int, letter: str
) -> PythonCommand | None:
    argument = arguments[position]
    options = list(arguments[:position])
    if index > 2:
        options.append(argument[: index - 1])
    rest = list(arguments[position + 1 :])
    target = argument[index:] or (rest.pop(0) if rest else "")
    if not target:
        return None
    return PythonCommand(python, tuple(options), "text" if letter == "c" else "module", target, tuple(rest))
