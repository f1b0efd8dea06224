"""`packetfs rm`: remove refs with all of their snapshots."""

import click

from packetfs.cli import lines
from packetfs.cli.app import command, paths
from packetfs.cli.invocation import Invocation
from packetfs.cli.quantities import amount, bytes_text
from packetfs.errors import UsageError
from packetfs.format.when import LATEST


@command(
    "rm",
    examples="""
packetfs rm /srv/volume::old-laptop
packetfs rm -n /srv/volume::old-laptop /srv/volume::test
""",
)
@click.argument("locations", metavar="VOLUME::REF...", nargs=-1, required=True, shell_complete=paths)
@click.option("-n", "--dry-run", is_flag=True, help="Say what would go, remove nothing.")
def rm(invocation: Invocation, *, locations: tuple[str, ...], dry_run: bool) -> None:
    """Remove refs with all of their snapshots.

    What nothing else needs is said first: that is what `packetfs gc` can give back afterwards.
    """
    output = invocation.output
    places = [invocation.location(location) for location in locations]
    for place in places:
        if place.ref is None or place.path or place.when != LATEST:
            raise UsageError(
                f"{str(place)!r} is not a ref",
                code="bad-location",
                hint="write VOLUME::REF; single snapshots are forgotten with `packetfs forget`",
            )
    if len({place.volume for place in places}) > 1:
        raise UsageError("refs of several volumes cannot be removed at once", hint="run it for each volume")
    names = list(dict.fromkeys(place.line for place in places))
    from packetfs.volume import forget
    from packetfs.volume.retention import Rules

    with invocation.volume_here(places[0]) as volume:
        chosen = {name: forget.choose(volume, name, Rules()) for name in names}
        going = [(choice.ref, choice.seq) for choices in chosen.values() for choice in choices]
        freed_bytes = forget.freed_bytes(volume, going)
        for name, choices in chosen.items():
            event = lines.Removing(ref=name, snapshot=volume.resolve(name).name, snapshots=len(choices))
            output.notice(event, f"{name}: {amount(len(choices), 'snapshot')}")
        needed = f"{bytes_text(freed_bytes)} that nothing else needs"
        if not dry_run:
            output.line(f"removing {needed}") if not output.json and output.verbosity >= 0 else None
            for name in names:
                forget.remove(volume, name)
    line = lines.Removed(
        volume=places[0].volume, dry_run=dry_run, refs=names, snapshots=len(going), freed_bytes=freed_bytes
    )
    would = "would remove" if dry_run else "removed"
    text = f"{would} {amount(len(names), 'ref')} with {amount(len(going), 'snapshot')}"
    output.notice(line, f"{text}: {needed}" if dry_run else f"{text}; `packetfs gc` gives the space back")
