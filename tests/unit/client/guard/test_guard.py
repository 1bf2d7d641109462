"""What the guard tells, when it tells it, and that it stays out of the way."""

import os
import py_compile
import subprocess
import sys
import threading
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from lockstep_client.guard import Observation
from lockstep_client.guard.outbox import MOST_WAITING, Outbox


def digest(data: bytes) -> str:
    return sha256(data).hexdigest()


def test_a_new_source_is_told_before_its_first_statement(guarded: Any) -> None:
    source = guarded.write("late.py", "guard.flush(5); sys.stdout.write(f'inside: {len(told)}\\n')\n")
    told = guarded.run(
        "import builtins\nbuiltins.guard, builtins.told, builtins.sys = guard, told, sys\nimport late\n"
    )
    assert "inside: 1" in told.output
    [seen] = told.seen
    assert (seen.kind, seen.digest, seen.path, seen.name) == (
        "module",
        digest(source.read_bytes()),
        str(source),
        "late",
    )
    assert seen.size == source.stat().st_size


def test_new_bytecode_is_told_by_its_body(guarded: Any) -> None:
    source = guarded.write("late.py", "x = 1\n")
    cached = Path(py_compile.compile(str(source)))
    [seen] = guarded.run("import late\n").seen
    assert (seen.kind, seen.digest, seen.name) == ("module", digest(cached.read_bytes()[16:]), "late")
    assert Path(seen.path).name == cached.name


def test_what_the_manifest_names_is_silent(guarded: Any) -> None:
    source = guarded.write("late.py", "x = 1\n")
    told = guarded.run(f"approved.add([bytes.fromhex('{digest(source.read_bytes())}')])\nimport late\n")
    assert told.seen == []


def test_the_same_code_is_told_once(guarded: Any) -> None:
    told = guarded.run("for _ in range(50):\n    exec('y = 1')\n")
    assert told.kinds == ["generated_code"]


def test_text_of_an_approved_file_may_be_executed(guarded: Any) -> None:
    guarded.write("known.py", "x = 1\n")
    told = guarded.run(
        "exec(open('known.py').read())\n", before="import sys\nsys.path.insert(0, '.')\nimport known\n"
    )
    assert told.seen == []


def test_enforcing_stops_it_before_it_runs(guarded: Any) -> None:
    guarded.write("late.py", "sys.stdout.write('ran')\n")
    told = guarded.run(
        "for act in (lambda: exec('sys.stdout.write(\"ran\")'), lambda: __import__('late')):\n"
        "    try:\n        act()\n    except CodeRefused as refused:\n"
        "        sys.stdout.write(f'stopped {refused.observation.kind}\\n')\n",
        mode="enforce",
    )
    assert "ran" not in told.output
    assert "stopped generated_code\nstopped module\n" in told.output
    assert told.kinds == ["generated_code", "module"]


def test_a_stopped_module_is_not_left_behind(guarded: Any) -> None:
    guarded.write("late.py", "x = 1\n")
    told = guarded.run(
        "try:\n    import late\nexcept CodeRefused:\n    pass\nsys.stdout.write(f\"{'late' in sys.modules}\\n\")\n",
        mode="enforce",
    )
    assert "False" in told.output


CALM = {
    "namedtuple": "import collections\nP = collections.namedtuple('P', 'x y')\nassert P(1, 2).y == 2",
    "dataclass": "import dataclasses\n@dataclasses.dataclass(order=True)\nclass D:\n    x: int = 1\nD()",
    "enum": "import enum\nclass E(enum.Flag):\n    A = 1\n    B = 2\nE.A | E.B",
    "typing": "import typing\nclass T:\n    x: 'int'\ntyping.get_type_hints(T)",
    "literal": "import ast\nast.literal_eval('[1, 2]')",
    "jinja2": "import jinja2\nassert jinja2.Template('{{ x }}').render(x=1) == '1'",
    "logging": "import logging.handlers\nh = logging.handlers.RotatingFileHandler('l', maxBytes=10, backupCount=2)\n"
    "[h.emit(logging.makeLogRecord({'msg': 'x' * 20})) for _ in range(5)]",
    "pydantic": "import pydantic\nclass M(pydantic.BaseModel):\n    x: 'int'\nM(x=1)",
    "fork": "import os\npid = os.fork()\nif not pid:\n    os._exit(0)\nos.waitpid(pid, 0)",
    "threads": "import concurrent.futures\nwith concurrent.futures.ThreadPoolExecutor() as e:\n"
    "    list(e.map(str, range(100)))",
    "marshal": "import marshal\nmarshal.dumps({'a': 1})",
    "traceback": "import traceback\ntry:\n    1 / 0\nexcept ZeroDivisionError:\n    traceback.format_exc()",
}
IMPORTS = (
    "import collections, dataclasses, enum, typing, ast, jinja2, logging.handlers, pydantic, os, threading, "
    "concurrent.futures.thread, marshal, traceback, jinja2.debug, multiprocessing.spawn, linecache, "
    "multiprocessing.popen_spawn_posix, multiprocessing.resource_tracker, multiprocessing.synchronize\n"
    "jinja2.Template('{{ y }}').render(y=1)\n"
    "class Warm(pydantic.BaseModel):\n    x: int\n"
    "try:\n    1 / 0\nexcept ZeroDivisionError:\n    traceback.format_exc()\n"
)


@pytest.mark.parametrize("name", CALM)
def test_what_approved_code_does_all_day_is_silent(guarded: Any, name: str) -> None:
    told = guarded.run(CALM[name] + "\n", before=IMPORTS)
    assert told.seen == []
    assert "LOST 0" in told.output


def test_multiprocessing_is_silent(guarded: Any) -> None:
    guarded.write("work.py", "def work(x):\n    return x + 1\n")
    told = guarded.run(
        "if __name__ == '__main__':\n    with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        "        assert pool.map(work.work, [1]) == [2]\n",
        before=IMPORTS + "import multiprocessing, work, multiprocessing.pool\n",
    )
    assert [item for item in told.seen if item.kind != "library"] == []


def test_a_generator_is_known_by_its_very_frame(guarded: Any) -> None:
    """A function of the same name in another module generates nothing in anybody's name."""
    told = guarded.run("def namedtuple():\n    exec('x = 1')\n__name__ = 'collections'\nnamedtuple()\n")
    assert told.kinds == ["generated_code"]


def test_a_process_with_its_script_is_told(guarded: Any) -> None:
    script = guarded.write("fetched.py", "x = 1\n")
    told = guarded.run(
        "import subprocess\nsubprocess.run([sys.executable, 'fetched.py'])\n", before="import subprocess\n"
    )
    assert [(item.kind, item.digest) for item in told.seen] == [("script", digest(script.read_bytes()))]


def test_a_shell_s_text_is_told(guarded: Any) -> None:
    told = guarded.run("import os\nos.system('true')\n")
    assert [item.kind for item in told.seen] == ["exec", "generated_code"]
    assert told.seen[1].digest == digest(b"true")


@pytest.mark.parametrize("how", ["fork", "exit", "thread"])
def test_nothing_hangs(guarded: Any, how: str) -> None:
    guarded.write("late.py", "x = 1\n")
    texts = {
        "fork": "import os\npid = os.fork()\nif not pid:\n    import late\n    tell()\n    os._exit(0)\n"
        "os.waitpid(pid, 0)\n",
        "exit": "atexit.register(exec, 'x = 1')\n",
        "thread": "import threading\n"
        "ts = [threading.Thread(target=exec, args=(f'x = {n}',)) for n in range(200)]\n"
        "[t.start() for t in ts]\n[t.join() for t in ts]\n",
    }
    told = guarded.run(texts[how], before="import threading\n")
    assert len(told.seen) == {"fork": 1, "exit": 0, "thread": 200}[how]


def test_a_report_that_fails_hurts_nobody(tmp_path: Path) -> None:
    script = tmp_path / "app.py"
    script.write_text(
        "from lockstep_client.guard import Approved, Guard\nfrom lockstep_client.measure import measure_self\n"
        "def fails(observation):\n    raise OSError('gone')\n"
        "approved = Approved()\napproved.add_measurement(measure_self())\nguard = Guard(fails, approved)\n"
        "guard.install()\nexec('x = 1')\nexec('x = 2')\nguard.flush(5)\nprint('lost', guard.lost)\n"
    )
    result = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=50,
        env={"PATH": os.environ["PATH"]},
    )
    assert (result.stdout, result.stderr, result.returncode) == ("lost 2\n", "", 0)


def test_what_was_not_told_is_told_when_it_runs_again(tmp_path: Path) -> None:
    script = tmp_path / "app.py"
    script.write_text(
        "from lockstep_client.guard import Approved, Guard\nfrom lockstep_client.measure import measure_self\n"
        "told, missed = [], []\n"
        "def fails_once(observation):\n    told.append(observation)\n    if len(told) == 1: raise OSError('gone')\n"
        "approved = Approved()\napproved.add_measurement(measure_self())\n"
        "guard = Guard(fails_once, approved, missed=missed.append)\nguard.install()\n"
        "for _ in range(3):\n    exec('x = 1')\n    guard.flush(5)\nprint(len(told), guard.lost, missed)\n"
    )
    result = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=50,
        env={"PATH": os.environ["PATH"]},
    )
    assert (result.stdout, result.stderr) == ("2 1 [1]\n", "")


def test_the_queue_is_bounded_and_says_what_it_lost() -> None:
    release = threading.Event()
    seen = Observation("module", b"", "", "x", 0, 0.0)
    missed: list[int] = []

    def hear(count: int) -> None:
        missed.append(count)
        if len(missed) == 1:
            raise OSError("nobody listens yet")

    outbox = Outbox(lambda item: release.wait(10) and None, lambda: None, hear)
    taken = [outbox.put(seen) for _ in range(MOST_WAITING + 50)]
    assert outbox.lost == taken.count(False) > 0
    release.set()
    assert outbox.flush(10)
    assert missed == [outbox.lost, outbox.lost]  # said again, since nobody listened
    outbox.stopped = True
