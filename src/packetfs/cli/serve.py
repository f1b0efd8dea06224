"""`packetfs serve`: answer one peer. Over ssh the peer runs this itself, as the user that it logged in as."""

import click

from packetfs.cli.app import command
from packetfs.cli.invocation import Invocation
from packetfs.errors import UsageError


@command(
    "serve",
    examples="""
packetfs serve --stdio
""",
)
@click.option("--stdio", is_flag=True, help="Speak on standard input and output.")
def serve(invocation: Invocation, *, stdio: bool) -> None:
    """Answer one peer on standard input and output.

    `packetfs push DIR HOST:VOLUME::REF` runs this on HOST through ssh. What the peer may do is what the user may do
    whom it logged in as.
    """
    if not stdio:
        raise UsageError("say how: this version answers on standard input and output only", hint="add --stdio")
    from packetfs.sync.serve import serve as answer
    from packetfs.sync.usage import prepare_process
    from packetfs.wire.connection import Connection
    from packetfs.wire.transports import Stdio

    prepare_process()
    connection = Connection(Stdio())
    try:
        answer(connection, lock_wait_s=invocation.settings.lock_wait_s)
    finally:
        connection.close()
