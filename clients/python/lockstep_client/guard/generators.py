"""Approved code that makes code for a living: whose frame may compile text without a report.

A generator is approved with its file; what it is fed (a template, a field's
name) is its own business. The list is short on purpose: every entry is a place
from which text runs unreported.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Final

ANYBODY: Final = frozenset(
    {
        # Text that is only parsed, or whose code is made of names that the caller chose.
        "ast:parse",
        "collections:namedtuple",
        "types:coroutine",
        "typing:ForwardRef.__init__",
        "typing:ForwardRef._evaluate",
        "typing:_make_forward_ref",
        "typing_extensions:evaluate_forward_ref",
    }
)
"""May be called from anywhere."""
WITHIN: Final = frozenset(
    {
        "attr._make:_compile_and_eval",
        "attr._make:_linecache_and_compile",
        "attr._make:_make_method",
        "cffi.cparser:_get_parser",
        "dataclasses:_FuncBuilder.add_fns_to_class",
        "dataclasses:_create_fn",
        "decorator:FunctionMaker.make",
        "jinja2.bccache:Bucket.bytecode_from_string",
        "jinja2.bccache:Bucket.load_bytecode",
        "jinja2.debug:fake_traceback",
        "jinja2.environment:Environment._compile",
        "mako.template:_compile",
        "mako.template:_compile_text",
        "networkx.utils.decorators:argmap.compile",
        "ply.yacc:yacc",
        "scipy._lib.decorator:FunctionMaker.make",
        "scipy.stats._distn_infrastructure:rv_generic._construct_argparser",
        "six:exec_",
        "sqlalchemy.util.langhelpers:_exec_code_in_env",
        "sqlalchemy.util.langhelpers:attrsetter",
        "sqlalchemy.util.langhelpers:create_proxy_methods.<locals>.decorate",
        "sqlalchemy.util.langhelpers:decorator.<locals>.decorate",
        "sqlalchemy.util.langhelpers:exec_code_in_env",
        "typing_inspection.typing_objects:_compile_identity_check_function",
        "typing_inspection.typing_objects:_compile_isinstance_check_function",
        "werkzeug.routing.rules:Rule._compile_builder",
    }
)
"""Run whatever text they are handed: only when their own package calls them."""


class Generators:
    """Which frames are generators: by module and qualified name, verified against the loaded module itself."""

    def __init__(self, anybody: Iterable[str] = ANYBODY, within: Iterable[str] = WITHIN) -> None:
        """``module:qualname`` each: those that anybody may call, and those that only their own package may."""
        self._anybody = frozenset(anybody)
        self._within = frozenset(within)
        self._refused: set[str] = set()

    def refuse_file(self, path: str) -> None:
        """Code of this file was not approved itself: it generates nothing in anybody's name."""
        self._refused.add(path)

    def vouches(self, frame: FrameType | None) -> bool:
        """True where this frame is a generator's own.

        Its globals must be the very namespace of the module in `sys.modules`
        and its file that module's: to forge either, code has to be made first,
        and that is reported.
        """
        if frame is None:
            return False
        module_name = str(frame.f_globals.get("__name__"))
        code = frame.f_code
        name = f"{module_name}:{code.co_qualname}"
        if name not in self._anybody and not (name in self._within and _called_within(frame, module_name)):
            return False
        module = sys.modules.get(module_name)
        spec = getattr(module, "__spec__", None)
        return (
            module is not None
            and module.__dict__ is frame.f_globals
            and code.co_filename == getattr(spec, "origin", None)
            and code.co_filename not in self._refused
        )


def _called_within(frame: FrameType, module_name: str) -> bool:
    caller = frame.f_back
    if caller is None:
        return False
    return str(caller.f_globals.get("__name__")).partition(".")[0] == module_name.partition(".")[0]


def frames(frame: FrameType | None, most: int) -> Iterator[FrameType]:
    """A frame and those that called it, at most `most`."""
    while frame is not None and most > 0:
        yield frame
        frame = frame.f_back
        most -= 1
