"""Programs that were started to be measured: their modules by what they say, the rest by what is mapped."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import pytest

from lockstep.formats import UnitKind
from lockstep_client.measure import HashCache, Launch, Measurement, measure_process
from lockstep_client.measure.interpreters import PythonCommand, python_command

READY = "import sys\nsys.stdout.write('ready ' + repr(sys.argv) + '\\n')\nsys.stdout.flush()\nsys.stdin.readline()\n"
ENV = {"PATH": os.environ["PATH"]}


@contextmanager
def launched(
    launch: Launch, command: list[str], folder: Path, env: Mapping[str, str] = ENV
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A program that has said that it is ready."""
    process = subprocess.Popen(
        launch.command(command, env),
        pass_fds=launch.descriptors,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=env,
    )
    launch.started()
    assert process.stdout is not None
    try:
        yield process, process.stdout.readline()
    finally:
        process.communicate("\n", timeout=20)


def digest(path: Path) -> bytes:
    return sha256(path.read_bytes()).digest()


def names(found: Measurement) -> set[str]:
    return {hint.name for hint in found.hints}


def aged(path: Path, text: str) -> Path:
    path.write_text(text)
    os.utime(path, (1_700_000_000, 1_700_000_000))
    return path


@pytest.mark.parametrize("options", [[], ["-I"], ["-B", "-W", "error"]], ids=str)
def test_a_script_and_its_modules_are_measured(tmp_path: Path, options: list[str]) -> None:
    script = aged(tmp_path / "app.py", "import colorsys\n" + READY)
    with (
        Launch() as launch,
        launched(launch, [sys.executable, *options, "app.py", "one"], tmp_path) as (process, line),
    ):
        assert line == "ready ['app.py', 'one']\n"
        found = launch.measure(process.pid, HashCache())
    assert (UnitKind.SCRIPT, digest(script)) in found.units
    assert (UnitKind.EXECUTABLE, digest(Path(sys.executable).resolve())) in found.units
    assert "colorsys" in names(found)
    assert found.unknown == ()
    assert found.process.pid == process.pid


def test_a_module_run_by_name(tmp_path: Path) -> None:
    source = aged(tmp_path / "app.py", READY)
    with (
        Launch() as launch,
        launched(launch, [sys.executable, "-Bm", "app", "x"], tmp_path) as (process, line),
    ):
        assert line == f"ready {[str(source), 'x']!r}\n"
        found = launch.measure(process.pid, HashCache())
    assert (UnitKind.PYTHON_SOURCE, digest(source)) in found.units
    assert found.unknown == ()


def test_text_is_unknown_by_name(tmp_path: Path) -> None:
    with (
        Launch() as launch,
        launched(launch, [sys.executable, "-c", READY, "x"], tmp_path) as (process, line),
    ):
        assert line == "ready ['-c', 'x']\n"
        found = launch.measure(process.pid, HashCache())
    assert [item.name for item in found.unknown] == ["python -c"]


def test_what_is_loaded_later_is_in_the_next_measurement(tmp_path: Path) -> None:
    aged(tmp_path / "app.py", READY + "import colorsys\n" + READY)
    with Launch() as launch, launched(launch, [sys.executable, "app.py"], tmp_path) as (process, _):
        first = launch.measure(process.pid, HashCache())
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("\n")
        process.stdin.flush()
        process.stdout.readline()
        second = launch.measure(process.pid, HashCache(), first)
    assert "colorsys" not in names(first)
    assert "colorsys" in names(second)
    assert first.units < second.units


def test_a_forked_child_answers_for_itself(tmp_path: Path) -> None:
    aged(tmp_path / "late.py", "x = 1\n")
    aged(
        tmp_path / "app.py",
        "import os, sys\nr, w = os.pipe()\npid = os.fork()\nif not pid:\n    import late\n    os.write(w, b'x')\n"
        "    sys.stdin.readline()\n    os._exit(0)\nos.read(r, 1)\n" + READY + "os.kill(pid, 9)\nos.wait()\n",
    )
    with Launch() as launch, launched(launch, [sys.executable, "app.py"], tmp_path) as (process, _):
        found = launch.measure(process.pid, HashCache())
    assert "late" in names(found)
    assert found.unknown == ()


def test_an_interpreter_that_does_not_answer_is_named(tmp_path: Path) -> None:
    aged(
        tmp_path / "app.py",
        "import subprocess, sys\nchild = subprocess.Popen(['sh', '-c', 'read x; :'], stdin=subprocess.PIPE)\n"
        + READY
        + "child.kill()\nchild.communicate()\n",
    )
    with Launch() as launch, launched(launch, [sys.executable, "app.py"], tmp_path) as (process, _):
        found = launch.measure(process.pid, HashCache())
    assert [item.name.split()[0] for item in found.unknown] == ["interpreter"]


def test_a_program_that_is_no_python_is_measured_by_its_mappings(tmp_path: Path) -> None:
    with Launch() as launch:
        process = subprocess.Popen(launch.command(["cat"], ENV), stdin=subprocess.PIPE, cwd=tmp_path)
        launch.started()
        try:
            os.write(process.stdin.fileno(), b"") if process.stdin else None
            found = measure_process(process.pid)
        finally:
            process.communicate(b"")
    assert {kind for kind, _ in found.units} >= {UnitKind.EXECUTABLE}
    assert found.unknown == ()


def test_a_process_that_has_gone_is_empty() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    assert measure_process(process.pid).units == frozenset()


def test_the_exit_code_and_errors_are_the_program_s(tmp_path: Path) -> None:
    aged(tmp_path / "app.py", "raise SystemExit(7)\n")
    aged(tmp_path / "bad.py", "1 / 0\n")
    for name, code in (("app.py", 7), ("bad.py", 1), ("none.py", 1)):
        with Launch() as launch:
            result = subprocess.run(
                launch.command([sys.executable, name], ENV),
                pass_fds=launch.descriptors,
                capture_output=True,
                text=True,
                cwd=tmp_path,
                env=ENV,
            )
        assert result.returncode == code
        assert ("ZeroDivisionError" in result.stderr) == (name == "bad.py")


def test_a_launcher_that_has_gone_stops_nobody(tmp_path: Path) -> None:
    aged(tmp_path / "app.py", READY)
    launch = Launch()
    with launched(launch, [sys.executable, "app.py"], tmp_path) as (process, _):
        launch.close()
    assert process.returncode == 0


def test_multiprocessing_works_under_it(tmp_path: Path) -> None:
    aged(
        tmp_path / "app.py",
        "import multiprocessing\ndef work(x):\n    return x + 1\n\nif __name__ == '__main__':\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool:\n        print(pool.map(work, [1]))\n",
    )
    with Launch() as launch:
        result = subprocess.run(
            launch.command([sys.executable, "app.py"], ENV),
            pass_fds=launch.descriptors,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=ENV,
            timeout=40,
        )
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
