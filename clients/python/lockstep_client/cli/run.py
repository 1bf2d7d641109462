"""``lockstep run``: a program with a credential for as long as its code is approved."""

from __future__ import annotations

import logging
import os
import sys

import click
from click.shell_completion import CompletionItem

from lockstep_client.hardening import no_core_file, unreadable
from lockstep_client.run.launcher import Launcher, Options
from lockstep_client.run.reactions import when_revoked, when_rotated
from lockstep_client.run.words import stderr_line
from lockstep_client.settings import load


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog="Exit codes: the program's own · 75 unavailable · 77 revoked · 78 denied.",
)
@click.option("--role", required=True, help="The role whose credential is wanted.")
@click.option(
    "--check", is_flag=True, help="Only ask what would be decided; grants nothing, ends the program."
)
@click.option(
    "--output",
    default="file",
    show_default=True,
    metavar="file[:PATH]|fd|env|pgservice[:PATH]|pgpass[:PATH]|dsn[:VARIABLE]",
    help="How it is handed over: a private file (LOCKSTEP_CREDENTIAL_FILE names it), an inherited descriptor "
    "(LOCKSTEP_CREDENTIAL_FD), the environment (LOCKSTEP_TOKEN, LOCKSTEP_USERNAME …; others of the same "
    "user can read that), or as PostgreSQL's tools read it: a service file (PGSERVICEFILE, follows every "
    "rotation), a password file (PGPASSFILE, PGUSER), a URI in the environment (DATABASE_URL).",
)
@click.option(
    "--on-revoked",
    default="exit",
    show_default=True,
    metavar="exit|signal:NAME|restart|command:…|nothing",
    help="What happens to the program when the credential is taken back: it ends; it gets a signal and goes on; "
    "it is started anew; a command is run, and then it ends; it goes on. Where it ends, the exit code is 77.",
)
@click.option(
    "--on-rotated",
    default="nothing",
    show_default=True,
    metavar="signal:NAME|restart|command:…|nothing",
    help="How it learns of a new secret; a file is replaced in any case.",
)
@click.option(
    "--wait",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to try while unavailable.",
)
@click.argument(
    "command",
    nargs=-1,
    required=True,
    type=click.UNPROCESSED,
    shell_complete=lambda _context, _parameter, begun: [CompletionItem(begun, type="file")],
)
def run(
    role: str,
    check: bool,
    output: str,
    on_revoked: str,
    on_rotated: str,
    wait: float,
    command: tuple[str, ...],
) -> None:
    """Run a program with a credential for as long as its code is approved.

    \b
      lockstep run --role payments-db -- uvicorn pay.api:app
      lockstep run --check --role payments-db -- uvicorn pay.api:app

    The program is measured, not this launcher: its file by the very descriptor
    that is executed, what its processes have mapped, and for Python every
    module. A Python program is measured when it first opens its credential;
    opening waits for the broker. What cannot be seen is said.
    """
    options = Options(command, role, output, when_revoked(on_revoked), when_rotated(on_rotated), wait)
    settings = load()
    _say_what_is_logged()
    _harden()
    sys.exit(Launcher(options, settings, os.environ, stderr_line).run(check=check))


def _harden() -> None:
    """This process has the instance key and the secrets, and measures another: it shows nobody its memory.

    The program is dumpable again, since it is another one. It inherits that no
    core file is written, since it has the credential; who wants one raises
    the limit in the program's own start (``ulimit -c``).
    """
    try:
        no_core_file(for_good=False)
        unreadable()
    except OSError as error:
        stderr_line(f"others may read this launcher's memory, with its secrets: {error.strerror}")


class _Lines(logging.Handler):
    """What the SDK logs, as lines of the launcher's; what ends a program the launcher says itself."""

    def emit(self, record: logging.LogRecord) -> None:
        """A line of its message, and one for each of a traceback; without it, Python would write the text bare."""
        if record.levelno >= logging.CRITICAL:
            return
        stderr_line(record.getMessage())
        if record.exc_info:
            for line in logging.Formatter().formatException(record.exc_info).splitlines():
                stderr_line(f"  {line}")


def _say_what_is_logged() -> None:
    log = logging.getLogger("lockstep")
    log.addHandler(_Lines(logging.WARNING))
    log.propagate = False
