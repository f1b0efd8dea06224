"""`packetfs forget`: stop keeping old snapshots of a ref."""

from typing import TYPE_CHECKING, Any

import click

from packetfs.cli import lines
from packetfs.cli.app import command, paths
from packetfs.cli.invocation import Invocation
from packetfs.cli.names import shown
from packetfs.cli.output import Output
from packetfs.cli.quantities import amount, time_json, time_text
from packetfs.errors import RefusedError, UsageError
from packetfs.format.location import Location
from packetfs.format.when import LATEST

if TYPE_CHECKING:
    from packetfs.volume import Volume
    from packetfs.volume.forget import Choice
    from packetfs.volume.retention import Rules

_COUNT = click.IntRange(min=1)


@command(
    "forget",
    examples="""
packetfs forget --keep-daily 7 --keep-weekly 5 --keep-monthly 12 /srv/volume::main
packetfs forget -n --keep-within 2m --keep-tag release /srv/volume::main
packetfs forget --all --keep-last 10 /srv/volume
packetfs forget /srv/volume::main@3f9a1c22
""",
)
@click.argument("locations", metavar="VOLUME::REF[@WHEN]...", nargs=-1, required=True, shell_complete=paths)
@click.option("--keep-last", "last", metavar="N", type=_COUNT, help="Keep the newest N.")
@click.option("--keep-hourly", "hourly", metavar="N", type=_COUNT, help="Keep the newest of each of N hours.")
@click.option("--keep-daily", "daily", metavar="N", type=_COUNT, help="Keep the newest of each of N days.")
@click.option("--keep-weekly", "weekly", metavar="N", type=_COUNT, help="Keep the newest of each of N weeks.")
@click.option("--keep-monthly", "monthly", metavar="N", type=_COUNT, help="Keep the newest of each of N months.")
@click.option("--keep-yearly", "yearly", metavar="N", type=_COUNT, help="Keep the newest of each of N years.")
@click.option("--keep-within", "within", metavar="TIME", help="Keep those not older than the newest by: 2y5m7d3h.")
@click.option("--keep-tag", "tags", metavar="TAG[,TAG]", multiple=True, help="Keep those that have all of these tags.")
@click.option("--only-newest", is_flag=True, help="It is meant that nothing but the newest snapshot is kept.")
@click.option("--all", "every", is_flag=True, help="Every ref of the volume, each by itself.")
@click.option("-n", "--dry-run", is_flag=True, help="Say what would be kept and why, forget nothing.")
def forget(
    invocation: Invocation,
    *,
    locations: tuple[str, ...],
    only_newest: bool,
    every: bool,
    dry_run: bool,
    **rules: Any,
) -> None:
    """Stop keeping old snapshots of a ref.

    A snapshot that any rule keeps is kept, and so is the newest of each ref. Hours, days, weeks, months and years count
    only where there are snapshots; of a rule that finds fewer of them than it may keep, the oldest snapshot is kept,
    too. The time of a snapshot is that of --time, if its push gave one. With @WHEN, that one
    snapshot goes and no rule is needed. The space is given back by `packetfs gc`.
    """
    kept_by = _rules(**rules)
    places = [invocation.location(location) for location in locations]
    output = invocation.output
    kept = gone = 0
    volumes = list(dict.fromkeys(place.volume for place in places))
    if len(volumes) > 1:
        raise UsageError("snapshots of several volumes cannot be forgotten at once", hint="run it for each volume")
    from packetfs.volume import forget as letting_go

    with invocation.volume_here(places[0]) as volume:
        chosen = _choices(volume, places, kept_by, only_newest=only_newest, every=every)
        for choice in chosen:
            kept, gone = kept + bool(choice.reasons), gone + (not choice.reasons)
            if dry_run or output.verbosity > 0:
                _tell(output, choice)
        going: dict[str, list[int]] = {}
        for choice in chosen:
            if not choice.reasons:
                going.setdefault(choice.ref, []).append(choice.seq)
        if not dry_run:
            for ref, seqs in going.items():
                letting_go.forget(volume, ref, seqs)
    refs = len({choice.ref for choice in chosen})
    line = lines.Forgotten(volume=volumes[0], dry_run=dry_run, refs=refs, kept=kept, forgotten=gone)
    would = "would forget" if dry_run else "forgot"
    output.notice(line, f"{would} {amount(gone, 'snapshot')} of {amount(refs, 'ref')}")


def _choices(
    volume: "Volume", places: list[Location], rules: "Rules", *, only_newest: bool, every: bool
) -> "list[Choice]":
    """A verdict on each snapshot that is asked about."""
    from packetfs.volume import forget as letting_go

    single = [place for place in places if place.when != LATEST]
    if any(place.path for place in places):
        raise UsageError("a single path of a snapshot cannot be forgotten", hint="leave :/PATH out")
    if every and (single or len(places) > 1 or places[0].ref is not None):
        raise UsageError("--all means every ref of one volume", hint="name the volume alone")
    if single and (len(single) < len(places) or only_newest or not rules.are_empty):
        raise UsageError("rules are for whole refs, @WHEN is for single snapshots", hint="run it twice")
    if single:
        found = [letting_go.find(volume, place.line, place.when) for place in single]
        return list({(choice.ref, choice.seq): choice for choice in found}.values())
    if rules.are_empty and not only_newest:
        raise UsageError(
            "without a rule it is not known what to keep",
            hint="give --keep-last, --keep-daily and so on, or --only-newest",
        )
    names = [ref.name for ref in volume.refs()] if every else list(dict.fromkeys(place.line for place in places))
    chosen = []
    for name in names:
        verdicts = letting_go.choose(volume, name, rules)
        if len(verdicts) > 1 and not only_newest and all(set(one.reasons) <= {"newest"} for one in verdicts):
            raise RefusedError(
                f"the rules keep no snapshot of ref {name!r}; of {len(verdicts)} only the newest would be left",
                code="keeps-nothing",
                hint="say --only-newest if that is meant",
                ref=name,
            )
        chosen += verdicts
    return chosen


def _rules(*, within: str | None, tags: tuple[str, ...], **counts: int | None) -> "Rules":
    from packetfs.volume.retention import Rules, parse_within

    return Rules(
        **{name: count or 0 for name, count in counts.items()},
        within=parse_within(within) if within is not None else None,
        tags=tuple(frozenset(filter(None, text.split(","))) for text in tags if text.strip(",")),
    )


def _tell(output: Output, choice: "Choice") -> None:
    snapshot = choice.snapshot
    time_ns = snapshot.time_ns if snapshot.source_time_ns is None else snapshot.source_time_ns
    line = lines.Verdict(
        ref=choice.ref,
        snapshot=snapshot.name,
        time_ns=time_ns,
        time=time_json(time_ns),
        tags=list(snapshot.tags),
        kept=bool(choice.reasons),
        reasons=list(choice.reasons),
    )
    why = f"keep    {shown(', '.join(choice.reasons))}" if choice.reasons else "forget"
    output.data(line, f"{choice.ref}@{snapshot.short}  {time_text(time_ns)}  {why}")
