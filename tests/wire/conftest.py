"""A real sshd of the test's own: on loopback, with keys that exist for this run only."""

import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from packetfs.format.location import Endpoint

SSHD = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
CONFIG = """\
ListenAddress 127.0.0.1
Port {port}
HostKey {place}/host
AuthorizedKeysFile {place}/user.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
"""


@dataclass(frozen=True, slots=True)
class Sshd:
    """Where it listens, and the ssh that may come in."""

    endpoint: Endpoint
    ssh: tuple[str, ...]
    place: Path


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    if SSHD is None or shutil.which("ssh") is None:
        pytest.skip("openssh-server is not installed (.ci/peers does it)")
    place = tmp_path_factory.mktemp("sshd")
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", place / name], check=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (place / "config").write_text(CONFIG.format(port=port, place=place))
    (place / "known").write_text(f"[127.0.0.1]:{port} {(place / 'host.pub').read_text()}")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where it drops its privileges; packages make it at boot
    server = subprocess.Popen([SSHD, "-D", "-e", "-f", place / "config"], stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    said = []
    for line in server.stderr:
        said.append(line)
        if "listening" in line:
            break
    else:
        pytest.fail(f"sshd did not start: {said}")
    user = pwd.getpwuid(os.getuid()).pw_name
    options = {
        "UserKnownHostsFile": place / "known",
        "IdentityFile": place / "user",
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "BatchMode": "yes",
        "LogLevel": "ERROR",
    }
    ssh = ("ssh", "-F", "none", *(word for name, value in options.items() for word in ("-o", f"{name}={value}")))
    yield Sshd(Endpoint("ssh", "127.0.0.1", user=user, port=port), ssh, place)
    server.terminate()
    server.stderr.close()
    server.wait()


def script(path: Path, text: str) -> str:
    """An executable file; its name."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)
