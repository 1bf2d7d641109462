"""Which bytes ran: measured by real interpreters of real files."""

import os
import py_compile
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Digest = Callable[..., str]

APP = "import tell, subject\ntell.tell()\n"


@pytest.fixture
def compiler(lab: Any) -> str:
    """A C compiler, to make a library that nobody approved."""
    for name in ("cc", "gcc", "clang"):
        if subprocess.run(["sh", "-c", f"command -v {name}"], capture_output=True).returncode == 0:
            return name
    pytest.skip("no C compiler here")


def compiled(path: Path) -> Path:
    return Path(py_compile.compile(str(path), doraise=True))


def test_bytecode_older_than_the_process_is_what_ran(lab: Any, digest: Digest) -> None:
    lab.write("app.py", APP)
    cached = compiled(lab.write("subject.py", "x = 1\n"))
    lab.age(cached)
    told = lab.run("app.py")
    assert ("python_bytecode", digest(cached, 16)) in told.units
    assert told.kinds_of("subject") <= {"python_bytecode", "python_source"}


def test_bytecode_written_by_this_very_process_is_said_with_its_source(lab: Any, digest: Digest) -> None:
    lab.write("app.py", APP)
    source = lab.write("subject.py", "x = 1\n")
    told = lab.run("app.py")
    [cached] = (lab.folder / "__pycache__").glob("subject.*")
    assert ("python_source", digest(source)) in told.units
    assert ("python_bytecode", digest(cached, 16)) in told.units
    assert "subject" not in told.unknown


def test_without_bytecode_the_source_ran(lab: Any, digest: Digest) -> None:
    lab.write("app.py", APP)
    source = lab.write("subject.py", "x = 1\n")
    told = lab.run("app.py", env={"PYTHONDONTWRITEBYTECODE": "1"})
    assert ("python_source", digest(source)) in told.units
    assert told.kinds_of("subject") == {"python_source"}


def test_stale_bytecode_did_not_run(lab: Any, digest: Digest) -> None:
    lab.write("app.py", APP)
    cached = compiled(lab.write("subject.py", "x = 1\n"))
    lab.age(cached)
    source = lab.write("subject.py", "x = 2\n", age=50)
    told = lab.run("-B", "app.py")
    assert ("python_source", digest(source)) in told.units


def test_unchecked_bytecode_ran_whatever_the_source_says(lab: Any, digest: Digest) -> None:
    lab.write("app.py", APP)
    source = lab.write("subject.py", "print('evil')\n")
    cached = Path(
        py_compile.compile(str(source), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    )
    lab.write("subject.py", "print('good')\n")
    told = lab.run("app.py")
    assert "evil" in told.output
    assert ("python_bytecode", digest(cached, 16)) in told.units


def test_bytecode_under_a_cache_prefix_is_what_ran(lab: Any, digest: Digest) -> None:
    lab.write("app.py", APP)
    source = lab.write("subject.py", "x = 1\n")
    prefix = lab.folder / "elsewhere"
    first = lab.run("app.py", env={"PYTHONPYCACHEPREFIX": str(prefix)})
    del first
    [cached] = prefix.rglob("subject.*.pyc")
    alien = lab.write("alien.py", "print('alien')\n")
    cached.write_bytes(cached.read_bytes()[:16] + compiled(alien).read_bytes()[16:])
    told = lab.run("app.py", env={"PYTHONPYCACHEPREFIX": str(prefix)})
    assert "alien" in told.output
    assert ("python_bytecode", digest(cached, 16)) in told.units
    assert digest(source) == digest(lab.folder / "subject.py")


def test_a_source_changed_after_the_start_is_not_vouched_for(lab: Any) -> None:
    lab.write("subject.py", "x = 1\n")
    lab.write(
        "app.py",
        "import tell, subject, time, pathlib\ntime.sleep(0.1)\n"
        "pathlib.Path('subject.py').write_text('x = 2')\ntell.tell()\n",
    )
    told = lab.run("-B", "app.py")
    assert "changed after the process started" in told.unknown["subject"]


def test_a_source_that_is_gone_is_said(lab: Any) -> None:
    lab.write("subject.py", "x = 1\n")
    lab.write("app.py", "import tell, subject, os\nos.unlink('subject.py')\ntell.tell()\n")
    told = lab.run("-B", "app.py")
    assert told.unknown["subject"] == "its source is gone"


def test_the_script_is_a_unit(lab: Any, digest: Digest) -> None:
    script = lab.write("app.py", "import tell\ntell.tell()\n")
    told = lab.run("app.py")
    assert ("script", digest(script)) in told.units
    assert told.unknown == {}


def test_a_module_run_by_name_is_measured_as_a_module(lab: Any, digest: Digest) -> None:
    source = lab.write("app.py", "import tell\ntell.tell()\n")
    told = lab.run("-B", "-m", "app")
    assert ("python_source", digest(source)) in told.units
    assert told.unknown == {}


@pytest.mark.parametrize(
    "arguments", [("-c", "import tell; tell.tell()"), ("-Bc", "import tell; tell.tell()")]
)
def test_text_on_the_command_line_is_unknown(lab: Any, arguments: tuple[str, ...]) -> None:
    told = lab.run(*arguments)
    assert list(told.unknown) == ["python -c"]


def test_text_from_standard_input_is_unknown(lab: Any) -> None:
    told = lab.run(text="import tell; tell.tell()\n")
    assert list(told.unknown) == ["python -"]


def test_a_module_made_by_exec_is_unknown_by_name(lab: Any) -> None:
    lab.write(
        "app.py",
        "import tell, sys, types\nmade = types.ModuleType('made')\nsys.modules['made'] = made\n"
        "exec('def f(): pass', made.__dict__)\ntell.tell()\n",
    )
    told = lab.run("app.py")
    assert list(told.unknown) == ["made"]


def test_a_forged_file_name_is_not_believed(lab: Any) -> None:
    lab.write(
        "app.py",
        "import tell, sys, types, json\nmade = types.ModuleType('made')\nmade.__file__ = json.__file__\n"
        "sys.modules['made'] = made\nexec(compile('x = 1', json.__file__, 'exec'), made.__dict__)\ntell.tell()\n",
    )
    told = lab.run("app.py")
    assert list(told.unknown) == ["made"]


def test_a_borrowed_spec_is_seen(lab: Any) -> None:
    lab.write(
        "app.py",
        "import tell, sys, types, json\nmade = types.ModuleType('made')\nmade.__spec__ = json.__spec__\n"
        "made.__file__ = json.__file__\nsys.modules['made'] = made\nexec('x = 1', made.__dict__)\ntell.tell()\n",
    )
    told = lab.run("app.py")
    assert "claims to be json" in told.unknown["made"]


def test_a_loader_of_its_own_is_unknown(lab: Any) -> None:
    lab.write(
        "app.py",
        "import tell, sys, importlib.abc, importlib.util\n"
        "class Mine(importlib.abc.InspectLoader):\n"
        "    def get_source(self, name): return 'x = 1'\n"
        "spec = importlib.util.spec_from_loader('mine', Mine())\n"
        "module = importlib.util.module_from_spec(spec)\nspec.loader.exec_module(module)\n"
        "sys.modules['mine'] = module\ntell.tell()\n",
    )
    told = lab.run("app.py")
    assert told.unknown == {"mine": "loaded by __main__.Mine"}


ALIASING = """
import tell, sys, importlib.abc, importlib.util, types, colorsys
class Aliases(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path, target=None):
        return importlib.util.spec_from_loader(name, self) if name in ("alias", "moves") else None
    def create_module(self, spec):
        return colorsys if spec.name == "alias" else types.ModuleType("moves")
    def exec_module(self, module): pass
sys.meta_path.insert(0, Aliases())
import alias, moves
assert colorsys.__spec__.name == "alias"
tell.tell()
"""


def test_a_module_under_another_name_is_still_its_file(lab: Any) -> None:
    """As six and setuptools do: the importer's name is written over the spec of a real module."""
    lab.write("app.py", ALIASING)
    told = lab.run("app.py")
    assert told.unknown == {}
    assert told.kinds_of("colorsys") | told.kinds_of("alias") <= {"python_bytecode", "python_source"}
    assert told.kinds_of("colorsys") | told.kinds_of("alias")


def test_a_module_that_puts_an_object_in_its_place_is_its_file(lab: Any) -> None:
    lab.write(
        "wrapped.py",
        "import sys, types\nclass Wrapper(types.ModuleType):\n    def __getattr__(self, name): return 1\n"
        "own = Wrapper('wrapped')\nown.__builtins__ = __builtins__\nsys.modules['wrapped'] = own\n",
    )
    lab.write("app.py", "import tell, wrapped\ntell.tell()\n")
    told = lab.run("-B", "app.py")
    assert told.unknown == {}
    assert told.kinds_of("wrapped") == {"python_source"}


def test_an_archive_is_one_unit(lab: Any, digest: Digest) -> None:
    lab.write("app.py", "import sys\nsys.path.insert(0, 'code.zip')\nimport inside, tell\ntell.tell()\n")
    with zipfile.ZipFile(lab.folder / "code.zip", "w") as archive:
        archive.writestr("inside.py", "x = 1\n")
    lab.age(lab.folder / "code.zip")
    told = lab.run("app.py")
    assert ("python_archive", digest(lab.folder / "code.zip")) in told.units
    assert told.unknown == {}


def test_executable_and_extensions_are_units(lab: Any, digest: Digest) -> None:
    lab.write("app.py", "import tell, _decimal\nprint('AT', _decimal.__file__)\ntell.tell()\n")
    told = lab.run("app.py")
    assert ("executable", digest(Path(sys.executable).resolve())) in told.units
    [extension] = [line[3:] for line in told.output.splitlines() if line.startswith("AT ")]
    assert ("shared_object", digest(Path(extension))) in told.units
    assert told.anonymous == []


def test_a_library_that_was_unlinked_is_said(lab: Any, compiler: str) -> None:
    source = lab.write("evil.c", "int evil(void) { return 1; }\n")
    library = lab.folder / "evil.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    lab.write(
        "app.py",
        "import tell, ctypes, os\nlibrary = ctypes.CDLL('./evil.so')\nos.unlink('evil.so')\ntell.tell()\n",
    )
    told = lab.run("app.py")
    assert [(deleted, name) for _, deleted, name in told.anonymous] == [(True, str(library))]


def test_a_library_in_memory_is_said(lab: Any, compiler: str) -> None:
    source = lab.write("evil.c", "int evil(void) { return 1; }\n")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(lab.folder / "evil.so"), str(source)], check=True)
    lab.write(
        "app.py",
        "import tell, ctypes, os\nfd = os.memfd_create('x')\nos.write(fd, open('evil.so', 'rb').read())\n"
        "library = ctypes.CDLL(f'/proc/self/fd/{fd}')\ntell.tell()\n",
    )
    told = lab.run("app.py")
    assert [(deleted, name) for _, deleted, name in told.anonymous] == [(True, "memfd:x")]


def test_anonymous_executable_memory_is_said(lab: Any) -> None:
    lab.write("app.py", "import tell, mmap\nm = mmap.mmap(-1, 4096, prot=7, flags=0x22)\ntell.tell()\n")
    told = lab.run("app.py")
    assert [(permissions, deleted) for permissions, deleted, _ in told.anonymous] == [("rwxp", False)]


def test_path_files_are_units(lab: Any, digest: Digest) -> None:
    site = lab.folder / "user" / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    site.mkdir(parents=True)
    (site / "evil.pth").write_text("import sys; sys.evil = 1\n")
    lab.write("app.py", "import tell, sys\nprint('evil' if hasattr(sys, 'evil') else 'calm')\ntell.tell()\n")
    python = os.path.realpath(sys.executable)
    told = lab.run(
        "app.py",
        python=python,
        env={
            "PYTHONUSERBASE": str(lab.folder / "user"),
            "PYTHONPATH": os.pathsep.join([str(lab.folder), *sys.path]),
        },
    )
    assert "evil\n" in told.output
    assert ("python_path_file", digest(site / "evil.pth")) in told.units


def test_multiprocessing_with_its_own_code_is_known(lab: Any) -> None:
    lab.write(
        "app.py",
        "import tell, multiprocessing\n\nif __name__ == '__main__':\n"
        "    child = multiprocessing.get_context('spawn').Process(target=tell.tell)\n"
        "    child.start()\n    child.join()\n",
    )
    told = lab.run("app.py")
    assert told.unknown == {}


def test_a_forked_child_says_what_its_parent_loaded(lab: Any) -> None:
    lab.write("subject.py", "x = 1\n")
    lab.write(
        "app.py",
        "import tell, subject, os, time\ntime.sleep(0.2)\nif os.fork() == 0:\n    tell.tell()\n"
        "    os._exit(0)\nos.wait()\n",
    )
    told = lab.run("app.py")
    assert told.kinds_of("subject") == {"python_bytecode", "python_source"}
