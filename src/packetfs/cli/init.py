"""`packetfs init`: make an empty volume."""

import click

from packetfs.cli.app import command, paths
from packetfs.cli.invocation import Invocation
from packetfs.cli.names import shown
from packetfs.events import VolumeCreated


@command(
    "init",
    examples="""
packetfs init /srv/volumes/home
PACKETFS_VOLUME=/srv/volumes/home packetfs init
""",
)
@click.argument("volume", required=False, shell_complete=paths)
def init(invocation: Invocation, volume: str | None) -> None:
    """Create an empty volume.

    VOLUME is a directory that does not exist yet or is empty. `packetfs push` does this by itself when the volume is
    missing.
    """
    from packetfs import api

    path = invocation.volume(volume).volume
    with api.create(path) as created:
        event = VolumeCreated(path=path, volume_id=created.descriptor.volume_id.hex())
        invocation.output.notice(event, f"created the volume {shown(path)}")
