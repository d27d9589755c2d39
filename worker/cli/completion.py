"""`sentinode completion`: what a shell needs to complete our commands."""

from typing import Final

import click
from click.shell_completion import get_completion_class

SHELLS: Final = ("bash", "zsh", "fish")


@click.command("completion")
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    Example: sentinode completion bash > /etc/bash_completion.d/sentinode
    """
    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"{shell} is not known")
    root = ctx.find_root().command
    click.echo(kind(root, {}, "sentinode", "_SENTINODE_COMPLETE").source())
