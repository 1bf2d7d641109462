"""What only a process of its own can show: forks, exit codes, the end of the interpreter, import cost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lockstep.v1 import revocation_pb2
from lockstep_client.settings import Settings
from tests.fakes.broker import FakeBroker

ROOT = Path(__file__).resolve().parents[4]

_HEAD = """
import os, sys, threading
import lockstep_client
from tests.unit.client.core.conftest import Loaded
connect = lambda **more: lockstep_client.connect(evidence=Loaded().source, **more)
"""


def program(folder: Path, settings: Settings, text: str, *, preload: str = _HEAD) -> subprocess.Popen[str]:
    path = folder / "program.py"
    path.write_text(preload + text)
    return subprocess.Popen(
        [sys.executable, str(path)],
        env={**os.environ, **settings.environment(), "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_forked_child_shares_nothing_and_attests_anew(
    broker: FakeBroker, settings: Settings, tmp_path: Path
) -> None:
    script = """
ls = connect()
db = ls.credential("db")
password = db.password.reveal()
pid = os.fork()
if pid == 0:
    inside = db.password.reveal()
    ok = inside != password and ls.ready
    print("child", ls.attestation.id, ok, flush=True)
    ls.close()
    os._exit(0 if ok else 1)
_, status = os.waitpid(pid, 0)
print("parent", ls.attestation.id, db.password.reveal() == password, status, flush=True)
ls.close()
"""
    process = program(tmp_path, settings, script)
    out, err = process.communicate(timeout=40)
    assert process.returncode == 0, err
    assert out.split("\n")[:2] == ["child A-2 True", "parent A-1 True 0"], err
    keys = {instance.spki for instance in broker.instances.values()}
    assert len(keys) == 2
    assert broker.leases == {}


@pytest.mark.parametrize("policy", ["exit", "raise"])
def test_revoked_means_77_where_asked(
    broker: FakeBroker, settings: Settings, tmp_path: Path, policy: str
) -> None:
    script = f"""
ls = connect(on_revoked={policy!r})
db = ls.credential("db")
over = threading.Event()
@ls.on_revoked
def bye(revocation):
    print("bye", revocation.reason, revocation.decision, flush=True)
    over.set()
print("ready", flush=True)
over.wait(30)
if {policy!r} == "exit":
    threading.Event().wait(30)  # leaving does not wait for this thread
try:
    db.password
except lockstep_client.Revoked as error:
    print("raised", error)
"""
    process = program(tmp_path, settings, script)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    broker.wait_until(lambda: broker.watched != [])
    broker.revoke(revocation_pb2.Selector(attestation_id="A-1"), reason="memfd")
    out, err = process.communicate(timeout=20)
    if policy == "exit":
        assert (process.returncode, out) == (77, "bye memfd D-9\n"), err
    else:
        assert (process.returncode, out) == (
            0,
            "bye memfd D-9\nraised revoked: memfd (revoked, lockstep explain D-9)\n",
        ), err


def test_a_callback_that_hangs_does_not_keep_a_revoked_process(
    broker: FakeBroker, settings: Settings, tmp_path: Path
) -> None:
    script = """
ls = connect(on_revoked="exit")
ls.on_revoked(lambda _: threading.Event().wait(60))
print("ready", flush=True)
threading.Event().wait(60)
"""
    process = program(tmp_path, settings, script)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    broker.wait_until(lambda: broker.watched != [])
    broker.revoke(revocation_pb2.Selector(attestation_id="A-1"))
    process.communicate(timeout=20)
    assert process.returncode == 77


def test_the_interpreter_ends_in_order_and_gives_leases_back(
    broker: FakeBroker, settings: Settings, tmp_path: Path
) -> None:
    process = program(tmp_path, settings, 'ls = connect()\nls.credential("db")\n')
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, "")
    assert broker.leases == {}
    assert "RevokeLease" in broker.calls


def test_only_errors_need_no_grpc(settings: Settings, tmp_path: Path) -> None:
    script = """
import sys
import lockstep_client
assert lockstep_client.Denied
heavy = {"grpc", "google.protobuf", "cryptography", "jwt", "tenacity", "asyncio"} & set(sys.modules)
print(sorted(heavy))
assert "connect" in dir(lockstep_client)
lockstep_client.connect
"""
    process = program(tmp_path, settings, script, preload="")
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (0, "[]\n"), err
