"""The disk of a small Debian server before and after a security upgrade: one ext4 image that apt works on in place.

The upgrade is a real one: Debian 12 as its last point release has it, then everything that security.debian.org has for
it that is newer. There is no kernel and no boot loader. It is made once, by root, from what the mirrors have that day:
two runs of it agree on how much it is, not on its bytes.

What runs of the packages runs in a chroot, with mounts and processes of its own that end with it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

SUITE = "bookworm"
PACKAGES = ("ca-certificates", "nginx", "openssh-server", "python3", "redis-server", "rsync")  # a small server
SECURITY = f"deb http://deb.debian.org/debian-security {SUITE}-security main"
IMAGE_MIB = 768  # some 330 MB of files, and room for the upgrade
# Fixed, so that the hashed directories of two images made from equal trees are equal.
UUID = "8f5b2b0e-3c58-4a0a-9d8e-7d1f0a52c1de"

# The shell has a mount namespace of its own. Services stay down (policy-rc.d); what apt has downloaded goes, and the
# blocks of what was deleted become holes, as the weekly fstrim leaves them on a real disk.
UPGRADE = """\
set -eu
image=$1 root=$2 security=$3
mount -o loop "$image" "$root"
mount -t proc proc "$root/proc"
echo "$security" >"$root/etc/apt/sources.list.d/security.list"
printf '#!/bin/sh\\nexit 101\\n' >"$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"
export DEBIAN_FRONTEND=noninteractive LC_ALL=C
chroot "$root" apt-get -q update
chroot "$root" apt-get -q -y upgrade
chroot "$root" apt-get -q clean
rm "$root/usr/sbin/policy-rc.d"
umount "$root/proc"
sync -f "$root"  # the journal holds on to what was deleted until it is committed
fstrim "$root"
umount "$root"
"""


def missing() -> str:
    """What it takes to make the images and is not here; empty if nothing."""
    if os.geteuid() != 0:
        return "debootstrap and a loop device need root"
    programs = {"debootstrap": "debootstrap", "mkfs.ext4": "e2fsprogs", "unshare": "util-linux"}
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    absent = [package for name, package in programs.items() if shutil.which(name, path=path) is None]
    if absent:
        return f"not installed: apt-get install {' '.join(absent)}"
    return "" if Path("/dev/loop-control").exists() else "the kernel has no loop devices: modprobe loop"


def make(place: Path) -> None:
    """Write `before.img` and `after.img` into the directory `place`. The network is needed."""
    tree, root = place / "tree", place / "mounted"
    before, after = place / "before.img", place / "after.img"
    root.mkdir()
    alone = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
    _call(*alone, "debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, tree)
    for act in ("update", "clean"):  # a server has looked for updates before
        _call("chroot", tree, "apt-get", act)
    _call("mkfs.ext4", "-q", "-U", UUID, "-E", f"hash_seed={UUID}", "-d", tree, before, f"{IMAGE_MIB}M")
    shutil.rmtree(tree)
    _call("cp", "--sparse=always", before, after)
    _call(*alone, "sh", "-c", UPGRADE, "sh", after, root, SECURITY)
    root.rmdir()


def _call(*command: str | Path) -> None:
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    done = subprocess.run(command, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False)
    if done.returncode:
        shown = " ".join(map(str, command))
        raise SystemExit(f"{shown}: exit {done.returncode}: {(done.stderr or done.stdout)[-500:]}")
