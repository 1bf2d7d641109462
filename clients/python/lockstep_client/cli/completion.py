"""``lockstep completion``: what a shell has to read, so that it completes commands, options and their words."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print what makes a shell complete this command.

    \b
      lockstep completion bash >~/.local/share/bash-completion/completions/lockstep
      lockstep completion zsh >~/.zfunc/_lockstep     # a folder of $fpath, before compinit
      lockstep completion fish >~/.config/fish/completions/lockstep.fish

    Or for one shell alone: eval "$(lockstep completion bash)". Completing asks
    no broker. Bash 4.4 or newer.
    """
    root = context.find_root()
    made = get_completion_class(shell)
    assert made is not None  # noqa: S101 - click has all three
    click.echo(made(root.command, {}, "lockstep", "_LOCKSTEP_COMPLETE").source())
