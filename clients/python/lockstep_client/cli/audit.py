"""``lockstep audit``: is a file of the audit log whole?"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import click

from lockstep.formats import CHECKPOINT_TYPE, Reason
from lockstep_client.audit import Head, Report, check
from lockstep_client.cli import show
from lockstep_client.clock import SystemClock
from lockstep_client.errors import Denied, LockstepError, Unavailable
from lockstep_client.verify.https import Https
from lockstep_client.verify.jose import claims_of, header_of
from lockstep_client.verify.keys import Keys

NOT_WHOLE: Final = 1
"""Process exit code: the file was read, and is not whole."""
_LARGE: Final = 32 * 1024 * 1024
_PLACE: Final = re.compile(r"(\d{1,15}):([0-9a-f]{64})")


@click.group("audit")
def audit_group() -> None:
    """Check files of the audit log. Works offline: nobody is asked."""


@audit_group.command("verify")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--expect",
    metavar="CHECKPOINT|COUNT:HASH",
    default="",
    help="A place that the file must reach: a signed checkpoint, a file with one, or a line's number in its chain and "
    "its hash. Only this finds a tail that was cut off.",
)
@click.option(
    "--jwks",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    multiple=True,
    help="Public keys of the broker (/.well-known/jwks.json), for checkpoints. Again for keys of earlier times.",
)
@show.JSON_OPTION
def verify(file: Path, expect: str, jwks: Sequence[Path], as_json: bool) -> None:
    """Say whether FILE, the audit log or an excerpt of it, is whole, or which line is wrong first and how.

    \b
    edited      a line is not what it was when its hash was made
    removed     the line that it follows is gone, or was replaced
    reordered   the line that it follows stands elsewhere
    checkpoint  a signature does not hold, or is of something else
    cut         the file ends before what --expect names

    \b
      lockstep audit verify audit.jsonl --jwks jwks.json

    Lines that a crash cut short are named, and no fault: what they said is written again after them.

    Exit codes: 0 whole, 1 not whole, 2 the command line is wrong.
    """
    keys = [Keys(path, Https(""), SystemClock()) for path in jwks]
    opened = _Opened(keys) if keys else None
    place = _place(expect, opened) if expect else None
    size = file.stat().st_size
    with click.progressbar(
        length=size, label="verifying", file=sys.stderr, hidden=size < _LARGE or not sys.stderr.isatty()
    ) as bar:
        report = check(file, expect=place, opened=opened, progress=bar.update)
    if as_json:
        click.echo(json.dumps({"whole": report.fault is None, **asdict(report)}, indent=2))
    else:
        _show(report, file, signed=opened is not None, expected=place is not None)
    if report.fault is not None:
        sys.exit(NOT_WHOLE)


def _show(report: Report, file: Path, *, signed: bool, expected: bool) -> None:
    if report.fault is not None:
        click.echo(f"{file}:{report.fault.line}: {report.fault.kind}: {report.fault.message}", err=True)
        return
    said = [f"whole: {report.lines} lines of {report.chains} runs"]
    if report.excerpt is not None:
        said.append(f"an excerpt that shows {report.lines - report.withheld} of them")
    if report.torn:
        said.append(f"lines cut short by a crash: {', '.join(map(str, report.torn[:20]))}")
    if report.lost:
        said.append(f"{report.lost} decisions were not written, says the log")
    if signed:
        said.append(f"{report.signed} checkpoints verified, over {report.signed_lines} lines")
    else:
        said.append(f"{report.checkpoints} checkpoints, not verified: give --jwks")
    said.append(f"head {report.head.count}:{report.head.hash}")
    if not expected:
        said.append("a cut tail would not show: give --expect")
    click.echo("\n".join(said))


class _Opened:
    """Verifies a checkpoint with whichever set has its key."""

    def __init__(self, keys: Sequence[Keys]) -> None:
        self._keys = keys

    def __call__(self, token: str) -> Mapping[str, Any]:
        refused = "no checkpoint"
        for keys in self._keys:
            try:
                header = header_of(token, CHECKPOINT_TYPE, Reason.SIGNATURE_REJECTED)
                algorithm = str(header["alg"])
                try:
                    key = keys.get(str(header.get("kid", "")), algorithm)
                except Unavailable as error:
                    raise click.BadParameter(error.message, param_hint="--jwks") from None
                except Denied:
                    refused = "its key is in no --jwks: give the key set of its time, too"
                    continue
                return claims_of(token, key, algorithm, Reason.SIGNATURE_REJECTED)
            except LockstepError as error:
                raise ValueError(str(error)) from None
        raise ValueError(refused)


def _place(text: str, opened: _Opened | None) -> Head:
    found = _PLACE.fullmatch(text)
    if found is not None:
        return Head(int(found[1]), found[2])
    if not (text.startswith("eyJ") and text.count(".") == 2):
        try:
            text = Path(text).read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            message = "is no checkpoint, no file with one, and not COUNT:HASH"
            raise click.BadParameter(message, param_hint="--expect") from None
    if opened is None:
        raise click.UsageError(
            "--expect with a signed checkpoint needs --jwks: unsigned, anybody can write one"
        )
    try:
        claims = opened(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--expect") from None
    count, found_hash, chain = claims.get("count"), claims.get("hash"), claims.get("chain")
    if not (isinstance(count, int) and isinstance(found_hash, str) and isinstance(chain, str)):
        raise click.BadParameter("is signed, and no checkpoint", param_hint="--expect")
    return Head(count, found_hash, chain)
