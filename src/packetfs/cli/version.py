"""`packetfs version`: what is running."""

import platform

from packetfs.cli import lines
from packetfs.cli.app import command
from packetfs.cli.invocation import Invocation


@command(
    "version",
    examples="""
packetfs version
packetfs version --json
""",
)
def version(invocation: Invocation) -> None:
    """Print the versions of PacketFS and what it stands on."""
    import apsw

    from packetfs import __version__

    versions = lines.Versions(
        packetfs=__version__,
        python=platform.python_version(),
        sqlite=apsw.sqlite_lib_version(),
        platform=platform.platform(),
    )
    invocation.output.data(
        versions,
        f"packetfs {versions.packetfs} (Python {versions.python}, SQLite {versions.sqlite}, {versions.platform})",
    )
