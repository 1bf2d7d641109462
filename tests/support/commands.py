"""Every command of both programs, by its whole name."""

from __future__ import annotations

from collections.abc import Iterator

import click

from broker.cli import main as broker_cli
from lockstep_client.cli.main import cli

ROOTS: dict[str, click.Command] = {"lockstep": cli, "lockstep-broker": broker_cli}


def commands(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    """Everything that can be called, by its whole name; a group that does something itself is one too."""
    if not isinstance(command, click.Group):
        yield name, command
        return
    if command.invoke_without_command:
        yield name, command
    for part in command.list_commands(click.Context(command)):
        found = command.get_command(click.Context(command), part)
        assert found is not None
        yield from commands(f"{name} {part}", found)


ALL = [pair for name, root in ROOTS.items() for pair in commands(name, root)]
