"""Runs what a page shows in one shell: its files, its commands, and what they are said to print."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

_FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.M | re.S)
_MARK = re.compile(rb"\x1e(\d+)\x1e")
_ANSI = re.compile(rb"\x1b\[[0-9;]*[A-Za-z]|\r")
_ID = re.compile(r"\b([A-Z])-[0-9a-z]{26}\b")
_BEHIND = re.compile(r"&$|^(kill|wait)\b")


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block: the first word behind the fence, the second one (a file's name), the line, the text."""

    word: str
    name: str
    line: int
    text: str


@dataclass(frozen=True, slots=True)
class Step:
    """A command with what it prints; `fails` where the page looks at its exit code next."""

    command: str
    expected: tuple[str, ...]
    fails: bool

    @property
    def behind(self) -> bool:
        """True where what is shown comes from what runs in the background."""
        return _BEHIND.search(self.command) is not None


def blocks(page: str) -> Iterator[Block]:
    """Every fenced block of a page, in order."""
    for found in _FENCE.finditer(page):
        word, _, name = found[1].strip().partition(" ")
        yield Block(word, name, page.count("\n", 0, found.start()) + 1, found[2])


def steps(text: str) -> list[Step]:
    """``$`` begins a command, ``>`` goes on with it, everything else is what it prints."""
    read: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            read.append((line[2:], []))
        elif line.startswith("> ") and read and not read[-1][1]:
            read[-1] = (f"{read[-1][0]}\n{line[2:]}", [])
        else:
            assert read, f"a console block begins with a command, not with {line!r}"
            read[-1][1].append(line)
    following = [command for command, _ in read[1:]] + [""]
    return [
        Step(command, tuple(expected), after == "echo $?")
        for (command, expected), after in zip(read, following, strict=True)
    ]


def matches(expected: tuple[str, ...], said: str) -> bool:
    """``…`` stands for anything in a line, and alone on a line for any lines. Several blanks count as one."""
    pattern = "".join(r"(?:.*\n)*?" if line == "…" else f"{_line(line)}\n" for line in expected)
    return re.fullmatch(pattern, "".join(f"{_blanks(line)}\n" for line in said.splitlines())) is not None


def _line(line: str) -> str:
    # Between words it may stand for no word at all.
    parts = [".*?".join(map(re.escape, part.split("…"))) for part in _blanks(line).split(" … ")]
    return "( .*?)? ".join(parts)


def _blanks(line: str) -> str:
    return re.sub(" +", " ", line.rstrip())


class Shell:
    """One bash for one page, in an empty home of its own. What runs in the background writes to a terminal."""

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        self.home, self.folder = folder / "home", folder / "work"
        self.home.mkdir()
        self.folder.mkdir()
        self._master, self._terminal = pty.openpty()
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 300, 0, 0))
        self._bash = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=self.folder,
            env={**environ, "HOME": str(self.home)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=[self._terminal],
            start_new_session=True,
        )
        self._said = b""
        self._behind = b""
        self._seen = 0
        self._ids: dict[str, str] = {}

    def write(self, name: str, text: str) -> None:
        """A file that the page shows."""
        (self.folder / name).write_text(text)

    def run(self, command: str, *, within: float) -> tuple[int, str]:
        """(exit code, output) of one command; the shell keeps its variables, its folder and its jobs.

        ``D-…`` in it is the last id that begins like this and was printed.
        """
        command = re.sub(r"\b([A-Z])-…", lambda found: self._ids[found[1]], command)
        if command.endswith("&"):
            command = f"{command[:-1]}>&{self._terminal} 2>&1 &"
        assert self._bash.stdin is not None
        # `$?` stays what it was, for a page that asks for it next.
        text = f"{{ {command}\n}} </dev/null; __code=$?; printf '\\036%d\\036' $__code; (exit $__code)\n"
        self._bash.stdin.write(text.encode())
        self._bash.stdin.flush()
        self._pump(lambda: _MARK.search(self._said) is not None, within, command)
        mark = _MARK.search(self._said)
        assert mark is not None
        said, self._said = self._said[: mark.start()], self._said[mark.end() :]
        self._note(said.decode())
        return int(mark[1]), said.decode()

    def hear(self, expected: str, *, within: float) -> None:
        """Wait until the background has said a line like this, after the one that was heard before."""
        if expected == "…":
            return
        pattern = re.compile(_line(expected))

        def heard() -> bool:
            lines = _ANSI.sub(b"", self._behind).decode(errors="replace").split("\n")[:-1]
            for number in range(self._seen, len(lines)):
                if pattern.fullmatch(_blanks(lines[number])):
                    self._seen = number + 1
                    self._note(lines[number])
                    return True
            return False

        self._pump(heard, within, expected)

    def _note(self, said: str) -> None:
        self._ids |= {found[1]: found[0] for found in _ID.finditer(said)}

    def _pump(self, until: Callable[[], bool], within: float, what: str) -> None:
        assert self._bash.stdout is not None
        deadline = time.monotonic() + within
        while not until():
            left = deadline - time.monotonic()
            ready, _, _ = select.select([self._bash.stdout, self._master], [], [], max(0.0, left))
            assert ready, f"not within {within:g} s: {what}\n{self._said.decode()}\n{self.told()}"
            if self._master in ready:
                self._behind += os.read(self._master, 65_536)
            if self._bash.stdout in ready:
                read = os.read(self._bash.stdout.fileno(), 65_536)
                assert read, f"the shell has ended: {what}\n{self._said.decode()}"
                self._said += read

    def told(self) -> str:
        """Everything that the background has said, as far as it was read."""
        return _ANSI.sub(b"", self._behind).decode(errors="replace")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The session is ours: bash, the page's brokers and programs, and nobody else.
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self._bash.pid, number)
            except ProcessLookupError:
                break
            if number is signal.SIGTERM:
                self._drain()
        self._bash.wait()
        for stream in (self._bash.stdin, self._bash.stdout):
            if stream is not None:
                stream.close()
        os.close(self._terminal)
        os.close(self._master)

    def _drain(self) -> None:
        """Until everybody has let go of the shell's output, or for five seconds."""
        assert self._bash.stdout is not None
        deadline = time.monotonic() + 5.0
        while (left := deadline - time.monotonic()) > 0:
            ready, _, _ = select.select([self._bash.stdout, self._master], [], [], left)
            if self._master in ready:
                os.read(self._master, 65_536)
            elif not ready or not os.read(self._bash.stdout.fileno(), 65_536):
                return
