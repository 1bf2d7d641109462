"""Other processes: what they have mapped, what their Pythons say, and how a Python is started to say it."""

import json
import os
import subprocess
import sys
import zipapp
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import pytest

from lockstep.formats import UnitKind
from lockstep_client.measure import HashCache, Measurement, bootstrap, facts, measure_process
from lockstep_client.measure.interpreters import PythonCommand, python_command
from lockstep_client.measure.launch import Modules
from lockstep_client.measure.modules import Interpreter

ENV = {"PATH": os.environ["PATH"]}
READY = "print('ready', flush=True)\ninput()\n"
# What a launcher's first file does: load by path, and become the program.
FIRST = f"""
import importlib.util, sys
def load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
load("_facts", {facts.__file__!r})
load("_bootstrap", {bootstrap.__file__!r}).run(sys.argv[1], sys.argv[2], sys.argv[3:])
"""
SAY = "import json, sys\nprint(json.dumps([sys.argv, sys.path[0], sys.modules['_facts'].module_facts()]))\n"


@contextmanager
def running(*command: str) -> Iterator[int]:
    """A program that has said that it is ready."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        yield process.pid
    finally:
        process.communicate("\n", timeout=20)


def digest(path: str | Path) -> bytes:
    return sha256(Path(path).resolve().read_bytes()).digest()


def unknown(found: Measurement) -> list[str]:
    return [item.name.rstrip("0123456789.") for item in found.unknown]


def test_an_interpreter_is_measured_and_what_it_runs_is_named() -> None:
    with running(sys.executable, "-c", "import _decimal\n" + READY) as pid:
        found = measure_process(pid)
    assert (UnitKind.EXECUTABLE, digest(sys.executable)) in found.units
    assert any(hint.name.startswith("_decimal") for hint in found.hints)
    assert unknown(found) == ["interpreter python"]
    assert found.process.pid == pid


def test_an_interpreter_that_says_what_it_loaded_is_measured_whole(tmp_path: Path) -> None:
    source = tmp_path / "late.py"
    source.write_text("x = 1\n")
    os.utime(source, (1_700_000_000, 1_700_000_000))
    with running(sys.executable, "-c", READY) as pid:
        said = Modules([(facts.SOURCE, "late", str(source), (), "")], (), Interpreter.current())
        found = measure_process(pid, HashCache(), None, {pid: said})
    assert (UnitKind.PYTHON_SOURCE, digest(source)) in found.units
    assert found.unknown == ()


def test_descendants_are_measured_too() -> None:
    child = "import subprocess\nchild = subprocess.Popen(['cat'], stdin=subprocess.PIPE)\n"
    with running(sys.executable, "-c", child + READY + "child.communicate()\n") as pid:
        found = measure_process(pid)
    executables = {unit for kind, unit in found.units if kind is UnitKind.EXECUTABLE}
    assert executables >= {digest(sys.executable), digest("/bin/cat")}
    assert unknown(found) == ["interpreter python"]


def test_a_process_that_has_gone_has_nothing() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    assert measure_process(process.pid).units == frozenset()


def become(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    first = folder / "elsewhere" / "first.py"
    first.parent.mkdir(exist_ok=True)
    first.write_text(FIRST)
    command = [sys.executable, "-P", str(first), *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=ENV, timeout=40)


@pytest.mark.parametrize(
    ("words", "how"),
    [
        (("script", "app.py", "x"), facts.SCRIPT),
        (("module", "this_app", "x"), facts.SOURCE),
        (("text", SAY, "x"), facts.UNKNOWN),
    ],
    ids=["script", "module", "text"],
)
def test_the_program_is_what_it_would_have_been(tmp_path: Path, words: tuple[str, ...], how: str) -> None:
    (tmp_path / "app.py").write_text(SAY)
    site = tmp_path / "site"
    site.mkdir()
    (site / "this_app.py").write_text(SAY)
    result = subprocess.run(
        [sys.executable, "-P", "-c", FIRST, *words],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**ENV, "PYTHONPATH": str(site)},
    )
    argv, _, said = json.loads(result.stdout)
    first = {"script": "app.py", "module": str(site / "this_app.py"), "text": "-c"}[words[0]]
    assert argv == [first, "x"]
    name = "python -c" if how == facts.UNKNOWN else "__main__"
    assert [item[0] for item in said if item[1] == name] == [how]


def test_the_exit_code_and_errors_are_the_program_s(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("raise SystemExit(7)\n")
    (tmp_path / "bad.py").write_text("1 / 0\n")
    assert become(tmp_path, "script", "app.py").returncode == 7
    failed = become(tmp_path, "script", "bad.py")
    assert (failed.returncode, "ZeroDivisionError" in failed.stderr) == (1, True)
    assert become(tmp_path, "script", "none.py").returncode == 1


def test_multiprocessing_works_under_it(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        "import multiprocessing\ndef work(x):\n    return x + 1\n\nif __name__ == '__main__':\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool:\n        print(pool.map(work, [1]))\n",
    )
    result = become(tmp_path, "script", "app.py")
    assert result.stdout == "[2]\n", result.stderr


def command(*words: str, env: Mapping[str, str] = ENV) -> PythonCommand | None:
    return python_command(words, env)


def test_command_lines_are_taken_apart() -> None:
    python = sys.executable
    assert command(python, "-I", "a.py", "-c") == PythonCommand(python, ("-I",), "script", "a.py", ("-c",))
    assert command(python, "-IBc", "x", "y") == PythonCommand(python, ("-IB",), "text", "x", ("y",))
    assert command(python, "-cx") == PythonCommand(python, (), "text", "x", ())
    assert command(python, "-W", "error", "-X", "dev", "-m", "a") == PythonCommand(
        python, ("-W", "error", "-X", "dev"), "module", "a", ()
    )
    assert command(python, "-Werror", "a.py") == PythonCommand(python, ("-Werror",), "script", "a.py", ())
    for words in (
        (python,),
        (python, "-"),
        (python, "-i", "a.py"),
        (python, "-V"),
        (python, "-m"),
        ("cat", "a.py"),
    ):
        assert command(*words) is None


def test_folders_and_archives_are_no_scripts(tmp_path: Path) -> None:
    python = sys.executable
    folder, archive, text = tmp_path / "app", tmp_path / "app.pyz", tmp_path / "app.zip"
    folder.mkdir()
    (folder / "__main__.py").write_text("print()\n")
    zipapp.create_archive(folder, archive)
    text.write_text("print()\n")
    for path, mode in ((folder, "folder"), (archive, "archive"), (text, "script")):
        assert command(python, "-I", str(path), "x") == PythonCommand(
            python, ("-I",), mode, str(path), ("x",)
        )


def test_shebangs_are_followed(tmp_path: Path) -> None:
    python = sys.executable
    for first, options in (
        (f"#!{python} -I", ("-I",)),
        ("#!/usr/bin/env python3", ()),
        ("#!/usr/bin/env -S python3 -I", ("-I",)),
        (f"#!/bin/sh\n'''exec' \"{python}\" \"$0\" \"$@\"\n' '''", ()),
    ):
        tool = tmp_path / "tool"
        tool.write_text(first + "\nprint()\n")
        tool.chmod(0o755)
        found = command("tool", "a", env={"PATH": f"{tmp_path}:{Path(python).parent}"})
        assert found is not None
        assert (found.options, found.mode, found.target, found.arguments) == (
            options,
            "script",
            str(tool),
            ("a",),
        )
    tool.write_text("#!/bin/sh\n")
    assert command(str(tool)) is None
