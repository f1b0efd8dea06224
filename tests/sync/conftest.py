"""An origin and a client in one process: the real server and the real client, over memory instead of ssh, or TLS."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from packetfs.format.location import Endpoint, Location
from packetfs.sync import remote, serve
from packetfs.sync.session import Session
from packetfs.wire import protocol
from packetfs.wire.connection import Connection
from packetfs.wire.transports import Transport
from tests.sync import channel
from tests.volume.conftest import grown

Connect = Callable[..., Session]


@pytest.fixture(params=["memory", pytest.param("tls", marks=pytest.mark.slow)])
def over(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Have every session of the test go over memory, and once more over TLS, as a peer of a server."""
    if request.param == "tls":
        channel.current = channel.Secure(tmp_path_factory.mktemp("keys"))
    yield
    channel.current = channel.Memory()


def answer_honestly(connection: Connection, volume: Path) -> None:
    serve.serve(connection, lock_wait_s=5, access=channel.current.access(volume))


class Origin:
    """A volume that answers sessions; each in a thread, as a process would for ssh."""

    def __init__(self, path: Path, replicas: Path) -> None:
        self.path = path
        self.replicas = replicas
        self.failures: list[BaseException] = []
        self._threads: list[threading.Thread] = []
        self._sessions: list[Session] = []

    def connect(
        self,
        client: str = "client",
        *,
        ref: str = "main",
        writes: bool = True,
        create: bool = True,
        cache_bytes: int | None = None,
        whole: bool = False,
        wants: tuple[str, str, bytes] | None = None,
        ingest: protocol.Ingest | None = None,
        wrap: Callable[[Transport], Transport] = lambda transport: transport,
        serve: Callable[[Connection], None] | None = None,
        patience_s: float = 60,
    ) -> Session:
        """A session of the machine `client`, which has a replica of its own.

        `wrap` is the network between, `serve` the far side. With `ingest` the path is that of a directory to sync.
        """
        near, far = channel.current.pair()

        def answer() -> None:
            connection = Connection(far)
            try:
                if serve is not None:
                    serve(connection)
                else:
                    answer_honestly(connection, self.path)
            except BaseException as error:  # noqa: BLE001 - the test fails by it, in `close`
                self.failures.append(error)
            finally:
                connection.close()

        thread = threading.Thread(target=answer, name="origin", daemon=True)
        thread.start()
        self._threads.append(thread)
        place = Location(str(self.path), endpoint=Endpoint("ssh", "origin"))
        session = remote.over(
            wrap(near),
            place,
            ref=ref,
            writes=writes,
            create=create and writes,
            cache_bytes=cache_bytes,
            whole=whole,
            wants=wants,
            ingest=ingest,
            replica=str(self.replicas / client),
            lock_wait_s=1,
            patience_s=patience_s,
        )
        self._sessions.append(session)
        return session

    def settle(self) -> None:
        """Wait until every session whose client has left has ended here, too."""
        for thread in self._threads:
            thread.join(timeout=20)
            assert not thread.is_alive(), "the origin does not end when its peer has left"

    def close(self) -> None:
        """End what is still open; the server must have raised nothing."""
        for session in self._sessions:
            session.close()
        self.settle()
        assert self.failures == []


@pytest.fixture
def origin(tmp_path: Path) -> Iterator[Origin]:
    """An origin whose volume is made by the first writer."""
    made = Origin(tmp_path / "volume", tmp_path / "replicas")
    yield made
    made.close()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Some hundred small files in directories, and a large one."""
    import random

    dice = random.Random(7)
    tree: dict[str, bytes | None] = {
        f"d{number % 17}/f{number}": dice.randbytes(dice.choice([0, 5, 300, 3000, 20_000])) for number in range(300)
    }
    tree["large"] = dice.randbytes(3_000_000)
    tree["empty"] = None
    return grown(tmp_path / "source", tree)
