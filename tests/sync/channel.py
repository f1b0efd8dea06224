"""What connects the two ends of a session in these tests: memory, or TLS with a peer's rights instead of a user's."""

import os
import socket
import threading
from pathlib import Path

from msgspec.structs import replace

from packetfs.env import SYSTEM
from packetfs.format import trust
from packetfs.format.location import Endpoint
from packetfs.sync.access import AS_USER, Access, AsPeer
from packetfs.sync.root import Root
from packetfs.wire import protocol
from packetfs.wire.certificate import device_of_pem, identity_pem
from packetfs.wire.tls import Tls, accept, client_context, connect, server_context, wrapped
from packetfs.wire.transports import Transport, memory_pair


class Here(AsPeer):
    """A peer that calls a volume by its path, as these tests do, and means the one of that name beneath the root."""

    def check(self, message: protocol.Message) -> None:
        super().check(self._called(message) if isinstance(message, protocol.Hello) else message)

    def place(self, hello: protocol.Hello) -> str:
        return super().place(self._called(hello))

    def _called(self, hello: protocol.Hello) -> protocol.Hello:
        return hello if b"\0" in hello.volume else replace(hello, volume=os.path.basename(hello.volume))


class Memory:
    """Nothing between the two, and no question of rights: as over ssh."""

    def pair(self) -> tuple[Transport, Transport]:
        return memory_pair()

    def access(self, volume: Path) -> Access:
        return AS_USER


class Secure(Memory):
    """TLS over loopback between two keys; the client's is paired with the root in which the volume is."""

    def __init__(self, place: Path) -> None:
        self._pems = []
        for number in (1, 2):
            path = place / f"{number}.pem"
            path.write_bytes(identity_pem(bytes([number]) * 32))
            self._pems.append(str(path))
        self._server, self._client = (device_of_pem(Path(pem).read_bytes()) for pem in self._pems)

    def pair(self) -> tuple[Transport, Transport]:
        far: list[Tls] = []
        with socket.create_server(("127.0.0.1", 0)) as listener:

            def answer() -> None:
                plain, _ = listener.accept()
                far.append(accept(wrapped(plain, server_context(self._pems[0])), deadline_s=60))

            thread = threading.Thread(target=answer)
            thread.start()
            endpoint = Endpoint("pfs", "127.0.0.1", port=listener.getsockname()[1])
            near = connect(endpoint, client_context(self._pems[1]), self._server, deadline_s=60)
            thread.join()
        return near, far[0]

    def access(self, volume: Path) -> Access:
        root = Root(str(volume.parent))
        peer = trust.Peer(self._client.hex(), "client", {trust.EVERY_VOLUME: "admin"}, SYSTEM.now_ns())
        root.book.change(lambda book: (replace(book, peers=[peer]), None))
        return Here(root, self._client, "127.0.0.1:1")


current = Memory()
"""The one that is used; the fixture `channel` sets it."""
