"""Ways to run unapproved code, each in a real process under the guard and the measurement.

The numbers are those of the catalogue. What is a known miss is asserted as a miss, so that the claim stays honest.
"""

import os
import zipfile

import pytest

from tests.evasion.conftest import Range, digest


def test_01_exec_of_fetched_text(scene: Range) -> None:
    found = scene.run("exec('evil = 1')")
    assert ("generated_code", digest("evil = 1")) in {item[:2] for item in found.told}
    assert (found.new, found.unknown) == (set(), [])  # the measurement alone is blind to it


def test_03_forged_origin(scene: Range) -> None:
    found = scene.run(
        "m = types.ModuleType('m'); m.__file__ = json.__file__; sys.modules['m'] = m\n"
        "exec(compile('evil = 1', json.__file__, 'exec'), m.__dict__)",
        before="import types",
    )
    assert digest("evil = 1") in found.digests
    assert found.unknown == ["m"]


def test_05_a_function_of_marshalled_bytes(scene: Range) -> None:
    found = scene.run(
        "types.FunctionType(marshal.loads(blob), {})()",
        before="import types, marshal\nblob = marshal.dumps(compile('evil = 1', 'x', 'exec'))",
    )
    assert found.kinds == {"generated_code"}


@pytest.mark.parametrize("how", ["good.__code__ = other.__code__", "f = other.__code__.replace(co_name='x')"])
def test_07_code_swapped_or_copied(scene: Range, how: str) -> None:
    found = scene.run(how, before="def good(): pass\ndef other(): return 1")
    assert found.kinds == {"generated_code"}
    assert found.new == set()


def test_09_pickle_that_executes(scene: Range) -> None:
    found = scene.run(
        "pickle.loads(blob)",
        before="import pickle\nclass P:\n    def __reduce__(self): return (exec, ('evil = 1',))\n"
        "blob = pickle.dumps(P())",
    )
    assert digest("evil = 1") in found.digests


def test_11_a_template_is_its_engine_s_business_and_not_told(scene: Range) -> None:
    """Known miss: an approved engine runs whatever template it is given."""
    found = scene.run(
        "jinja2.Template('{{ 6 * 7 }}').render()", before="import jinja2\njinja2.Template('x').render()"
    )
    assert found.told == []


def test_13_a_subinterpreter_is_told_at_the_door(scene: Range) -> None:
    found = scene.run(
        "import importlib\n"
        "name = '_interpreters' if sys.version_info >= (3, 13) else '_xxsubinterpreters'\n"
        "i = importlib.import_module(name)\ni.run_string(i.create(), 'import sys; sys.evil = 1')"
    )
    assert any("subinterpreters" in item[3] for item in found.told)
    assert digest("import sys; sys.evil = 1") not in found.digests  # inside, no hook follows


def test_15_the_hook_tells_its_own_end(scene: Range) -> None:
    """Known miss: what comes after it. The swap itself is told."""
    found = scene.run(
        "hook = next(o for o in gc.get_objects() if getattr(o, '__qualname__', '') == '_hook.<locals>.hook')\n"
        "def make(a, b, c, d, e):\n    def deaf(event, args): (a, b, c, d, e)\n    return deaf\n"
        "cells = len(hook.__code__.co_freevars)\n"
        "hook.__code__ = eval('lambda ' + ', '.join(hook.__code__.co_freevars) + ': (lambda event, args: ('\n"
        "    + ', '.join(hook.__code__.co_freevars) + ',))')(*range(cells)).__code__\nexec('evil = 1')",
        before="import gc",
    )
    assert "generated_code" in found.kinds
    assert digest("evil = 1") not in found.digests


def test_17_text_through_an_inherited_descriptor(scene: Range) -> None:
    path = scene.write("x", "evil = 1")
    descriptor = os.open(path, os.O_RDONLY)
    try:
        found = scene.run(f"import os\nexec(os.pread({descriptor}, 100, 0))", inherit=(descriptor,))
    finally:
        os.close(descriptor)
    assert digest("evil = 1") in found.digests


def test_19_a_shadowed_name(scene: Range) -> None:
    shadow = scene.write("colorsys.py", "evil = 1\n")
    found = scene.run("import colorsys", env={"PYTHONPATH": str(scene.folder)})
    assert ("module", digest(shadow.read_bytes())) in {item[:2] for item in found.told}
    assert ("python_source", digest(shadow.read_bytes())) in found.new


def test_21_a_path_file_obeyed_late(scene: Range) -> None:
    (scene.folder / "site").mkdir()
    (scene.folder / "site" / "evil.pth").write_text("import sys; sys.evil = 1\n")
    found = scene.run("import site\nsite.addsitedir('site')\nassert sys.evil", before="import site")
    assert "generated_code" in found.kinds


def test_25_unchecked_bytecode(scene: Range) -> None:
    scene.write("late.py", "good = 1\n")
    found = scene.run(
        "import late\nassert late.evil",
        before="import py_compile, pathlib\npathlib.Path('e.py').write_text('evil = 1')\n"
        "p = py_compile.compile('e.py', 'late.pyc', dfile='late.py', "
        "invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)\n"
        "import importlib.util, os\nc = importlib.util.cache_from_source('late.py')\n"
        "os.makedirs('__pycache__', exist_ok=True)\nos.replace('late.pyc', c)",
    )
    [cached] = (scene.folder / "__pycache__").glob("late.*")
    body = digest(cached.read_bytes()[16:])
    assert ("module", body) in {item[:2] for item in found.told}
    assert ("python_bytecode", body) in found.new


def test_27_a_cache_prefix_set_late(scene: Range) -> None:
    scene.write("late.py", "good = 1\n")
    found = scene.run(
        "sys.pycache_prefix = 'alien'\nimport late\nassert late.evil",
        before="import py_compile, os, importlib.util, pathlib\n"
        "pathlib.Path('e.py').write_text('evil = 1\\n')\nos.utime('e.py', (1_700_000_000, 1_700_000_000))\n"
        "sys.pycache_prefix = 'alien'\nc = importlib.util.cache_from_source(os.path.abspath('late.py'))\n"
        "sys.pycache_prefix = None\npy_compile.compile('e.py', c, dfile='late.py')",
    )
    # Same time, same size: only the digest of the bytes that ran tells.
    [cached] = (scene.folder / "alien").rglob("late.*.pyc")
    assert ("module", digest(cached.read_bytes()[16:])) in {item[:2] for item in found.told}
    assert ("python_bytecode", digest(cached.read_bytes()[16:])) in found.new


def test_29_a_dropped_library(scene: Range) -> None:
    library = scene.library()
    found = scene.run("ctypes.CDLL('./evil.so').evil()", before="import ctypes")
    assert ("library", digest(library.read_bytes())) in {item[:2] for item in found.told}
    assert ("shared_object", digest(library.read_bytes())) in found.new


def test_31_a_library_unlinked_once_loaded(scene: Range) -> None:
    library = scene.library()
    content = digest(library.read_bytes())
    found = scene.run("import os\nl = ctypes.CDLL('./evil.so')\nos.unlink('evil.so')", before="import ctypes")
    assert content in found.digests
    assert str(library) in found.anonymous


def test_33_a_library_that_came_and_went(scene: Range) -> None:
    library = scene.library()
    found = scene.run(
        "l = ctypes.CDLL('./evil.so'); l.evil()\n_ctypes.dlclose(l._handle)", before="import ctypes, _ctypes"
    )
    assert digest(library.read_bytes()) in found.digests
    assert found.new == set()  # a poll alone would have missed it


def test_35_a_library_that_was_never_a_file(scene: Range) -> None:
    library = scene.library()
    found = scene.run(
        "import os\nfd = os.memfd_create('x')\nos.write(fd, open('evil.so', 'rb').read())\n"
        "l = ctypes.CDLL(f'/proc/self/fd/{fd}')",
        before="import ctypes",
    )
    assert digest(library.read_bytes()) in found.digests
    assert "memfd" in found.kinds
    assert "memfd:x" in found.anonymous


def test_36_a_library_opened_without_an_event(scene: Range) -> None:
    """cffi raises no audit event: only the look at memory sees it."""
    library = scene.library()
    found = scene.run(
        "import cffi\nl = cffi.FFI().dlopen('./evil.so')",
        before="import cffi\ncffi.FFI().cdef('int x(void);')",
    )
    assert ("library", digest(library.read_bytes())) in {item[:2] for item in found.told}


def test_43_memory_made_executable(scene: Range) -> None:
    found = scene.run("m = mmap.mmap(-1, 4096, prot=7, flags=0x22)", before="import mmap")
    assert "anon_exec" in found.kinds


def test_45_text_patched_through_proc(scene: Range) -> None:
    found = scene.run("f = open('/proc/self/mem', 'r+b', buffering=0)")
    assert "text_patch" in found.kinds


def test_53_an_approved_name_for_other_bytes(scene: Range) -> None:
    library = scene.library()
    found = scene.run(
        "import os\nos.makedirs('lib'); os.link('evil.so', 'lib/libc.so.6')\nl = ctypes.CDLL('./lib/libc.so.6')",
        before="import ctypes",
    )
    assert digest(library.read_bytes()) in found.digests


def test_73_a_heap_edit_by_approved_code_is_a_known_miss(scene: Range) -> None:
    found = scene.run(
        "t = (1, 2)\nctypes.c_ssize_t.from_address(id(t) + tuple.__basicsize__).value = id(3)",
        before="import ctypes",
    )
    assert (found.told, found.new, found.unknown) == ([], set(), [])


def test_a_rules_engine_inside_approved_code_is_a_known_miss(scene: Range) -> None:
    found = scene.run(
        "rules = json.loads('[[\"add\", 1, 2]]')\nassert [operator.add(a, b) for _, a, b in rules] == [3]",
        before="import operator",
    )
    assert (found.told, found.new, found.unknown) == ([], set(), [])


OWN_MAKER = (
    "maker = getattr(dataclasses, '_create_fn', None)\n"
    "if maker:\n    maker('f', [], ['  ' + text], globals={})\n"
    "else:\n    b = dataclasses._FuncBuilder({})\n    b.add_fn('f', [], ['  ' + text])\n"
    "    class C: pass\n    b.add_fns_to_class(C)"
)
BY_SPEC = (
    "spec = importlib.util.spec_from_file_location('x', 'evil.py')\n"
    "m = importlib.util.module_from_spec(spec)\nspec.loader.exec_module(m)"
)


@pytest.mark.parametrize(
    ("before", "evil"),
    [
        ("import runpy", "runpy.run_path('evil.py')"),
        ("import code", "code.InteractiveInterpreter().runsource(text)"),
        ("import ctypes", "ctypes.pythonapi.PyRun_SimpleString(text.encode())"),
        ("import importlib.util", BY_SPEC),
        ("import builtins", "builtins.eval(compile(text, json.__file__, 'exec'))"),
        ("import threading", "t = threading.Thread(target=exec, args=(text,)); t.start(); t.join()"),
        ("import asyncio", "async def f(): exec(text)\nasyncio.run(f())"),
        ("import os", "pid = os.fork()\nexec(text)\nif not pid: os._exit(0)\nos.waitpid(pid, 0)"),
        ("import functools", "functools.reduce(lambda a, b: exec(text), [1, 2])"),
        ("import timeit", "timeit.timeit(text, number=1)"),
        ("import dataclasses", "run = exec\nrun(text)"),
    ],
    ids=lambda value: value if value.startswith("import") else "",
)
def test_text_by_any_other_way(scene: Range, before: str, evil: str) -> None:
    scene.write("evil.py", "evil = 1\n")
    found = scene.run(evil, before=f"{before}\ntext = 'evil = 1\\n'")
    names = {item[0] for item in found.told}
    assert names & {"generated_code", "module"}
    if "timeit" not in before:
        assert digest("evil = 1\n") in found.digests


@pytest.mark.parametrize(
    "evil",
    [
        "six_like(text)",
        OWN_MAKER,
        "jinja2.Environment()._compile(text, 'x')",
    ],
    ids=["a namesake", "dataclasses' own maker", "jinja2's own compiler"],
)
def test_a_generator_works_for_its_own_package_only(scene: Range, evil: str) -> None:
    found = scene.run(
        evil,
        before="import dataclasses, jinja2\ntext = 'evil = 1'\ndef six_like(t): exec(t)\n"
        "jinja2.Template('x').render()",
    )
    assert "generated_code" in found.kinds


def test_a_dropped_archive(scene: Range) -> None:
    with zipfile.ZipFile(scene.folder / "evil.zip", "w") as archive:
        archive.writestr("inside.py", "evil = 1\n")
    found = scene.run("sys.path.insert(0, 'evil.zip')\nimport inside", before="import zipimport")
    assert ("module", digest("evil = 1\n")) in {item[:2] for item in found.told}
    assert ("python_archive", digest((scene.folder / "evil.zip").read_bytes())) in found.new


def test_a_library_by_the_loader_s_own_function(scene: Range) -> None:
    library = scene.library()
    found = scene.run("process.dlopen(b'./evil.so', 2)", before="import ctypes\nprocess = ctypes.CDLL(None)")
    assert ("library", digest(library.read_bytes())) in {item[:2] for item in found.told}


def test_an_extension_module_that_nobody_approved(scene: Range) -> None:
    library = scene.library("void *PyInit_evil(void) { return 0; }")
    library.rename(scene.folder / "evil.so")
    found = scene.run("try:\n    import evil\nexcept SystemError:\n    pass")
    content = digest((scene.folder / "evil.so").read_bytes())
    assert ("library", content) in {item[:2] for item in found.told}


def test_an_import_taken_out_of_sight_again(scene: Range) -> None:
    source = scene.write("late.py", "evil = 1\n")
    found = scene.run("import late, os\ndel sys.modules['late']\nos.unlink('late.py')")
    assert digest("evil = 1\n") in found.digests
    assert ("python_source", digest("evil = 1\n")) not in found.new  # the measurement alone would miss it
    assert not source.exists()
