"""The guard of a real process and what reaches the broker of it, whatever its code is called."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lockstep_client.settings import Settings
from tests.fakes.broker import FakeBroker

ROOT = Path(__file__).resolve().parents[4]
BEGIN = "import importlib.util, os, sys\nimport lockstep_client\nls = lockstep_client.connect()\n"
END = "\nsys.stdin.read()\nls.close()\n"

BY_PATH = (
    "spec = importlib.util.spec_from_file_location('plug', os.fsdecode(b'plugin_\\xff.py'))\n"
    "module = importlib.util.module_from_spec(spec)\n"
    "sys.modules['plug'] = module\n"
    "spec.loader.exec_module(module)\n"
)


@pytest.mark.parametrize(
    "act",
    [
        "exec(compile(text, os.fsdecode(b'plugin_\\xff.py'), 'exec'))",
        "exec(compile(text, 'x' * 200_000, 'exec'))",
        "exec(compile(text, chr(0xd800), 'exec'))",
        BY_PATH,
    ],
    ids=["a name that is not UTF-8", "an over-long name", "half a character", "an import by such a name"],
)
def test_code_of_any_name_is_told_and_so_is_what_comes_after_it(
    broker: FakeBroker, settings: Settings, tmp_path: Path, act: str
) -> None:
    text, after = "odd = 1 + 41\n", "after = 2 + 41\n"
    with open(os.path.join(os.fsencode(tmp_path), b"plugin_\xff.py"), "w") as file:
        file.write(text)
    script = tmp_path / "program.py"
    script.write_text(f"{BEGIN}text = {text!r}\n{act}\nexec({after!r}){END}")
    process = subprocess.Popen(
        [sys.executable, str(script)],
        env={**os.environ, **settings.environment(), "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wanted = {hashlib.sha256(item.encode()).digest() for item in (text, after)}
    broker.wait_until(lambda: wanted <= {report.object.digest for report in broker.reports}, 30)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert broker.lost == 0
