"""PacketFS over TLS 1.3: a server that runs at the far side, and a near side that was paired with it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from bench.harness import FAR, Reading, Scene
from bench.movers.packetfs import PACKETFS, PacketFSPull, PacketFSPush, PacketFSSync

PORT = 20550
VOLUME, EXPORT = "work", "copy"
STANDING = "; the server runs, the machines are paired"


class _OverTLS(PacketFSPush):
    """The server and the pairing last from the first run of a scene to its end; the connection is new each time."""

    def __init__(self) -> None:
        self._server: subprocess.Popen[bytes] | None = None

    def run(self, scene: Scene) -> Reading:
        self._serve(scene)
        return super().run(scene)

    def interrupt(self, scene: Scene, after_bytes: int) -> Reading:
        self._serve(scene)
        return super().interrupt(scene, after_bytes)

    def volume(self, scene: Scene) -> Path:
        return scene.far / "served" / VOLUME

    def remote(self, scene: Scene) -> list[str | Path]:
        return [f"pfs://{self.address(scene)}/{VOLUME}:main"]

    def clean(self, scene: Scene) -> None:
        if self._server is not None:
            scene.machines.end(self._server)
            self._server = None

    def address(self, scene: Scene) -> str:
        """HOST:PORT at which the near side reaches the server."""
        host, port = scene.machines.reached(PORT)
        return f"{host}:{port}"

    def exports(self, scene: Scene) -> list[str | Path]:
        """What the server has besides volumes."""
        return []

    def _serve(self, scene: Scene) -> None:
        if self._server is not None:
            return
        root, there = scene.far / "served", {"XDG_DATA_HOME": str(scene.far / "data")}
        root.mkdir(exist_ok=True)
        serve: list[str | Path] = [PACKETFS, "serve", "--root", root, "--listen", f"{FAR}:{PORT}"]
        self._server = scene.machines.serve([*serve, *self.exports(scene)], PORT, there)
        self.join(scene)

    def join(self, scene: Scene) -> None:
        """Pair the near side with the server that runs."""
        invite: list[str | Path] = [PACKETFS, "serve", "--root", scene.far / "served", "--invite", "--role", "admin"]
        token = scene.machines.at_far(invite, {"XDG_DATA_HOME": str(scene.far / "data")}).strip()
        pair: list[str | Path] = [PACKETFS, "pair", "--address", self.address(scene), token]
        scene.machines.run(pair, scene.near, self.environment(scene))


class PushOverTLS(_OverTLS):
    """`packetfs push pfs://...`."""

    name = "packetfs push, TLS"
    promise = PacketFSPush.promise + STANDING


class PullOverTLS(_OverTLS, PacketFSPull):
    """`packetfs pull pfs://...` of a volume that the far side fills, into a directory that holds the state before."""

    name = "packetfs pull, TLS"
    promise = PacketFSPull.promise + STANDING

    def offer(self, scene: Scene) -> None:
        self._serve(scene)
        super().offer(scene)


class SyncOverTLS(_OverTLS, PacketFSSync):
    """`packetfs sync pfs://...` into a directory that the far side's server exports."""

    name = "packetfs sync, TLS"
    promise = PacketFSSync.promise + STANDING

    def missing(self) -> str:
        told = subprocess.run([PACKETFS, "serve", "--help"], capture_output=True, text=True, check=False).stdout
        return super().missing() or ("" if "--export" in told else "this packetfs does not export directories yet")

    def exports(self, scene: Scene) -> list[str | Path]:
        self.arrived(scene).mkdir(exist_ok=True)
        return ["--export", f"{EXPORT}={self.arrived(scene)}"]

    def command(self, scene: Scene) -> list[str | Path]:
        return [PACKETFS, "sync", "--delete", f"{scene.source}/", f"pfs://{self.address(scene)}/{EXPORT}:/"]
