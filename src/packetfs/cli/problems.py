"""What could not be read of a source, said: each name, and at the end what is missing for it.

The same for a push and a sync. It decides nothing but the words.
"""

import os
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from packetfs.cli.names import shown
from packetfs.cli.quantities import amount
from packetfs.errors import PartialError
from packetfs.events import Problem, ProblemKind

if TYPE_CHECKING:
    from packetfs.cli.output import Output

__all__ = ["raise_if_lost", "tell_problems"]

_PROBLEMS: "Final[dict[ProblemKind, str]]" = {
    "vanished": "vanished before it was read",
    "changed": "changed during each of three readings; what the last one found is stored",
    "unreadable": "cannot be read",
    "missing": "was asked for and is not there",
    "unsupported": "is of a kind that is not stored",
    "attributes": "is stored without its extended attributes",
}
_LOSSES: "Final[dict[ProblemKind, str]]" = {
    "unreadable": "could not be read and is missing",
    "missing": "asked for and not there",
    "changed": "kept changing and may be stored half old, half new",
    "attributes": "has extended attributes that are not stored",
}


def tell_problems(output: "Output", problems: Iterable[Problem]) -> None:
    """One line each."""
    for problem in problems:
        text = f"{shown(problem.path)}: {_PROBLEMS.get(problem.kind, 'is not as it was')}"
        if problem.errno:
            text += f": {os.strerror(problem.errno)}"
        if problem.kind in _LOSSES:
            output.warning(problem, text)
        else:
            output.notice(problem, text)


def raise_if_lost(problems: Iterable[Problem], *, done: str, unread: int = 0) -> None:
    """PartialError if something is missing, or not as it is; `done` says what became of the rest.

    `unread` counts what could not be read where not all of it is among `problems`.
    """
    counts = Counter(problem.kind for problem in problems)
    counts["unreadable"] = max(counts["unreadable"], unread - counts["missing"])
    lost = {kind: counts[kind] for kind in _LOSSES if counts[kind]}
    if lost:
        raise PartialError(
            ", ".join(f"{amount(count, 'name')} {_LOSSES[kind]}" for kind, count in lost.items()),
            hint=f"{done}; run the same command again when these can be read",
            unreadable=counts["unreadable"],
            changed=counts["changed"],
            missing=counts["missing"],
            attributes=counts["attributes"],
        )
