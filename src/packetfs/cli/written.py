"""What was written into a directory, said: each change while it happens, the counts, and at the end what was missed.

The same for a pull and a sync. It decides nothing but the words.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from packetfs.cli.names import shown
from packetfs.cli.quantities import amount
from packetfs.cli.selection import tell_changes
from packetfs.errors import PartialError
from packetfs.events import Change, ProblemKind

if TYPE_CHECKING:
    from packetfs.cli.output import Output
    from packetfs.sync.checkout import Written

__all__ = ["counts_text", "missed_error", "raise_if_not_deleted", "teller"]

_SIGNS: Final = {"created": "+", "replaced": "~", "metadata": "m", "deleted": "-"}
_MISSED: "Final[dict[ProblemKind, str]]" = {
    "owner-not-set": "does not belong to its owner",
    "device-not-made": "is a device and was not made",
    "attributes-not-set": "has not all its extended attributes",
}


def teller(output: "Output", *, itemize: bool, dry_run: bool) -> Callable[[Sequence[Change]], None]:
    """What prints changes: in rsync's letters, or with a sign where they were asked for (`-n`, `-v`)."""

    def tell(changes: Sequence[Change]) -> None:
        if itemize:
            tell_changes(output, changes)
            return
        if not dry_run and output.verbosity < 1:
            return  # a million lines are only written when they were asked for
        for change in changes:
            text = f"{_SIGNS[change.action]} {shown(change.path)}"
            if dry_run:
                output.data(change, text)
            else:
                output.detail(change, text)

    return tell


def counts_text(report: "Written") -> str:
    """`3 created, 1 deleted, 1,200 unchanged`; empty where there is nothing to count."""
    return ", ".join(
        f"{count:,} {word}"
        for count, word in (
            (report.created, "created"),
            (report.replaced, "replaced"),
            (report.metadata, "with new metadata"),
            (report.deleted, "deleted"),
            (report.unchanged, "unchanged"),
        )
        if count
    )


def raise_if_not_deleted(report: "Written", *, delete_max: int | None, dry_run: bool) -> None:
    """PartialError if more names had to be deleted than might be."""
    if report.not_deleted:
        raise PartialError(
            f"{amount(report.not_deleted, 'name')} had to be deleted, and --max-delete is {delete_max}: nothing "
            f"{'would be' if dry_run else 'was'} deleted",
            code="too-much-to-delete",
            hint=f"{'' if dry_run else 'the rest is done; '}`-n --delete` lists them, and --max-delete can be larger",
            not_deleted=report.not_deleted,
        )


def missed_error(output: "Output", report: "Written", *, how: str) -> PartialError | None:
    """What to raise if something could not be set; the first names of each kind are told. `how` it would be set."""
    if not report.missed:
        return None
    for problem in report.missed:
        output.warning(problem, f"{shown(problem.path)}: {_MISSED.get(problem.kind, 'is not all there')}")
    parts = [
        f"{amount(count, 'name')} {text}"
        for count, text in (
            (report.owner_not_set, "of another owner than in the snapshot"),
            (report.unsupported, "of devices not made"),
            (report.attributes_not_set, "without all extended attributes"),
        )
        if count
    ]
    return PartialError(
        ", ".join(parts),
        code="pull-incomplete",
        hint=f"everything else is there; {how}, or say --no-owner if owners do not matter"
        if report.owner_not_set
        else f"everything else is there; {how}, or onto a file system that has them",
        unsupported=report.unsupported,
        owner_not_set=report.owner_not_set,
        attributes_not_set=report.attributes_not_set,
    )
