"""The root of ``lockstep``: subcommands are imported when they are called, errors become exit codes."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import version as installed_version
from typing import Any, Final

import click
from click.shell_completion import CompletionItem

from lockstep_client.errors import (
    EXIT_DENIED,
    EXIT_REVOKED,
    EXIT_UNAVAILABLE,
    ConfigurationError,
    Denied,
    LockstepError,
    Revoked,
    Unavailable,
)
from lockstep_client.words import plain

EXIT_WRONG: Final = 2
"""Process exit code: the command line or a setting is wrong."""

COMMANDS: Final[Mapping[str, tuple[str, str]]] = {
    "run": (
        "lockstep_client.cli.run:run",
        "Run a program with a credential for as long as its code is approved.",
    ),
    "get": ("lockstep_client.cli.get:get", "Print a credential once, for a job that is over soon."),
    "wait": ("lockstep_client.cli.get:wait_for_broker", "Wait until the broker answers."),
    "manifest": (
        "lockstep_client.cli.manifest:manifest_group",
        "Build, compare, approve and publish manifests.",
    ),
    "explain": ("lockstep_client.cli.ask:explain", "Why was this granted, refused or revoked?"),
    "report": (
        "lockstep_client.cli.report:report",
        "What was decided, by role; what observing roles would have done.",
    ),
    "attestations": ("lockstep_client.cli.look:attestations", "List instances, by what they have loaded."),
    "leases": ("lockstep_client.cli.ask:leases", "List leases."),
    "detections": (
        "lockstep_client.cli.detections:detections",
        "List reports, and how they ended; approve or dismiss what is held.",
    ),
    "revoke": ("lockstep_client.cli.take:revoke", "Take back what a selector names."),
    "revocations": ("lockstep_client.cli.take:revocations", "List revocations; lift a ban."),
    "receipts": ("lockstep_client.cli.take:receipts", "Show the signed receipt of a revocation."),
    "watch": ("lockstep_client.cli.look:watch", "Follow the revocation log as it grows."),
    "audit": ("lockstep_client.cli.audit:audit_group", "Is a file of the audit log whole? Offline."),
    "status": ("lockstep_client.cli.ask:status", "Can the broker be reached, and as whom?"),
    "completion": ("lockstep_client.cli.completion:completion", "Print what makes a shell complete this."),
}


class Lazy(click.Group):
    """Knows its commands by name and summary, and imports none for ``--help``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of the table: as a day goes."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The real command, imported now."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        found = getattr(import_module(module), name)
        return found if isinstance(found, click.Command) else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """From the table alone."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """From the table too: a shell waits for it."""
        commands = [
            CompletionItem(name, help=summary)
            for name, (_, summary) in COMMANDS.items()
            if name.startswith(incomplete)
        ]
        return commands + click.Command.shell_complete(self, ctx, incomplete)

    def invoke(self, ctx: click.Context) -> Any:
        """Run, and turn our errors into a line and an exit code."""
        try:
            return super().invoke(ctx)
        except LockstepError as error:
            click.echo(f"lockstep: {plain(str(error))}", err=True)
            sys.exit(exit_code(error))


def exit_code(error: LockstepError) -> int:
    """75 unavailable, 77 revoked, 78 denied, 2 wrong setting, 1 anything else."""
    if isinstance(error, Revoked):
        return EXIT_REVOKED
    if isinstance(error, Denied):
        return EXIT_DENIED
    if isinstance(error, Unavailable):
        return EXIT_UNAVAILABLE
    return EXIT_WRONG if isinstance(error, ConfigurationError) else 1


@click.group(
    cls=Lazy,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 75 unavailable (try again) · 77 revoked · 78 denied (do not try again).",
)
@click.version_option(
    message="lockstep %(version)s", version=installed_version("lockstep-client"), prog_name="lockstep"
)
def cli() -> None:
    """Credentials for code that has been measured, taken back when it changes.

    \b
    First time?
      lockstep-broker dev &                        a broker for this laptop
      eval "$(lockstep-broker dev --export)"       where it is and who you are
      lockstep run --role dev -- python app.py     a program with a credential
      lockstep explain D-…                         why, for everything that has an id

    Settings are LOCKSTEP_ADDRESS, LOCKSTEP_CA_FILE, LOCKSTEP_IDENTITY_TOKEN_FILE,
    LOCKSTEP_OPERATOR_TOKEN_FILE, or a TOML file that LOCKSTEP_CONFIG names.
    """
