"""Holds one open session and pushes in it when it is told to: the warm rows of bench/transfer.py.

    python -m bench.session '{"location": "ssh://host/volume", "ssh": "ssh -F config", "remote": "/path/packetfs"}'

Says a line when the session is open, then answers each line `{"tree": ...}` with what the session says it moved.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

import packetfs
from packetfs.volume.ingest import sources_of


def main() -> int:
    """Until standard input ends."""
    options = json.loads(sys.argv[1])
    with packetfs.connect(
        options["location"], ref="main", create=True, ssh=options["ssh"], remote_packetfs=options["remote"]
    ) as session:
        print(json.dumps({"open": True}), flush=True)
        for line in sys.stdin:
            # Not `packetfs.push`: it answers the report without the traffic.
            pushed = session.push(sources_of([json.loads(line)["tree"]]), "main")
            if pushed.report.problems:
                raise SystemExit(f"not everything was stored: {pushed.report.problems[:3]}")
            print(json.dumps(asdict(pushed.traffic)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
