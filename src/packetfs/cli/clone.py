"""`packetfs clone`: a replica of another machine's volume, at a place of one's own."""

import os

import click

from packetfs.cli import lines
from packetfs.cli.app import command, paths, remote_options
from packetfs.cli.invocation import Invocation
from packetfs.cli.names import shown
from packetfs.cli.quantities import amount, bytes_text, duration
from packetfs.errors import RefusedError, UsageError


@command(
    "clone",
    examples="""
packetfs clone ada@host:/srv/volume ~/volume
packetfs clone --full ada@host:/srv/volume /backup/volume
""",
)
@click.argument("location", metavar="[USER@]HOST:VOLUME", shell_complete=paths)
@click.argument("directory", metavar="DIR", shell_complete=paths)
@click.option("--full", is_flag=True, help="Everything, and keep it: it can then be read without its origin.")
@remote_options
def clone(invocation: Invocation, *, location: str, directory: str, full: bool) -> None:
    """Make a replica of another machine's volume in DIR, or bring it up to date.

    Without --full DIR has the trees, and content as it is asked for, at most --cache-size of it. DIR can be named
    wherever a volume can: `packetfs pull DIR::main TARGET` asks the origin only for what is not in DIR, and
    `packetfs push SOURCE DIR::main` pushes to the origin.
    """
    from packetfs import api
    from packetfs.sync.clone import clone as bring
    from packetfs.sync.usage import prepare_process
    from packetfs.volume.replica import is_replica

    prepare_process()
    output, chosen = invocation.output, invocation.settings
    place = invocation.location(location, remote=True)
    if place.endpoint is None:
        raise UsageError(f"{location!r} is on this machine", hint="a volume here is simply used; `cp -a` copies it")
    if os.path.isdir(directory) and os.listdir(directory) and not is_replica(directory):
        raise RefusedError(
            f"{directory!r} is not empty and no replica",
            code="directory-not-empty",
            hint="name a new directory",
            path=directory,
        )
    with (
        api.connect(
            place,
            writes=False,
            ssh=chosen.ssh,
            remote_packetfs=chosen.remote_packetfs,
            cache_bytes=chosen.cache_bytes,
            rate_bytes_s=chosen.rate_bytes_s,
            whole=full,
            replica=os.path.abspath(directory),
            lock_wait_s=chosen.lock_wait_s,
            discarded=invocation.tell_of_replica,
        ) as session,
        output.meter("clone") as meter,
    ):
        report = bring(session)
        received = session.link.counters()[1]
        line = lines.Cloned(
            replica=directory,
            origin=session.origin,
            volume_id=session.replica.identity.volume_id.hex(),
            refs=report.refs,
            snapshots=report.snapshots,
            whole=session.replica.is_whole,
            received_bytes=received,
            disk_bytes=session.replica.disk_bytes(),
            seconds=round(meter.elapsed_s, 3),
        )
        output.notice(
            line,
            f"{shown(directory)} is a {'whole ' if line.whole else ''}replica of {shown(session.origin)}: "
            f"{amount(report.snapshots, 'snapshot')} of {amount(report.refs, 'ref')}, "
            f"{bytes_text(received)} received, {bytes_text(line.disk_bytes)} on disk, in {duration(meter.elapsed_s)}",
        )
