"""Times as people write them on a command line."""

from __future__ import annotations

import datetime as dt
import re
from typing import Any, Final

import click

_SPAN: Final = re.compile(r"(\d+)([smhd])")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Span(click.ParamType[dt.timedelta]):
    """``30m``, ``12h``, ``7d``: a `datetime.timedelta`."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dt.timedelta:
        """Refuses anything else, and what no calendar holds."""
        if isinstance(value, dt.timedelta):
            return value
        found = _SPAN.fullmatch(value)
        if found is None or int(found[1]) * _SECONDS[found[2]] > 100 * 366 * 86400:
            self.fail("a number and s, m, h or d, such as 30m", param, ctx)
        return dt.timedelta(seconds=int(found[1]) * _SECONDS[found[2]])


class Since(click.ParamType[dt.datetime]):
    """How long ago (``7d``), or a moment (``2026-11-28T10:52:07Z``; without a zone it is UTC): an aware `datetime`."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dt.datetime:
        """Refuses anything else."""
        if isinstance(value, dt.datetime):
            return value
        if _SPAN.fullmatch(value):
            return dt.datetime.now(dt.UTC) - Span().convert(value, param, ctx)
        try:
            found = dt.datetime.fromisoformat(value)
        except ValueError:
            self.fail("how long ago, such as 7d, or a moment, such as 2026-11-28T10:52:07Z", param, ctx)
        return found if found.tzinfo is not None else found.replace(tzinfo=dt.UTC)


SINCE_OPTION = click.option(
    "--since", type=Since(), metavar="TIME", help="How long ago (30m, 12h, 7d), or a moment (ISO 8601)."
)
