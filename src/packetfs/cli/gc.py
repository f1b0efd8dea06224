"""`packetfs gc`: give back the space that no snapshot needs."""

import click

from packetfs.cli import lines
from packetfs.cli.app import command, paths
from packetfs.cli.config import seconds
from packetfs.cli.invocation import Invocation
from packetfs.cli.quantities import amount, bytes_text, duration


@command(
    "gc",
    examples="""
packetfs gc /srv/volume
packetfs gc -n /srv/volume
packetfs gc --grace 0 --wait 10m /srv/volume
""",
)
@click.argument("volume", required=False, shell_complete=paths)
@click.option("-n", "--dry-run", is_flag=True, help="Say how much it is, give nothing back.")
@click.option(
    "--grace",
    metavar="TIME",
    default="1h",
    show_default=True,
    help="Leave what was stored within that time: a push that was killed may come back for it.",
)
@click.option(
    "--wait",
    metavar="TIME",
    default="60s",
    show_default=True,
    help="How long to wait for pushes and pulls that began before.",
)
def gc(invocation: Invocation, *, volume: str | None, dry_run: bool, grace: str, wait: str) -> None:
    """Give back the space that no snapshot needs.

    After `forget` and `rm`. Pushes and pulls may run meanwhile; those that began before are waited for. Stopped or
    killed, the next run goes on. Addresses are never used again: the files keep their length and get holes.
    """
    output = invocation.output
    place = invocation.volume(volume)
    grace_s, wait_s = seconds(grace, "--grace"), seconds(wait, "--wait")
    from packetfs.volume.gc import collect

    with invocation.volume_here(place) as opened, output.meter("gc") as meter:
        done = collect(opened, grace_s=grace_s, wait_s=wait_s, dry_run=dry_run, progress=meter)
        elapsed_s = meter.elapsed_s
    line = lines.Collected(
        volume=place.volume,
        dry_run=dry_run,
        snapshots=done.snapshots,
        reached_bytes=done.reached_bytes,
        unreached_bytes=done.unreached_bytes,
        young_bytes=done.young_bytes,
        freed_bytes=done.freed_bytes,
        ranges=done.ranges,
        seconds=round(elapsed_s, 3),
    )
    kept = f"{amount(done.snapshots, 'snapshot')} {'needs' if done.snapshots == 1 else 'need'} "
    text = f"{kept}{bytes_text(done.reached_bytes)}; "
    if dry_run:
        text += f"{bytes_text(done.unreached_bytes)} that nothing needs could be reclaimed"
    else:
        text += f"reclaimed {bytes_text(done.unreached_bytes)}, {bytes_text(done.freed_bytes)} on disk"
    if done.young_bytes:
        text += f"; {bytes_text(done.young_bytes)} were stored within {grace} and are left"
    output.notice(line, f"{text}, in {duration(elapsed_s)}")
