"""What programs are linked to outside their environment, with a real compiler's files and the real loader."""

import shutil
import subprocess
from pathlib import Path

import pytest

from lockstep_client.manifest.native import linkage, outside_libraries

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")


def library(path: Path, *arguments: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    command = ["cc", "-shared", "-fPIC", "-x", "c", "/dev/null", "-x", "none", "-o", str(path)]
    subprocess.run([*command, "-Wl,--no-as-needed", *arguments], check=True, capture_output=True)
    return str(path)


def loader() -> str:
    shell = linkage(str(Path("/bin/sh").resolve()))
    assert shell.loader
    return shell.loader


def test_a_bundled_library_does_not_hide_the_one_of_the_system(tmp_path: Path) -> None:
    system = library(tmp_path / "system" / "libsame.so.1", "-Wl,-soname,libsame.so.1")
    bundled = library(tmp_path / "env" / "wheel" / "libsame.so.1", "-Wl,-soname,libsame.so.1")
    inside = library(tmp_path / "env" / "wheel" / "a.so", bundled, "-Wl,-rpath,$ORIGIN")
    outside = library(tmp_path / "env" / "b.so", system, f"-Wl,-rpath,{tmp_path / 'system'}")

    found = outside_libraries(loader(), [bundled, inside, outside])

    assert system in found
    assert bundled not in found


def test_what_it_asks_for_and_where_it_looks_is_read(tmp_path: Path) -> None:
    other = library(tmp_path / "libother.so.1", "-Wl,-soname,libother.so.1")
    found = linkage(library(tmp_path / "a.so", other, "-Wl,-rpath,$ORIGIN/lib"))
    assert "libother.so.1" in found.needed
    assert found.search == "$ORIGIN/lib"
