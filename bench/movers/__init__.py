"""Who brings a tree to another machine: PacketFS, what people use today over the same ssh, and local bounds.

A mover says how its sides are brought to the same state, what it runs when the source has changed, and where the result
is to be found. It measures nothing itself and knows no case; bench/harness.py plays it.
"""

from __future__ import annotations

from bench.harness import Subject
from bench.movers.borg import Borg
from bench.movers.casync import Casync
from bench.movers.local import Copy, Find
from bench.movers.lsyncd import Lsyncd
from bench.movers.packetfs import PacketFSPull, PacketFSPush, PacketFSSession, PacketFSSync
from bench.movers.packetfs_tls import PullOverTLS, PushOverTLS, SyncOverTLS
from bench.movers.patches import Xdelta, ZstdPatch
from bench.movers.rclone import Rclone
from bench.movers.restic import Restic
from bench.movers.rsync import BLOCKS, Rsync, RsyncDaemon, RsyncPull
from bench.movers.ssh import Scp, SshAlone
from bench.movers.syncthing import Syncthing
from bench.movers.tar import Tar
from bench.movers.unison import Unison


def everyone() -> list[Subject]:
    """All movers, PacketFS first."""
    return [
        PacketFSSession(),
        PacketFSPush(),
        PacketFSPull(),
        PacketFSSync(),
        PushOverTLS(),
        PullOverTLS(),
        SyncOverTLS(),
        SshAlone(),
        Tar(),
        Tar(compressed=True),
        Rsync(),
        Rsync(*BLOCKS),
        Rsync("-z"),
        Rsync("-z", *BLOCKS),
        Rsync("--partial", "--no-whole-file"),
        RsyncPull(),
        RsyncDaemon(),
        Scp(),
        Unison(),
        Syncthing(),
        Lsyncd(),
        Rclone(),
        Restic(),
        Borg(),
        Casync(),
        ZstdPatch(),
        ZstdPatch(plain=True),
        Xdelta(),
        Find(),
        Copy(),
    ]
