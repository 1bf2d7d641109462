"""``lockstep run``: real programs under a real launcher, against a broker that checks every seal."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import sys
from pathlib import Path

import pytest

from lockstep.v1 import attestation_pb2, revocation_pb2
from lockstep.v1 import evidence_pb2 as ev
from lockstep_client.cli.run import _Lines
from lockstep_client.errors import ConfigurationError
from lockstep_client.run.child import Child
from lockstep_client.run.program import resolve
from lockstep_client.run.reactions import Act, when_revoked, when_rotated
from tests.fakes.broker import FakeBroker, denied, unavailable
from tests.unit.client.core.conftest import READ, Run, app, becomes


def units(broker: FakeBroker, number: int = 1) -> dict[int, set[bytes]]:
    statement = broker.instances[f"A-{number}"].statements[0]
    return {item.kind: set(item.digests) for item in statement.units}


def sha(path: str | Path) -> bytes:
    return hashlib.sha256(Path(path).read_bytes()).digest()


def test_a_python_program_is_measured_when_it_opens_its_credential(
    broker: FakeBroker, run: Run, tmp_path: Path
) -> None:
    app(tmp_path, "WORD = 'part'\n", "part_of_it.py")
    program = app(
        tmp_path,
        "import part_of_it, os, stat, sys\n"
        "path = os.environ['LOCKSTEP_CREDENTIAL_FILE']\n" + READ + "print(sys.argv, __name__, __file__)\n"
        "print(oct(stat.S_IMODE(os.stat(path).st_mode)), path)\n"
        "sys.exit(7)\n",
    )
    out, err = (process := run("--role", "db", "--", sys.executable, program, "a", "--b")).communicate(
        timeout=40
    )
    assert process.returncode == 7, err
    lines = out.splitlines()
    assert json.loads(lines[0])["password"].startswith("canary-")
    assert lines[1] == f"{[program, 'a', '--b']} __main__ {program}"
    mode, path = lines[2].split()
    assert mode == "0o600"
    assert not Path(path).exists()
    found = units(broker)
    assert sha(sys.executable) in found[ev.UNIT_KIND_EXECUTABLE]
    assert sha(program) in found[ev.UNIT_KIND_SCRIPT]
    assert sha(tmp_path / "part_of_it.py") in found[ev.UNIT_KIND_PYTHON_SOURCE]
    hints = {hint.name for hint in broker.instances["A-1"].statements[0].hints}
    assert not {name for name in hints if name.startswith(("grpc", "lockstep_client.keeper"))}
    assert "measured" in err
    assert "canary" not in err
    assert broker.leases == {}


@pytest.mark.parametrize("how", ["module", "text", "script with a shebang"])
def test_every_way_to_start_python(broker: FakeBroker, run: Run, tmp_path: Path, how: str) -> None:
    tail = "import sys; print(sys.argv[1:], sys.argv[0].rpartition('/')[2])\n"
    path = app(tmp_path, f"#!{sys.executable} -B\n" + READ + tail, "ask.py")
    os.chmod(path, 0o755)
    command = {
        "module": [sys.executable, "-m", "ask", "x"],
        "text": [sys.executable, "-c", READ + tail, "x"],
        "script with a shebang": [path, "x"],
    }[how]
    out, err = (process := run("--role", "a-token", "--", *command)).communicate(timeout=40)
    assert process.returncode == 0, err
    name = "-c" if how == "text" else "ask.py"
    assert out.splitlines()[1] == f"['x'] {name}"
    assert out.startswith("canary-")
    assert ("python -c" in err) == (how == "text")


def test_another_program_is_measured_before_it_starts(broker: FakeBroker, run: Run) -> None:
    command = ["sh", "-c", 'cat "$LOCKSTEP_CREDENTIAL_FILE"; echo " $LOCKSTEP_ROLE"']
    out, err = (process := run("--role", "db-token", "--", *command)).communicate(timeout=40)
    assert process.returncode == 0, err
    assert out.startswith("canary-")
    assert out.endswith(" db-token\n")
    statement = broker.instances["A-1"].statements[0]
    assert [item.name for item in statement.unknown] == ["interpreter sh"]
    assert "unseen: interpreter sh" in err


def test_what_another_program_maps_is_added_soon(broker: FakeBroker, run: Run) -> None:
    process = run("--role", "db", "--", "sleep", "30")
    broker.wait_until(lambda: "Reattest" in broker.calls and len(broker.instances["A-1"].statements) == 2, 20)
    kinds = {item.kind for item in broker.instances["A-1"].statements[1].units}
    process.terminate()
    process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGTERM
    assert ev.UNIT_KIND_SHARED_OBJECT in kinds


@pytest.mark.parametrize(
    ("output", "command"),
    [
        ("env", 'test -z "$LOCKSTEP_CREDENTIAL_FILE" && echo "$LOCKSTEP_PASSWORD"'),
        ("fd", 'cat <&"$LOCKSTEP_CREDENTIAL_FD"'),
        ("file:mine", 'cat mine && test "$LOCKSTEP_CREDENTIAL_FILE" = "$PWD/mine"'),
    ],
)
def test_ways_to_hand_over(broker: FakeBroker, run: Run, tmp_path: Path, output: str, command: str) -> None:
    arguments = ["--role", "db", "--output", output, "--", "bash", "-c", command]
    out, err = (process := run(*arguments)).communicate(timeout=40)
    assert process.returncode == 0, err
    assert "canary-" in out
    assert not (tmp_path / "mine").exists()


def test_revoked_ends_the_program_with_77(broker: FakeBroker, run: Run, tmp_path: Path) -> None:
    program = app(tmp_path, READ + "import threading; threading.Event().wait(60)\n")
    process = run("--role", "db-token", "--", sys.executable, program)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("canary-")
    broker.wait_until(lambda: broker.watched != [])
    broker.revoke(revocation_pb2.Selector(attestation_id="A-1"), reason="memfd")
    _, err = process.communicate(timeout=20)
    assert process.returncode == 77
    assert "revoked: memfd, lockstep explain D-9" in err


SIT = (
    "import sys, os\n"
    "path = os.environ['LOCKSTEP_CREDENTIAL_FILE']\n"
    "print(len(open(path).read()), os.getpid(), path, flush=True)\n"
    "for _ in sys.stdin: print(os.path.exists(path), flush=True)\n"
)


def test_silence_takes_the_file_away_and_a_voice_brings_it_back(
    broker: FakeBroker, run: Run, tmp_path: Path
) -> None:
    broker.policy.grace = 0.5
    process = run("--role", "a-token", "--", sys.executable, app(tmp_path, SIT))
    assert process.stdin is not None
    assert process.stdout is not None
    path = Path(process.stdout.readline().split()[2])
    broker.stop()
    becomes(lambda: not path.exists())
    process.stdin.write("?\n")
    process.stdin.flush()
    assert process.stdout.readline() == "False\n"
    broker.policy.grace = 30.0
    broker.start()
    becomes(path.exists)
    out, err = process.communicate("?\n", timeout=20)
    assert process.returncode == 0, err
    assert out == "True\n"


def test_a_role_that_ends_in_silence_ends_the_program_and_not_the_launcher_alone(
    broker: FakeBroker, run: Run, tmp_path: Path
) -> None:
    broker.policy.grace, broker.policy.then = 0.5, "exit"
    process = run("--role", "a-token", "--", sys.executable, app(tmp_path, SIT))
    assert process.stdout is not None
    _, pid, path = process.stdout.readline().split()
    broker.stop()
    assert process.wait(20) == 75
    _, err = process.communicate(timeout=20)
    assert "the role says to end" in err
    assert not Path(path).exists()
    assert not Path("/proc", pid).exists()


def test_revoked_can_be_a_signal_and_a_command(broker: FakeBroker, run: Run, tmp_path: Path) -> None:
    text = (
        "import signal, sys, threading, os\n"
        "def told(*_):\n"
        "    print('told', os.path.exists(os.environ['LOCKSTEP_CREDENTIAL_FILE']), flush=True)\n"
        "    sys.exit(5)\n"
        "signal.signal(signal.SIGUSR1, told)\n" + READ + "while True: signal.pause()\n"
    )
    process = run(
        "--role", "a-token", "--on-revoked", "signal:USR1", "--", sys.executable, app(tmp_path, text)
    )
    assert process.stdout is not None
    process.stdout.readline()
    broker.wait_until(lambda: broker.watched != [])
    broker.revoke(revocation_pb2.Selector(attestation_id="A-1"))
    out, _ = process.communicate(timeout=20)
    assert (process.returncode, out) == (5, "told False\n")


def test_a_module_that_comes_later_is_reported_at_once(broker: FakeBroker, run: Run, tmp_path: Path) -> None:
    app(tmp_path, "X = 1\n", "comes_later.py")
    text = READ + "import sys\nsys.stdin.readline()\nimport comes_later\nsys.stdin.readline()\n"
    process = run("--role", "db-token", "--", sys.executable, app(tmp_path, text))
    assert process.stdout is not None
    assert process.stdin is not None
    process.stdout.readline()
    assert broker.reports == []
    process.stdin.write("\n")
    process.stdin.flush()
    broker.wait_until(
        lambda: any(item.object.digest == sha(tmp_path / "comes_later.py") for item in broker.reports)
    )
    _, err = process.communicate("\n", timeout=20)
    assert process.returncode == 0
    assert "reported  comes_later" in err


FORGED = "x\nlockstep: would be approved for db\x1b[2K\u202e\x9b\ud800"


def test_no_name_of_the_program_s_writes_a_line_of_the_launcher_s(
    broker: FakeBroker, run: Run, tmp_path: Path
) -> None:
    maker = (
        f"names = {{'__name__': {FORGED!r}}}\n"
        "exec(compile('def make(): exec(\"y = 2\")', '<text>', 'exec'), names)\n"
    )
    text = "import sys\n" + maker + READ + "names['make']()\nsys.stdin.readline()\n"
    process = run("--role", "db-token", "--", sys.executable, app(tmp_path, text))
    broker.wait_until(lambda: broker.reports != [], 20)
    _, err = process.communicate("\n", timeout=30)
    assert process.returncode == 0, err
    assert "reported  x\\nlockstep: would be approved for db\\x1b[2K\\u202e\\x9b\\ud800.make:1" in err
    assert all(char.isprintable() for char in err.replace("\n", ""))


def test_what_the_sdk_logs_is_lines_of_the_launcher_s_too(capsys: pytest.CaptureFixture[str]) -> None:
    lines = _Lines(logging.WARNING)
    log = logging.getLogger("lockstep-lines")
    log.addHandler(lines)
    try:
        raise OSError(FORGED)
    except OSError:
        log.exception("it failed: %s", FORGED)
    finally:
        log.removeHandler(lines)
    err = capsys.readouterr().err.splitlines()
    assert err[0] == "lockstep: it failed: x\\nlockstep: would be approved for db\\x1b[2K\\u202e\\x9b\\ud800"
    assert err[1] == "lockstep:   Traceback (most recent call last):"
    assert all(line.startswith("lockstep:   ") and line.isprintable() for line in err[1:])


def test_rotation_replaces_the_file_and_signals(broker: FakeBroker, run: Run, tmp_path: Path) -> None:
    broker.policy.lease_ttl = broker.policy.attestation_ttl = 3.0
    text = (
        "import signal, os\n"
        "def look(*_):\n"
        "    print(open(os.environ['LOCKSTEP_CREDENTIAL_FILE']).read(), flush=True)\n"
        "signal.signal(signal.SIGHUP, look)\n"
        "look()\n"
        "while True: signal.pause()\n"
    )
    process = run(
        "--role", "a-token", "--on-rotated", "signal:HUP", "--", sys.executable, app(tmp_path, text)
    )
    assert process.stdout is not None
    first, second = process.stdout.readline(), process.stdout.readline()
    process.terminate()
    process.communicate(timeout=20)
    assert first.startswith("canary-")
    assert second.startswith("canary-")
    assert first != second


def test_a_restart_after_a_rotation_is_another_instance(broker: FakeBroker, run: Run, tmp_path: Path) -> None:
    broker.policy.lease_ttl = broker.policy.attestation_ttl = 3.0
    text = READ + "import os, threading; print(os.getpid(), flush=True); threading.Event().wait(60)\n"
    program = app(tmp_path, text)
    process = run("--role", "a-token", "--on-rotated", "restart", "--", sys.executable, program)
    assert process.stdout is not None
    said = [process.stdout.readline() for _ in range(4)]
    process.terminate()
    process.communicate(timeout=20)
    assert said[0] != said[2]
    pids = [int(said[1]), int(said[3])]
    assert [broker.instances[f"A-{n}"].statements[0].subject.pid for n in (1, 2)] == pids


def test_before_there_is_a_process_none_is_named(broker: FakeBroker, run: Run) -> None:
    process = run("--role", "a-token", "--", "sleep", "60")
    broker.wait_until(lambda: "Reattest" in broker.calls)
    first, second = (item.subject for item in broker.instances["A-1"].statements[:2])
    process.terminate()
    process.communicate(timeout=20)
    assert (first.pid, first.start_ticks) == (0, 0)
    assert second.pid not in (0, process.pid)
    assert (first.node, first.boot_id) == (second.node, second.boot_id)


def test_signals_reach_the_program(broker: FakeBroker, run: Run, tmp_path: Path) -> None:
    text = (
        "import signal, sys\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))\n" + READ + "while True: signal.pause()\n"
    )
    process = run("--role", "db-token", "--", sys.executable, app(tmp_path, text))
    assert process.stdout is not None
    process.stdout.readline()
    process.terminate()
    process.communicate(timeout=20)
    assert process.returncode == 9


def test_denied_is_78_and_unavailable_75(broker: FakeBroker, run: Run, tmp_path: Path) -> None:
    def deny(method: str) -> None:
        if method == "Attest":
            raise denied("appraisal_failed", "D-4", 23)

    def away(method: str) -> None:
        raise unavailable()

    program = app(tmp_path, READ)
    broker.policy.gate = deny
    out, err = (process := run("--role", "db", "--", sys.executable, program)).communicate(timeout=40)
    assert (process.returncode, out) == (78, "")
    assert "lockstep manifest approve --from D-4" in err
    broker.policy.gate = away
    process = run("--role", "db", "--wait", "0", "--", sys.executable, program)
    out, err = process.communicate(timeout=40)
    assert (process.returncode, out) == (75, ""), err


def test_check_asks_and_grants_nothing(broker: FakeBroker, run: Run, tmp_path: Path) -> None:
    program = app(tmp_path, READ)
    for status, code, said in (
        (attestation_pb2.ATTESTATION_STATUS_AFFIRMING, 0, "would be approved"),
        (attestation_pb2.ATTESTATION_STATUS_CONTRAINDICATED, 78, "would be refused: 3 units"),
    ):
        broker.policy.status = status
        process = run("--check", "--role", "db", "--", sys.executable, program)
        out, err = process.communicate(timeout=40)
        assert (process.returncode, out) == (code, ""), err
        assert said in err
    assert broker.instances == {}
    assert "IssueCredential" not in broker.calls


def test_what_was_hashed_is_what_runs(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(Path("/bin/true").read_bytes())
    program.chmod(0o755)
    plan = resolve([str(program)], {})
    os.replace(_copy("/bin/false", tmp_path / "other"), program)
    codes: list[int] = []
    child = Child(plan.program, plan.arguments, {}, codes.append)
    child._over.wait(10)
    plan.close()
    assert plan.program.digest == sha("/bin/true")
    assert child._process.wait(10) == 0


def _copy(source: str, target: Path) -> Path:
    target.write_bytes(Path(source).read_bytes())
    target.chmod(0o755)
    return target


def test_reactions() -> None:
    assert when_rotated("signal:hup").signal is signal.SIGHUP
    assert when_rotated("command:echo 'a b'").command == ("echo", "a b")
    assert when_revoked("exit").act is Act.EXIT
    for wrong in ("signal:NONE", "signal", "command:", "sometimes", "exit:now", ""):
        with pytest.raises(ConfigurationError, match="--on-revoked"):
            when_revoked(wrong)


@pytest.mark.parametrize("options", [("--on-rotated", "exit"), ("--wait", "-3")], ids=["exit", "negative"])
def test_options_that_mean_nothing_are_refused(
    broker: FakeBroker, run: Run, tmp_path: Path, options: tuple[str, str]
) -> None:
    process = run("--role", "a-token", *options, "--", sys.executable, app(tmp_path, READ))
    out, err = process.communicate(timeout=40)
    assert (process.returncode, out) == (2, ""), err
    assert options[0] in err
    assert broker.calls == []


@pytest.mark.parametrize(
    ("how", "code", "said"),
    [("nothing", 0, "went on\n"), ("command:touch told", 77, "")],
    ids=["nothing", "command"],
)
def test_what_else_may_happen_when_it_is_revoked(
    broker: FakeBroker, run: Run, tmp_path: Path, how: str, code: int, said: str
) -> None:
    text = READ + "import sys\nsys.stdin.readline()\nprint('went on', flush=True)\n"
    process = run("--role", "a-token", "--on-revoked", how, "--", sys.executable, app(tmp_path, text))
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    broker.wait_until(lambda: broker.watched != [])
    broker.revoke(revocation_pb2.Selector(attestation_id="A-1"))
    while "revoked:" not in process.stderr.readline():
        pass
    if how == "nothing":
        out, err = process.communicate("\n", timeout=20)
    else:
        process.wait(20)  # its standard input is still open: it did not end by itself
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (code, said), err
    assert (tmp_path / "told").exists() == (how != "nothing")


def test_no_such_program(run: Run) -> None:
    _, err = (process := run("--role", "db", "--", "no-such-program-here")).communicate(timeout=20)
    assert process.returncode == 2
    assert "no-such-program-here" in err
