"""The command ``lockstep``: run a program with a credential, approve code, explain, revoke."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point; says what to install where the terminal extra is missing."""
    try:
        import click  # noqa: F401
    except ImportError:
        sys.exit("lockstep: the command line needs its extra: pip install 'lockstep-client[cli]'")
    from lockstep_client.cli.main import cli

    cli(prog_name="lockstep")
