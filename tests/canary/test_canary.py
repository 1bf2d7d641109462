"""A secret that is left behind anywhere fails the run that left it."""

from __future__ import annotations

import base64
import re
import subprocess
import sys
from pathlib import Path

from tests.support import canaries
from tests.support.actors import clean_environment

ROOT = Path(__file__).parents[2]

LEAKS = {
    "wal": "(tmp_path / 'state.db-wal').write_bytes(b'\\x00\\x01' + secret.encode() + b'\\xff')",
    "core": "(tmp_path / 'core.1').write_bytes(bytes(5_000_000) + secret.encode() + bytes(9))",
    "base64": "(tmp_path / 'export').write_bytes(base64.b64encode(b'x' + secret.encode() + b'y'))",
    "hex": "(tmp_path / 'dump').write_text(secret.encode().hex())",
    "stdout": "print('issued', secret)",
    "stderr": "print(secret, file=sys.stderr)",
    "record": "logging.getLogger('x').warning('issued %s', secret)",
    "property": "record_property('password', secret)",
    "log": "canaries.watch('the log of a broker', ['{}\\n', secret + '\\n'])",
    "error": "raise ValueError('no role for ' + secret)",
}
HARMLESS = {
    "nothing": "(tmp_path / 'state.db').write_bytes(b'nothing'); print('issued')",
    "home": "(tmp_path / 'server.key').write_text(secret)",
}


def run(folder: Path, bodies: dict[str, str]) -> tuple[int, str]:
    """A run of its own: each body is a test, with a secret that it was handed."""
    lines = ["import base64, logging, secrets, sys", "from tests.support import canaries"]
    for name, body in bodies.items():
        lines += [
            f"def test_{name}(tmp_path, record_property):",
            "    secret = secrets.token_urlsafe(24)",
            f"    canaries.keep(secret, 'the secret of {name}')",
            f"    {body}",
        ]
    (folder / "test_planted.py").write_text("\n".join(lines))
    done = subprocess.run(
        [
            *(
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-p",
                "tests.support.canary_plugin",
                "-p",
                "no:cacheprovider",
            ),
            *("-c", "/dev/null", "--rootdir", str(folder), "--show-capture=no", "--tb=no"),
            *("--basetemp", str(folder / "files"), "--junitxml", str(folder / "junit.xml")),
            str(folder / "test_planted.py"),
        ],
        cwd=ROOT,
        env=clean_environment({"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "LOCKSTEP_TEST_CANARY": "1"}),
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_a_planted_leak_fails_the_run(tmp_path: Path) -> None:
    code, said = run(tmp_path, LEAKS | HARMLESS)
    assert code == 1, said
    found = set(re.findall(r"^the secret of (\w+): in ", said, re.MULTILINE))
    assert found == set(LEAKS), said
    # A test that only leaks is a test that passes: it is the search that fails the run.
    code, said = run(tmp_path, {"wal": LEAKS["wal"]})
    assert (code, "1 passed" in said) == (1, True), said
    assert re.search(r"^the secret of wal: in .*state\.db-wal$", said, re.MULTILINE)


def test_a_run_that_leaks_nothing_is_good(tmp_path: Path) -> None:
    code, said = run(tmp_path, HARMLESS)
    assert code == 0, said


def test_every_spelling_is_found_wherever_it_begins(tmp_path: Path) -> None:
    secret = b'p\xc3\xa4ss/word+"of"-many=characters'
    wanted = dict.fromkeys(canaries.spellings(secret), "it")
    file, scratch = tmp_path / "texts" / "here", tmp_path / "scratch"
    file.parent.mkdir()
    scratch.mkdir()
    for before in (b"", b"a", b"ab", b"abc"):
        for after in (b"", b"z", b"zy"):
            text = base64.b64encode(before + secret + after).decode()
            file.write_text(text)
            assert canaries.in_files([file.parent], wanted, scratch) == [f"it: in {file}"], (before, after)
    file.write_text("nothing of it")
    assert canaries.in_files([file.parent], wanted, scratch) == []
