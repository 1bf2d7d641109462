"""What an interpreter's command line makes it run: a file, a module, a text, or whatever its input brings."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from lockstep_client.guard.place import Place
from lockstep_client.measure.interpreters import OWN_COMMANDS


@dataclass(frozen=True, slots=True)
class Started:
    """Something that a new process is to run: a file by `path`, or `text`; `kind` as in an observation.

    Where nobody can say which bytes those are, there is only a `name`, for people.
    """

    kind: str
    path: str = ""
    text: str = ""
    name: str = ""


_PYTHON: Final = re.compile(r"^(python|pypy)[\d.]*$")
_SHELL: Final = re.compile(r"^(sh|bash|dash|ash|zsh|ksh)$")
_OTHERS: Final = re.compile(r"^(perl|ruby|node|php|lua|deno|bun)(js)?[\d.]*$")
_SAYS_ABOUT_ITSELF: Final = frozenset({"-h", "-v", "-V", "--help", "--version", "-?"})
_SHELL_VALUES: Final = frozenset({"--rcfile", "--init-file"})
_TEXTS: Final = {"perl": "eE", "ruby": "e", "node": "ep", "bun": "ep", "php": "rBRE", "lua": "e", "deno": ""}
_VALUES: Final = {
    "perl": "CDFIMimx",
    "ruby": "CEFIKTWirx",
    "node": "Cr",
    "bun": "r",
    "php": "cdfz",
    "lua": "l",
    "deno": "",
}
"""Options whose value begins in the same word, so that no letter of it is an option."""
_LONG_TEXTS: Final = frozenset({"--eval", "--print"})


def interpreted(names: Sequence[str], path: str, words: Sequence[str], place: Place) -> Iterator[Started]:
    """For the program at `path`, known by any of `names`; nothing where it is no interpreter.

    `words` are its arguments, without its own name.
    """
    for name in names:
        if _PYTHON.match(name):
            yield from _python(path, words, place)
            return
        if _SHELL.match(name):
            yield from _shell(name, words, place)
            return
        if (other := _OTHERS.match(name)) is not None:
            yield from _other(other[1], words, place)
            return


def files(words: Sequence[str], place: Place) -> Iterator[Started]:
    """Every argument that is a file: an interpreter may read it as code."""
    for word in words:
        if not word.startswith("-") and place.is_file(word):
            yield Started("script", path=place.within(word))


def _text(text: str) -> Iterator[Started]:
    if text and not OWN_COMMANDS.match(text):
        yield Started("generated_code", text=text)


def _input(name: str) -> Started:
    return Started("generated_code", name=f"{name} reads its input")


def _python(path: str, words: Sequence[str], place: Place) -> Iterator[Started]:
    flags, position = "", 0
    while position < len(words):
        word = words[position]
        position += 1
        if word == "--check-hash-based-pycs":
            position += 1
        elif word == "--":
            break
        elif word == "-" or not word.startswith("-"):
            position -= 1
            break
        elif word.startswith("--"):
            return  # --help, --version
        else:
            for index, letter in enumerate(word[1:], 2):
                if letter in "cm":
                    target = word[index:] or (words[position] if position < len(words) else "")
                    rest = words[position if word[index:] else position + 1 :]
                    yield from _text(target) if letter == "c" else _module(path, target, flags, place)
                    yield from files(rest, place)
                    if "i" in flags:
                        yield _input("python -i")
                    return
                if letter in "hV?":
                    return
                if letter in "WX":
                    position += not word[index:]
                    break
                flags += letter
    operands = words[position:]
    if not operands or operands[0] == "-":
        yield _input("python")
        yield from files(operands[1:], place)
        return
    if "i" in flags:
        yield _input("python -i")
    if os.path.isdir(place.within(operands[0])):
        yield Started("script", path=place.within(os.path.join(operands[0], "__main__.py")))
    yield from files(operands, place)


def _module(path: str, name: str, flags: str, place: Place) -> Iterator[Started]:
    """The files of ``-m``, packages on the way included, as far as the new interpreter's path is known."""
    alone = "I" in flags
    folders: list[str] = []
    if not alone and "P" not in flags and not place.environ.get("PYTHONSAFEPATH"):
        folders.append(place.folder)
    if not alone and "E" not in flags:
        folders += place.folders("PYTHONPATH")
    if os.path.abspath(path) == os.path.abspath(sys.executable):
        folders += [item for item in sys.path if item]
    parts = name.split(".")
    for folder in folders:
        base = os.path.join(folder, *parts)
        for main in (os.path.join(base, "__main__.py"), f"{base}.py"):
            if os.path.isfile(main):
                for depth in range(1, len(parts) + 1):
                    package = os.path.join(folder, *parts[:depth], "__init__.py")
                    if os.path.isfile(package):
                        yield Started("module", path=package)
                yield Started("module", path=main)
                return
    yield Started("module", name=f"python -m {name}")


def _shell(name: str, words: Sequence[str], place: Place) -> Iterator[Started]:
    commanded = reads = False
    position = 0
    while position < len(words):
        word = words[position]
        if word in ("-", "--"):
            position += 1
            break
        if word in _SAYS_ABOUT_ITSELF and len(word) > 2:
            return
        if word in _SHELL_VALUES:
            yield from files(words[position + 1 : position + 2], place)
            position += 2
        elif word.startswith("--"):
            position += 1
        elif len(word) > 1 and word[0] in "-+":
            commanded |= word[0] == "-" and "c" in word
            reads |= word[0] == "-" and "s" in word
            position += 2 if word[-1] in "oO" else 1
        else:
            break
    operands = words[position:]
    if commanded:
        yield from _text(operands[0] if operands else "")
        operands = operands[1:]
    elif reads or not operands:
        yield _input(name)
    yield from files(operands, place)


def _other(name: str, words: Sequence[str], place: Place) -> Iterator[Started]:
    told = valued = False
    position = 0
    while position < len(words):
        word = words[position]
        position += 1
        if word == "-" or (name == "deno" and word == "eval"):
            break
        if not word.startswith("-"):
            if place.is_file(word) and not valued:
                break  # the script: what follows is its own
            told, valued = True, False
            continue
        if word in _SAYS_ABOUT_ITSELF or word.startswith("-V"):
            told = True
            continue
        option, joined, value = word.partition("=")
        text: str | None = value if joined else ""
        if option not in _LONG_TEXTS:
            text = _short_text(name, word)
        told |= text is not None
        valued = text is None and not joined
        if text is not None:
            position += not text
            yield from _text(text or "".join(words[position - 1 : position]))
    last = words[position - 1] if position else ""
    if last == "eval":
        yield from _text(next((word for word in words[position:] if not word.startswith("-")), ""))
    elif last == "-" or not (told or place.is_file(last)):
        yield _input(name)
    yield from files(words, place)


def _short_text(name: str, word: str) -> str | None:
    """The text in a word of short options; empty where it is the next word, None where there is none."""
    texts, values = _TEXTS[name], _VALUES[name]
    if word.startswith("--"):
        return None
    if name in ("node", "bun"):
        return "" if word[1:] and set(word[1:]) <= set(texts) else None
    for index, letter in enumerate(word[1:], 2):
        if letter in texts:
            return word[index:]
        if letter in values:
            return None
    return None
