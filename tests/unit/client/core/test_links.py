"""The launcher's socket: whatever one process of the tree says, or does not say, the others are heard."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from lockstep_client.run.links import Links, Seen
from tests.unit.client.core.conftest import becomes

HELLO = '{"hello": 1, "magic": "00", "check_hashes": "default", "folders": []}'
CHILD = f"""
import json, socket, sys
link = socket.socket(socket.AF_UNIX)
link.connect(sys.argv[1])
link.sendall(b'{HELLO}\\n')
"""
SILENT = CHILD + "sys.stdin.read()\n"
LATE = (
    CHILD
    + """
lines = link.makefile("rb")
first = json.loads(next(lines))
second = json.loads(next(lines))
for order, name in ((first, "stale"), (second, "fresh")):
    facts = [["module", name, "", [], ""]]
    link.sendall(json.dumps({"facts": facts, "guarded": False, "number": order["number"]}).encode() + b"\\n")
sys.stdin.read()
"""
)
SAYS = CHILD + "for line in sys.stdin: link.sendall(line.encode())\n"


class Told:
    """What a launcher hears."""

    def __init__(self, folder: Path, answer_within: float = 1.0) -> None:
        self.seen: list[Seen] = []
        self.lost = 0
        self.links = Links(folder, lambda: None, self.seen.append, self._lose, answer_within=answer_within)

    def _lose(self, count: int) -> None:
        self.lost += count


@pytest.fixture
def told(tmp_path: Path) -> Iterator[Told]:
    it = Told(tmp_path)
    yield it
    it.links.close()


Start = Callable[[str], subprocess.Popen[str]]


@pytest.fixture
def start(told: Told) -> Iterator[Start]:
    with ExitStack() as stack:

        def begin(text: str) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [sys.executable, "-S", "-c", text, told.links.path], stdin=subprocess.PIPE, text=True
            )
            stack.callback(process.communicate)
            return process

        yield begin


def say(process: subprocess.Popen[str], *lines: str) -> None:
    assert process.stdin is not None
    process.stdin.write("".join(f"{line}\n" for line in lines))
    process.stdin.flush()


def observation(name: str) -> str:
    seen = {"kind": "module", "digest": "aa" * 32, "path": name, "name": name, "size": 1, "observed_at": 1.0}
    return json.dumps({"seen": seen})


def test_children_that_do_not_answer_are_waited_for_together(told: Told, start: Start) -> None:
    for _ in range(5):
        start(SILENT)
    becomes(lambda: len(told.links.peers()) == 5)
    # Nobody reads either: what is sent to them must hold up no one.
    told.links.approve([os.urandom(32) for _ in range(20_000)])

    began = time.monotonic()
    assert told.links.modules() == {}
    assert time.monotonic() - began < 3.0  # 1 s, where one after another would take five


def test_the_answer_to_an_earlier_question_is_none(told: Told, start: Start) -> None:
    """It may have loaded more since."""
    process = start(LATE)
    becomes(lambda: len(told.links.peers()) == 1)

    assert told.links.modules() == {}
    [(pid, modules)] = told.links.modules().items()

    assert pid == process.pid
    assert [fact[1] for fact in modules.facts] == ["fresh"]


def test_a_child_that_ends_is_not_waited_for(tmp_path: Path) -> None:
    patient = Told(tmp_path, answer_within=60.0)
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", CHILD + "next(link.makefile('rb'))\n", patient.links.path]
    )
    becomes(lambda: len(patient.links.peers()) == 1)
    began = time.monotonic()
    assert patient.links.modules() == {}
    assert time.monotonic() - began < 30.0
    process.wait(10)
    patient.links.close()


@pytest.mark.parametrize(
    "line",
    [
        "no json",
        "3",
        '{"seen": {}}',
        '{"seen": {"kind": "module", "digest": "xx", "path": "", "name": "", "size": 1, "observed_at": 1}}',
        '{"facts": []}',
        '{"hello": 1, "magic": "zz"}',
    ],
)
def test_a_message_that_cannot_be_read_ends_nothing_and_counts_as_lost(
    told: Told, start: Start, line: str
) -> None:
    process = start(SAYS)
    say(process, line, observation("evil"))
    becomes(lambda: [item.name for item in told.seen] == ["evil"])
    assert told.lost == 1
    assert len(told.links.peers()) == 1


def test_a_receiver_that_fails_ends_nothing(tmp_path: Path) -> None:
    heard: list[str] = []
    lost: list[int] = []

    def receive(seen: Seen) -> None:
        if seen.name == "bad":
            raise UnicodeEncodeError("utf-8", seen.name, 0, 1, "surrogates not allowed")
        heard.append(seen.name)

    links = Links(tmp_path, lambda: None, receive, lost.append)
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", SAYS, links.path], stdin=subprocess.PIPE, text=True
    )
    say(process, observation("bad"), '{"lost": 4}', observation("good"))
    becomes(lambda: heard == ["good"])
    assert lost == [1, 4]
    process.communicate(timeout=10)
    links.close()


OLDER = """
import os, sys, types
import lockstep.formats, lockstep_client
from lockstep_client.run.bypath import ByPath
from lockstep_client.run.inside import Link

older = types.ModuleType("lockstep_client.guard")
older.Approved = set
older.Guard = lambda report, approved: None
sys.modules["lockstep_client.guard"] = older
folders = {
    "lockstep_client": os.path.dirname(lockstep_client.__file__),
    "lockstep": os.path.dirname(lockstep.formats.__file__),
}
link = Link("/nowhere", "", older, ByPath(folders))
link._watch()
print(type(link._guard).__module__, sys.modules["lockstep_client.guard"] is older)
"""


def test_a_child_that_has_another_version_of_the_sdk_is_guarded_by_ours() -> None:
    result = subprocess.run([sys.executable, "-c", OLDER], capture_output=True, text=True, timeout=20)
    assert (result.stdout, result.stderr) == ("_lockstep_client.guard.watch True\n", "")
