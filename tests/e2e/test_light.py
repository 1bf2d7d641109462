"""The SDK installs light: with only what it requires itself, it attests, and its command says what it lacks."""

from __future__ import annotations

import pkgutil
import re
import subprocess
import sys
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest

import lockstep_client
from tests.support.actors import clean_environment
from tests.support.brokers import Broker

ROOT = Path(__file__).parents[2]
WITH_EXTRAS = (
    "lockstep_client.cli",
    "lockstep_client.__main__",
    "lockstep_client.manifest.signing",
    "lockstep_client.manifest.index",
    "lockstep_client.testing.plugin",
)
ATTESTS = """
import lockstep_client
with lockstep_client.connect(wait=10, guard="off") as lockstep:
    assert lockstep.credential("dev").token.reveal()
print("attested")
"""


def required(name: str, seen: dict[str, Distribution]) -> None:
    """A distribution and whatever it requires without being asked for an extra."""
    if name in seen:
        return
    found = seen[name] = distribution(name)
    for line in found.requires or ():
        requirement, _, marker = line.partition(";")
        if "extra ==" not in marker and "platform_python_implementation" not in marker:
            required(re.split(r"[\s\[<>=!~(]", requirement.strip(), maxsplit=1)[0], seen)


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the modules of those distributions, and of no other."""
    folder = tmp_path_factory.mktemp("light")
    found: dict[str, Distribution] = {}
    required("lockstep-client", found)
    for name in ("lockstep-client", "lockstep-protos"):
        del found[name]
    required("cffi", found)  # of cryptography, except on PyPy
    for item in found.values():
        for file in item.files or ():
            top = file.parts[0]
            if not top.endswith((".dist-info", "..")) and not (folder / top).exists():
                (folder / top).symlink_to(Path(str(item.locate_file(top))))
    return folder


def run(light: Path, code: str, **env: str) -> subprocess.CompletedProcess[str]:
    paths = [str(light), str(ROOT / "protos"), str(ROOT / "clients/python")]
    begin = f"import sys; sys.path[:0] = {paths!r}\n"
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", begin + code],
        env=clean_environment(env),
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )


def test_everything_but_the_command_is_imported(light: Path) -> None:
    names = [
        module.name
        for module in pkgutil.walk_packages(lockstep_client.__path__, "lockstep_client.")
        if not module.name.startswith(WITH_EXTRAS)
    ]
    assert "lockstep_client.verify.verifier" in names
    done = run(light, f"import importlib\nfor name in {names!r}:\n    importlib.import_module(name)\n")
    assert done.returncode == 0, done.stderr


def test_it_attests(light: Path, broker: Broker) -> None:
    done = run(light, ATTESTS, **broker.env())
    assert done.stdout == "attested\n", done.stderr


def test_the_command_says_what_it_lacks(light: Path) -> None:
    done = run(
        light,
        "import runpy; sys.argv = ['lockstep']; runpy.run_module('lockstep_client', run_name='__main__')",
    )
    assert done.returncode != 0
    assert "lockstep-client[cli]" in done.stderr
    assert "Traceback" not in done.stderr
