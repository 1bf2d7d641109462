"""Parsers stand what is sent to them: every kept input again, and a short guided search from there."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.fuzz.corpus import CORPUS, kept
from tests.fuzz.targets import MOST, TARGETS, seeds
from tests.support.actors import clean_environment

ROOT = Path(__file__).parents[2]
RUNS = 200

guided = pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris has no wheel here")


@pytest.mark.parametrize("target", TARGETS)
def test_every_kept_input_is_stood(target: str) -> None:
    inputs = [path.read_bytes() for path in kept(target)]
    assert inputs, f"no corpus for {target}: python -m tests.fuzz.corpus"
    for data in [b"", b"\x00", b"\x01", *inputs, *seeds()[target]]:
        began = time.process_time()
        TARGETS[target](data)
        assert time.process_time() - began < 1.0


@guided
@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("target", TARGETS)
def test_a_short_search_finds_nothing(target: str, tmp_path: Path) -> None:
    code, said = search(target, tmp_path)
    assert code == 0, said[-3000:]


@guided
def test_a_search_finds_what_is_planted(tmp_path: Path) -> None:
    """An error that is not documented, behind a comparison that only one who sees coverage gets through."""
    (tmp_path / "planted.py").write_text(
        "import sys, atheris\n"
        "@atheris.instrument_func\n"
        "def target(data):\n"
        "    if data[:1] == b'f' and data[1:2] == b'z':\n"
        "        raise KeyError('escaped')\n"
        "atheris.Setup(sys.argv, target)\n"
        "atheris.Fuzz()\n"
    )
    done = subprocess.run(
        [sys.executable, "planted.py", "-runs=200000", "-seed=1", "-max_len=8", "-artifact_prefix=./"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode != 0
    assert "KeyError" in done.stdout + done.stderr


def test_the_corpus_is_small_and_says_nothing_twice() -> None:
    files = [path for path in CORPUS.rglob("*") if path.is_file()]
    assert {path.parent.name for path in files} == set(TARGETS)
    assert len({(path.parent.name, path.read_bytes()) for path in files}) == len(files)
    assert sum(path.stat().st_size for path in files) < 512 * 1024
    assert all(path.stat().st_size <= MOST for path in files)


def search(target: str, folder: Path) -> tuple[int, str]:
    """(exit status, what was said) of a search with a fixed seed, from a copy of the kept inputs."""
    shutil.copytree(CORPUS / target, folder / "corpus")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.fuzz", target, f"-runs={RUNS}", "-seed=1", f"-max_len={MOST}"),
            *("-timeout=5", "-rss_limit_mb=1024", f"-artifact_prefix={folder}/", str(folder / "corpus")),
        ],
        cwd=ROOT,
        env=clean_environment({}),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr
