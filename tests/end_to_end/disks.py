"""File systems of a test's own: small ones that are soon full, and ones whose power is cut. Takes root, or skips."""

import errno
import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

_SHUTDOWN = 0x8004587D  # _IOR('X', 125, u32): EXT4_IOC_SHUTDOWN, XFS_IOC_GOINGDOWN
_NO_LOG_FLUSH = 2  # what is not on the disk by now never comes there
_SBIN = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
_MAKE = {"ext4": ["mkfs.ext4", "-q", "-F"], "xfs": ["mkfs.xfs", "-q", "-f"]}


def _run(*command: str | Path) -> None:
    """Run a command as root does; skip where that is not to be had."""
    try:
        done = subprocess.run(command, env=os.environ | {"PATH": _SBIN}, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip(f"{command[0]} is not installed")
    if done.returncode:
        pytest.skip(f"{command[0]} does not work here, it may take root: {done.stderr.decode().strip()}")


@contextmanager
def small_disk(path: Path, megabytes: int) -> Iterator[Path]:
    """A file system in memory that is soon full."""
    path.mkdir()
    _run("mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "packetfs-test", path)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def enlarge(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=200m", disk], check=True)


class Disk:
    """A file system in a file, mounted at `path`; its power can be cut."""

    def __init__(self, kind: str, image: Path, path: Path, megabytes: int) -> None:
        self.kind = kind
        self.path = path
        self._image = image
        self._megabytes = megabytes
        path.mkdir()

    def make(self) -> None:
        """An empty file system, mounted."""
        with suppress(FileNotFoundError):
            self._image.unlink()
        with open(self._image, "wb") as image:
            image.truncate(self._megabytes << 20)
        _run(*_MAKE[self.kind], self._image)
        self.mount()

    def mount(self) -> None:
        _run("mount", "-o", "loop", self._image, self.path)

    def unmount(self) -> None:
        subprocess.run(["umount", self.path], check=True)

    def cut_power(self) -> None:
        """Nothing that is not on the disk yet will ever be."""
        handle = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(handle, _SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
        except OSError as error:
            if error.errno not in (errno.ENOTTY, errno.EOPNOTSUPP):
                raise
            pytest.skip(f"{self.kind} cannot be shut down here")
        finally:
            os.close(handle)

    def save(self, name: str) -> None:
        """Keep the state of now for `restore`."""
        self.unmount()
        subprocess.run(["cp", "--sparse=always", self._image, f"{self._image}.{name}"], check=True)
        self.mount()

    def restore(self, name: str) -> None:
        """Go back to a state that was saved."""
        self.unmount()
        subprocess.run(["cp", "--sparse=always", f"{self._image}.{name}", self._image], check=True)
        self.mount()

    def restart(self) -> None:
        """The machine comes up again."""
        self.unmount()
        self.mount()


@contextmanager
def disk(kind: str, where: Path, megabytes: int) -> Iterator[Disk]:
    """An empty file system of `kind`, in `where`."""
    made = Disk(kind, where / f"{kind}.image", where / kind, megabytes)
    made.make()
    try:
        yield made
    finally:
        subprocess.run(["umount", "-l", made.path], check=False, capture_output=True)
