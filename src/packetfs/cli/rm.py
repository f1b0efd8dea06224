"""`packetfs rm`: remove refs with all of their snapshots."""

import click

from packetfs.cli import lines
from packetfs.cli.app import command, paths
from packetfs.cli.invocation import Invocation
from packetfs.cli.names import shown_message
from packetfs.cli.quantities import amount, bytes_text
from packetfs.errors import DamagedError, UsageError
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
        try:
            freed_bytes: int | None = forget.freed_bytes(volume, going)
        except DamagedError as error:
            freed_bytes, unknown = None, f"what nothing else needs is not known: {shown_message(error.message)}"
            output.warning(lines.Notice(code=error.code, message=unknown), unknown)
        for name, choices in chosen.items():
            event = lines.Removing(ref=name, snapshot=volume.resolve(name).name, snapshots=len(choices))
            output.notice(event, f"{name}: {amount(len(choices), 'snapshot')}")
        needed = f"{bytes_text(freed_bytes)} that nothing else needs" if freed_bytes is not None else ""
        if not dry_run:
            output.line(f"removing {needed}") if needed and not output.json and output.verbosity >= 0 else None
            for name, choices in chosen.items():
                # What was pushed since it was said what goes does not go.
                forget.remove(volume, name, newest=max(choice.seq for choice in choices))
    line = lines.Removed(
        volume=places[0].volume, dry_run=dry_run, refs=names, snapshots=len(going), freed_bytes=freed_bytes
    )
    would = "would remove" if dry_run else "removed"
    text = f"{would} {amount(len(names), 'ref')} with {amount(len(going), 'snapshot')}"
    if not dry_run:
        text += "; `packetfs gc` gives the space back"
    elif needed:
        text += f": {needed}"
    output.notice(line, text)
