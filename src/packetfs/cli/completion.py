"""`packetfs completion`: the script that a shell loads to complete our words."""

from typing import Literal

import click

from packetfs.cli import lines
from packetfs.cli.app import app, command
from packetfs.cli.invocation import Invocation


@command(
    "completion",
    examples="""
packetfs completion bash > ~/.local/share/bash-completion/completions/packetfs
packetfs completion zsh > ~/.zfunc/_packetfs
packetfs completion fish > ~/.config/fish/completions/packetfs.fish
""",
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(invocation: Invocation, shell: Literal["bash", "zsh", "fish"]) -> None:
    """Print the script that completes `packetfs` in a shell."""
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None, "click knows these three"
    script = found(app, {}, "packetfs", "_PACKETFS_COMPLETE").source()
    invocation.output.data(lines.Script(shell=shell, script=script), script.rstrip("\n"))
