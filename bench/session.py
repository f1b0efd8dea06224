"""Holds one open session and does in it what it is told, a JSON line each: the warm rows of bench/transfer.py.

    python -m bench.session '{"address": "ssh://host/volume", "ssh": ["ssh"], "remote": "/path/packetfs"}'

Says a line when the session is open, then answers each `{"do": "push", "tree": ...}` with what the session reports.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import packetfs


def main() -> int:
    """Until standard input ends."""
    options = json.loads(sys.argv[1])
    connect: Any = vars(packetfs).get("connect") or getattr(packetfs, "connect")  # noqa: B009  it comes with the transfer
    with connect(options["address"], ssh_command=options["ssh"], remote_packetfs=options["remote"]) as session:
        print(json.dumps({"open": True}), flush=True)
        for line in sys.stdin:
            order = json.loads(line)
            report = (
                session.pull("main", order["tree"]) if order["do"] == "pull" else session.push([order["tree"]], "main")
            )
            print(json.dumps(facts(report)), flush=True)
    return 0


def facts(report: object) -> dict[str, object]:
    """The plain numbers and words of a report, whatever else it holds."""
    names = [name for name in dir(report) if not name.startswith("_")]
    values = {name: getattr(report, name) for name in names}
    return {name: value for name, value in values.items() if isinstance(value, int | float | str)}


if __name__ == "__main__":
    sys.exit(main())
