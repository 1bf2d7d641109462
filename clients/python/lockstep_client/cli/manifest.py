"""``lockstep manifest``: say which code may run, sign it, and keep it in step with what is deployed."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Final

import click

_COMMANDS: Final[Mapping[str, str]] = {
    "build": "manifest_build:build",
    "sign": "manifest_local:sign",
    "verify": "manifest_local:verify",
    "index": "manifest_local:index",
    "publish": "manifest_kept:publish",
    "approve": "manifest_kept:approve",
    "diff": "manifest_kept:diff",
    "list": "manifest_kept:list_manifests",
    "show": "manifest_kept:show",
    "retire": "manifest_kept:retire",
    "withdraw": "manifest_kept:withdraw",
    "lower": "manifest_kept:lower",
}


class _Commands(click.Group):
    """Imports the command that is called: a build in a pipeline waits neither for gRPC nor for signing."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name].partition(":")
        found = getattr(import_module(f"lockstep_client.cli.{module}"), name)
        return found if isinstance(found, click.Command) else None


@click.group(name="manifest", cls=_Commands)
def manifest_group() -> None:
    """Which code an application may run: build, sign, publish, compare."""
