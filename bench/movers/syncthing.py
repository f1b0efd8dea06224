"""Syncthing at both sides, with everything off that would look for other machines or wait for a watch."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path

from bench.harness import FAR, HarnessError, Reading, Scene
from bench.movers.mover import Mover

PORT = 22000
PATIENCE_S = 300.0
_OFF = {"globalAnnounceEnabled": "false", "localAnnounceEnabled": "false", "relaysEnabled": "false"}
_OFF |= {"natEnabled": "false", "crashReportingEnabled": "false", "urAccepted": "-1", "autoUpgradeIntervalH": "0"}
_OFF |= {"startBrowser": "false", "reconnectionIntervalS": "1", "progressUpdateIntervalS": "-1"}


class Syncthing(Mover):
    """Both sides run and are connected; the time is from a scan of the source until the far side says it has all."""

    name = "syncthing"
    program = "syncthing"
    package = "syncthing"
    version_command = ("syncthing", "--version")
    promise = "runs at both sides all the time, syncs files; checked by SHA-256; no times of directories; TLS"
    forgets = frozenset({"directory mtime"})

    def __init__(self) -> None:
        self._near: subprocess.Popen[str] | None = None
        self._far: subprocess.Popen[bytes] | None = None
        self._ids: dict[str, str] = {}

    def run(self, scene: Scene) -> Reading:
        begins = self._near is None
        if begins:
            self._start(scene)
        with scene.machines.measured(scene.far) as meter:
            if begins:
                _ask(scene.near, "PATCH", "/rest/config/folders/tree", {"paused": False})
            else:
                _ask(scene.near, "POST", "/rest/db/scan?folder=tree")
            _until(lambda: self._is_there(scene), "syncthing to have brought everything")
            meter.command_ended()
        return meter.reading

    def clean(self, scene: Scene) -> None:
        if self._near is not None:
            scene.machines.end(self._near)
            self._near = None
        if self._far is not None:
            scene.machines.end(self._far)
            self._far = None

    def _start(self, scene: Scene) -> None:
        self.arrived(scene).mkdir(exist_ok=True)
        homes = {scene.near: scene.source, scene.far: self.arrived(scene)}
        for place in homes:
            made = ["syncthing", "generate", f"--home={place}/syncthing", "--no-default-folder"]
            told = subprocess.run(made, capture_output=True, text=True, check=True)
            found = re.search(r"Device ID: ([A-Z0-9-]+)", told.stdout + told.stderr)
            if found is None:
                raise HarnessError(f"syncthing does not say which device it is: {told.stdout}{told.stderr}")
            self._ids[str(place)] = found[1]
        for place, tree in homes.items():
            self._configure(scene, place, tree)
        how = ["--no-browser", "--no-restart", "--no-upgrade"]
        quiet = {"STNODEFAULTFOLDER": "1", "STNOUPGRADE": "1"}
        far = ["syncthing", "serve", *how, f"--home={scene.far}/syncthing"]
        self._far = scene.machines.serve(far, PORT, quiet)
        log = f"--logfile={scene.near}/syncthing.log"  # a pipe that nobody empties would stop it
        near = ["syncthing", "serve", *how, f"--home={scene.near}/syncthing", log]
        self._near = scene.machines.converse(["sh", "-c", 'exec "$@" >/dev/null', "sh", *near], quiet)
        _until(lambda: self._is_connected(scene), "syncthing to be connected")

    def _configure(self, scene: Scene, place: Path, tree: Path) -> None:
        host, port = scene.machines.reached(PORT)
        near, far = self._ids[str(scene.near)], self._ids[str(scene.far)]
        is_far = place == scene.far
        listen = f"tcp://{FAR}:{PORT}" if is_far else "tcp://127.0.0.1:0"
        address = "dynamic" if is_far else f"tcp://{host}:{port}"
        devices = {near: "dynamic", far: address}
        options = "".join(f"<{name}>{value}</{name}>" for name, value in _OFF.items())
        kind = "receiveonly" if is_far else "sendonly"
        members = "".join(f'<device id="{one}"/>' for one in devices)
        # Its marker would be one of the source's names; the tree itself marks it as well.
        folder = (
            f'<folder id="tree" path="{tree}" type="{kind}" rescanIntervalS="0" fsWatcherEnabled="false">{members}'
            f"<markerName>.</markerName><paused>{'false' if is_far else 'true'}</paused></folder>"
        )
        known = "".join(f'<device id="{one}"><address>{at}</address></device>' for one, at in devices.items())
        # The socket's path is short whatever the place is: it is named relative to where /proc shows the home.
        gui = f'<gui enabled="true" tls="false"><address>{_socket(place)}</address><apikey>bench</apikey></gui>'
        text = f"<options><listenAddress>{listen}</listenAddress>{options}</options>"
        shutil.copy(place / "syncthing/config.xml", place / "syncthing/generated.xml")
        (place / "syncthing/config.xml").write_text(
            f'<configuration version="36">{folder}{known}{gui}{text}</configuration>\n'
        )

    def _is_connected(self, scene: Scene) -> bool:
        try:
            told = _ask(scene.near, "GET", "/rest/system/connections")
        except OSError:  # it does not listen yet
            return False
        connections = told.get("connections")
        assert isinstance(connections, dict)
        far = connections.get(self._ids[str(scene.far)])
        return bool(far and far["connected"])

    def _is_there(self, scene: Scene) -> bool:
        """Whether the far side has heard of all that the near one has, and needs nothing more."""
        here = _ask(scene.near, "GET", "/rest/db/status?folder=tree")
        heard = _ask(scene.far, "GET", f"/rest/db/completion?folder=tree&device={self._ids[str(scene.near)]}")
        if here["state"] != "idle" or not here["sequence"] or heard["sequence"] != here["sequence"]:
            return False
        there = _ask(scene.far, "GET", "/rest/db/status?folder=tree")
        return there["state"] == "idle" and not (there["needTotalItems"] or there["pullErrors"])


def _socket(place: Path) -> Path:
    return place / "syncthing/gui.sock"


def _ask(place: Path, method: str, path: str, body: object = None) -> dict[str, object]:
    """One request to the instance whose home is at `place`, through a socket that no namespace hides."""
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    try:
        connection.sock.connect(str(_socket(place)))
        content = None if body is None else json.dumps(body)
        connection.request(method, path, content, {"X-API-Key": "bench"})
        answer = connection.getresponse()
        text = answer.read().decode()
    finally:
        connection.close()
    if answer.status != http.HTTPStatus.OK:
        raise HarnessError(f"syncthing: {method} {path}: {answer.status} {text[:300]}")
    told: dict[str, object] = json.loads(text) if text.strip() else {}
    return told


def _until(true: object, what: str) -> None:
    assert callable(true)
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        if time.monotonic() > deadline:
            raise HarnessError(f"waited {PATIENCE_S:g} s for {what}")
        threading.Event().wait(0.02)
