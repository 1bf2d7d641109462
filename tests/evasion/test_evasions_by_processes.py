"""Ways to run unapproved code in a process that approved code starts; the hook sees the start, not what runs there.

What is a known miss is asserted as a miss, so that the claim stays honest.
"""

import shutil
from pathlib import Path

import pytest

from tests.evasion.conftest import Range, Result, digest

BEFORE = "import os, pty, shutil, subprocess, tempfile, time\n"


@pytest.fixture
def elsewhere(scene: Range) -> Path:
    """A folder that is neither the process's own nor on its path, with code in every form."""
    folder = scene.folder / "elsewhere"
    folder.mkdir()
    shutil.copy("/bin/touch", folder / "evilprog")
    with (folder / "evilprog").open("ab") as file:
        file.write(b"evil")
    (folder / "evil.py").write_text("evil = 1\n")
    return folder


def run(scene: Range, act: str) -> Result:
    """`act` with `there` as the folder's name, and `quiet` for the child's output."""
    return scene.run(f"there = 'elsewhere'\nquiet = {{'capture_output': True}}\n{act}", before=BEFORE)


PROGRAMS = [
    "subprocess.run(['./evilprog'], cwd=there)",
    "subprocess.run([b'./evilprog'], cwd=os.fsencode(there))",
    "subprocess.run(['evilprog'], env={'PATH': os.path.abspath(there)})",
    "subprocess.run(['evilprog'], env={b'PATH': b'elsewhere'})",
    "subprocess.run(['x'], executable='./evilprog', cwd=there)",
    "subprocess.run(['env', '-C', there, './evilprog'])",
    "subprocess.run(['env', 'PATH=elsewhere', 'evilprog'])",
    "os.chdir(there)\nos.waitpid(os.posix_spawn('evilprog', ['x'], {}), 0)",
    "os.environ['PATH'] = there\nos.waitpid(os.posix_spawnp('evilprog', ['x'], {'PATH': '/bin'}), 0)",
    "pty.spawn([os.path.join(there, 'evilprog')])",
]


@pytest.mark.parametrize("act", PROGRAMS)
def test_a_program_is_found_where_the_child_finds_it(scene: Range, elsewhere: Path, act: str) -> None:
    found = run(scene, act)
    assert ("exec", digest((elsewhere / "evilprog").read_bytes())) in {item[:2] for item in found.told}


@pytest.mark.parametrize(
    ("act", "kind"),
    [
        ("subprocess.run([sys.executable, 'evil.py'], cwd=there)", "script"),
        ("subprocess.run([sys.executable, '-m', 'evil'], cwd=there)", "module"),
        ("subprocess.run([sys.executable, '-mevil'], env={'PYTHONPATH': there})", "module"),
        ("subprocess.run(['sh', 'evil.py'], cwd=there, **quiet)", "script"),
    ],
)
def test_a_file_is_found_where_the_child_finds_it(scene: Range, elsewhere: Path, act: str, kind: str) -> None:
    found = run(scene, act)
    assert (kind, digest((elsewhere / "evil.py").read_bytes())) in {item[:2] for item in found.told}


@pytest.mark.parametrize(
    "act",
    [
        "subprocess.run([sys.executable, '-cevil = 1'])",
        "subprocess.run([sys.executable, '-Icevil = 1'])",
        "subprocess.run(['env', sys.executable, '-c', 'evil = 1'])",
        "subprocess.run(['/bin/sh', '-euc', 'evil = 1'], **quiet)",
        "subprocess.run('evil = 1', shell=True, **quiet)",
        "os.system('evil = 1')",
        "os.popen('evil = 1').close()",
    ],
)
def test_text_on_a_command_line(scene: Range, elsewhere: Path, act: str) -> None:
    assert ("generated_code", digest("evil = 1")) in {item[:2] for item in run(scene, act).told}


@pytest.mark.parametrize(
    ("act", "said"),
    [
        ("subprocess.run([sys.executable, '-'], input=b'evil = 1')", "python reads its input"),
        ("subprocess.run([sys.executable], input=b'evil = 1')", "python reads its input"),
        ("subprocess.run(['sh', '-s'], input=b'true')", "sh reads its input"),
        ("subprocess.run([sys.executable, '-m', 'no_such'], **quiet)", "python -m no_such"),
    ],
)
def test_what_nobody_can_read_is_told_without_a_digest(
    scene: Range, elsewhere: Path, act: str, said: str
) -> None:
    assert [item[1] for item in run(scene, act).told if item[3].startswith(said)] == [""]


def test_a_program_that_may_be_run_and_not_read_is_told_without_a_digest(scene: Range) -> None:
    """Root reads everything: it becomes somebody else first."""
    found = scene.run(
        "place = tempfile.mkdtemp(dir='/tmp')\nos.chmod(place, 0o755)\n"
        "secret = shutil.copy('/bin/true', os.path.join(place, 'secret'))\nos.chmod(secret, 0o111)\n"
        "if os.geteuid() == 0: os.seteuid(65534)\n"
        "assert subprocess.run([secret], cwd='/').returncode == 0\n"
        "if os.getuid() == 0: os.seteuid(0)\n"
        "shutil.rmtree(place)",
        before=BEFORE + "shutil.rmtree\n",
    )
    assert [(item[0], item[1]) for item in found.told if item[3] == "secret"] == [("exec", "")]


@pytest.mark.parametrize(
    ("act", "kind"),
    [
        ("subprocess.run(['sh', '-c', 'true'])", "generated_code"),
        ("subprocess.run([sys.executable, 'fetched.py'])", "script"),
        ("subprocess.run(['./dropped'])", "exec"),
        ("os.posix_spawn('./dropped', ['dropped'], {})", "exec"),
        ("subprocess.run(['true'], env={'PATH': '/bin', 'LD_PRELOAD': './dropped'}, **quiet)", "library"),
    ],
    ids=[
        "61 shell text",
        "63 fetched script",
        "dropped program",
        "posix_spawn",
        "a library put before others",
    ],
)
def test_processes(scene: Range, act: str, kind: str) -> None:
    scene.write("fetched.py", "x = 1\n")
    scene.write("dropped", "#!/bin/sh\n").chmod(0o755)
    assert kind in run(scene, act).kinds


@pytest.mark.parametrize(
    "act",
    [
        "subprocess.run(['no-such-program'])",
        "subprocess.run(['/no/such/program'])",
        "os.execvp('no-such', ['x'])",
    ],
)
def test_what_is_not_there_is_no_news(scene: Range, act: str) -> None:
    found = run(scene, f"try:\n    {act}\nexcept FileNotFoundError:\n    pass")
    assert "exec" not in found.kinds


MISSES = {
    "the exec is in the child": "os.spawnv(os.P_WAIT, './elsewhere/evilprog', ['x', ran])",
    "a change of folder that no event tells": (
        "subprocess.run(['./evilprog', ran], preexec_fn=lambda: os.chdir('elsewhere'))"
    ),
    "a program that starts another": "subprocess.run(['timeout', '9', './elsewhere/evilprog', ran])",
    "a file that an approved text names": "subprocess.run(['sh', '-c', '. ./elsewhere/evil.sh'])",
    "an interpreter under another name": (
        "os.symlink(sys.executable, 'calculator')\n"
        "subprocess.run(['./calculator', '-c', text], executable=other_name())"
    ),
    "what a file that is approved imports": "subprocess.run([sys.executable, 'elsewhere/known.py'])",
    "a variable that an interpreter obeys": (
        "subprocess.run(['bash', 'known.sh'], env={'PATH': '/bin', 'BASH_ENV': './elsewhere/evil.sh'})"
    ),
    "a module that every Python on its path imports": (
        "subprocess.run([sys.executable, 'known.py'], env={**os.environ, 'PYTHONPATH': there})"
    ),
}
APPROVE = """
from hashlib import sha256
for path in ("known.py", "known.sh", "elsewhere/known.py", *(shutil.which(name) for name in ("sh", "bash", "timeout"))):
    approved.add([sha256(open(path, "rb").read()).digest()])
approved.add([sha256(b". ./elsewhere/evil.sh").digest()])
ran, text = os.path.abspath("ran"), "open('ran', 'w')"
def other_name():
    # A copy has the digest of what was approved, and a name that nobody takes for an interpreter's.
    return shutil.copy(os.path.realpath(sys.executable), os.path.abspath("calculator.copy"))
"""


@pytest.mark.parametrize("act", MISSES.values(), ids=list(MISSES))
def test_known_misses(scene: Range, elsewhere: Path, act: str) -> None:
    """What runs in the child is out of the parent's hook's sight: a detector outside sees it."""
    (elsewhere / "evil.sh").write_text("touch ran\n")
    (elsewhere / "evil.py").write_text("open('ran', 'w')\n")
    (elsewhere / "sitecustomize.py").write_text("open('ran', 'w')\n")
    (elsewhere / "known.py").write_text("import evil\n")
    scene.write("known.py", "x = 1\n")
    scene.write("known.sh", "true\n")

    found = run(scene, APPROVE + act)

    assert (scene.folder / "ran").exists(), found.output
    assert found.told == []
