"""What a command line makes run: the program as the new process will find it, and what an interpreter is told."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from lockstep_client.guard.programs import started

PYTHON = sys.executable
INPUT = "… reads its input"
"""Stands for the text that nobody sees."""


def told(arguments: list[str], **how: object) -> list[tuple[str, str]]:
    """(kind, path, text or name) of everything but the first program."""
    found = list(started(None, arguments, **how))  # type: ignore[arg-type]
    assert found, "nothing runs"
    assert found[0].kind == "exec"
    return [
        (item.kind, item.path or item.text or (INPUT if item.name.endswith("reads its input") else item.name))
        for item in found[1:]
    ]


def text(said: str) -> list[tuple[str, str]]:
    return [("generated_code", said)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "s.py").write_text("x = 1\n")
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "__init__.py").write_text("")
    (tmp_path / "pkg" / "__main__.py").write_text("")
    (tmp_path / "pkg" / "sub.py").write_text("")
    (tmp_path / "lib").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([PYTHON, "-c", "x"], "x"),
        ([PYTHON, "-cx"], "x"),
        ([PYTHON, "-Ic", "x"], "x"),
        ([PYTHON, "-Icx"], "x"),
        ([PYTHON, "-W", "error", "-X", "dev", "-c", "x"], "x"),
        ([PYTHON, "-Werror", "-Xc=1", "-c", "x"], "x"),
        ([PYTHON, "--check-hash-based-pycs", "always", "-c", "x"], "x"),
        ([PYTHON, "-"], INPUT),
        ([PYTHON, "-u", "-"], INPUT),
        ([PYTHON], INPUT),
        ([PYTHON, "-I"], INPUT),
        (["/bin/sh", "-c", "rm x"], "rm x"),
        (["/bin/sh", "-ec", "rm x"], "rm x"),
        (["/bin/sh", "-euo", "pipefail", "-c", "rm x"], "rm x"),
        (["/bin/sh", "-c", "-e", "rm x"], "rm x"),
        (["/bin/sh"], INPUT),
        (["/bin/sh", "-s", "argument"], INPUT),
        (["/bin/bash", "--norc", "-lc", "rm x"], "rm x"),
        (["/usr/bin/perl", "-e", "1"], "1"),
        (["/usr/bin/perl", "-eprint 5"], "print 5"),
        (["/usr/bin/perl", "-lane", "print"], "print"),
        (["/usr/bin/perl", "-MData::Dumper", "-I", "lib", "-E", "say"], "say"),
        (["/usr/bin/perl", "-w"], INPUT),
        (["/usr/bin/perl", "-"], INPUT),
        (["/opt/node", "-e", "1"], "1"),
        (["/opt/node", "-pe", "1"], "1"),
        (["/opt/node", "--eval=1"], "1"),
        (["/opt/node", "--print", "1"], "1"),
        (["/opt/node", "-r", "mod", "-e", "1"], "1"),
        (["/opt/node"], INPUT),
        (["/opt/ruby", "-rjson", "-e", "1"], "1"),
        (["/opt/php", "-r", "echo 1;"], "echo 1;"),
        (["/opt/lua", "-e", "x=1"], "x=1"),
        (["/opt/deno", "eval", "1"], "1"),
        (["/opt/deno", "run", "-"], INPUT),
        (["/opt/busybox", "sh", "-c", "rm x"], "rm x"),
    ],
    ids=" ".join,
)
def test_text_and_input(arguments: list[str], expected: str) -> None:
    assert told(arguments) == text(expected)


@pytest.mark.parametrize(
    "arguments",
    [
        ["/bin/true"],
        ["/bin/cat", "/etc/passwd"],
        [PYTHON, "-V"],
        [PYTHON, "--version"],
        [
            PYTHON,
            "-c",
            "from multiprocessing.spawn import spawn_main; spawn_main(tracker_fd=5, pipe_handle=7)",
        ],
        [PYTHON, "not-there.py", "-c", "its own"],
        ["/bin/bash", "--version"],
        ["/usr/bin/perl", "-v"],
        ["/usr/bin/perl", "-V:version"],
        ["/opt/node", "--version"],
    ],
    ids=" ".join,
)
def test_what_is_nothing_more_than_a_program(arguments: list[str]) -> None:
    assert told(arguments) == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([PYTHON, "s.py"], [("script", "s.py")]),
        ([PYTHON, "-u", "--", "s.py"], [("script", "s.py")]),
        ([PYTHON, "-i", "s.py"], [("generated_code", INPUT), ("script", "s.py")]),
        ([PYTHON, "pkg"], [("script", "pkg/__main__.py")]),
        ([PYTHON, "-m", "s"], [("module", "s.py")]),
        ([PYTHON, "-ms"], [("module", "s.py")]),
        ([PYTHON, "-m", "pkg"], [("module", "pkg/__init__.py"), ("module", "pkg/__main__.py")]),
        ([PYTHON, "-m", "pkg.sub"], [("module", "pkg/__init__.py"), ("module", "pkg/sub.py")]),
        ([PYTHON, "-I", "-m", "s"], [("module", "python -m s")]),
        ([PYTHON, "-m", "no_such"], [("module", "python -m no_such")]),
        (["/bin/sh", "s.py"], [("script", "s.py")]),
        (["/bin/sh", "-c", ". ./s.py", "s.py"], [("generated_code", ". ./s.py"), ("script", "s.py")]),
        (["/bin/bash", "--rcfile", "s.py", "-c", "x"], [("script", "s.py"), ("generated_code", "x")]),
        (
            ["/usr/bin/perl", "-w", "s.py", "-e", "its own"],
            [("script", "s.py"), ("generated_code", "its own")],
        ),
        (["/usr/bin/perl", "s.py", "-e", "its own"], [("script", "s.py")]),
        (["/opt/node", "--require", "./s.py", "-e", "1"], [("generated_code", "1"), ("script", "./s.py")]),
    ],
    ids=str,
)
def test_files_of_the_folder_that_it_starts_in(
    folder: Path, arguments: list[str], expected: list[tuple[str, str]]
) -> None:
    found = told(arguments, folder=os.fsencode(folder))
    assert sorted((kind, what.removeprefix(f"{folder}/")) for kind, what in found) == sorted(expected)


def test_the_path_of_the_modules_is_the_new_one_s(folder: Path) -> None:
    assert told([PYTHON, "-m", "s"], environ={"PYTHONPATH": str(folder)}) == [
        ("module", str(folder / "s.py"))
    ]
    assert told([PYTHON, "-E", "-m", "s"], environ={"PYTHONPATH": str(folder)}) == [("module", "python -m s")]
    safe = {"PYTHONSAFEPATH": "1"}
    assert told([PYTHON, "-m", "s"], folder=folder, environ=safe) == [("module", "python -m s")]
    [(kind, path)] = told([PYTHON, "-m", "this"])
    assert (kind, Path(path).name) == ("module", "this.py")


def program(folder: Path, name: str = "evilprog") -> Path:
    path = folder / name
    shutil.copy("/bin/true", path)
    return path


def paths(found: object) -> list[str]:
    return [os.path.abspath(item.path) for item in found]  # type: ignore[attr-defined]


def test_a_program_is_the_one_that_the_new_process_will_find(tmp_path: Path) -> None:
    evil = str(program(tmp_path))
    assert paths(started("./evilprog", ["./evilprog"], tmp_path)) == [evil]
    assert paths(started(b"./evilprog", [b"./evilprog"], os.fsencode(tmp_path))) == [evil]
    assert paths(started("evilprog", ["evilprog"], None, {"PATH": str(tmp_path)})) == [evil]
    assert paths(started(b"evilprog", [b"x"], None, {b"PATH": os.fsencode(tmp_path)})) == [evil]
    assert paths(started("evilprog", ["evilprog"], tmp_path, {"PATH": ":/bin"})) == [evil]
    assert paths(started("evilprog", ["evilprog"], tmp_path, {"PATH": "/bin"})) == []


def test_a_bare_name_for_a_system_call_is_looked_for_in_both_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    both = [str(program(here)), str(program(there))]
    monkeypatch.chdir(here)
    monkeypatch.setenv("PATH", str(there))
    assert paths(started("evilprog", ["evilprog"], None, {"PATH": "/bin"}, searched=False)) == both


def test_a_program_that_starts_another(folder: Path) -> None:
    evil = str(program(folder))
    assert told(["/usr/bin/env", "-i", "A=1", PYTHON, "-c", "x"])[1:] == text("x")
    assert told(["/usr/bin/env", "-S", f"{PYTHON} -c x"])[1:] == text("x")
    assert paths(started(None, ["/usr/bin/env", f"PATH={folder}", "evilprog"]))[1:] == [evil]
    assert paths(started(None, ["/usr/bin/env", "-C", str(folder), "./evilprog"]))[1:] == [evil]
    assert paths(started(None, ["/usr/bin/env", f"--chdir={folder}", "./evilprog"]))[1:] == [evil]
    loader = ["/lib64/ld-linux-x86-64.so.2", "--library-path", "/x", "./evilprog"]
    assert paths(started(None, loader, folder))[1:] == [evil]
    assert [item.name for item in started(None, ["/usr/bin/env"] * 20)][-1].startswith("env: too many")


def test_a_library_that_is_put_before_all_others_is_told(folder: Path) -> None:
    environ = {"LD_PRELOAD": "./evil.so", "PATH": "/bin"}
    first, _ = started("true", ["true"], folder, environ)
    assert (first.kind, first.path) == ("library", f"{folder}/./evil.so")
    assert ("library", str(folder / "x.so")) in told(["/usr/bin/env", f"LD_PRELOAD={folder}/x.so", "true"])


@pytest.mark.parametrize("how", [{"folder": 3}, {"environ": 3}, {"environ": {"A": 1}}], ids=str)
def test_where_nobody_can_say_where_it_starts_that_is_said(how: dict[str, object]) -> None:
    [item] = started("true", ["true"], **how)  # type: ignore[arg-type]
    assert (item.kind, item.path) == ("exec", "")
    assert item.name.startswith("true: ")
