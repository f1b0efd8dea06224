"""The client's side of trust: which servers this machine has paired with, and pairing with one more.

A server is known by its device id, which comes with a token. Nothing is said to a machine that has another.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from packetfs.env import SYSTEM, Env
from packetfs.errors import PacketFSError, RefusedError, UnavailableError
from packetfs.format import trust
from packetfs.format.location import Endpoint
from packetfs.format.token import Token
from packetfs.release import VERSION
from packetfs.sync.identity import data_directory, own_identity
from packetfs.sync.kept import Kept
from packetfs.sync.link import Link
from packetfs.wire import protocol
from packetfs.wire.connection import Connection
from packetfs.wire.tls import Tls, address_of, client_context, connect

__all__ = ["Pairing", "pair", "reach"]

_PATIENCE_S = 30.0  # for the answer to PAIR, which takes one small write


@dataclass(frozen=True, slots=True)
class Pairing:
    """What came of a token."""

    server: str
    """What the server calls itself; empty if it was only asked who it is."""
    device: bytes
    addresses: tuple[str, ...]
    """Under which it is known here from now on, HOST:PORT; the one that answered first."""
    name: str
    """What the server calls this machine."""
    role: trust.Role
    volume: str


def pair(
    token: Token,
    *,
    name: str = "",
    addresses: Sequence[str] = (),
    environment: Mapping[str, str] = os.environ,
    env: Env = SYSTEM,
) -> Pairing:
    """Pair with the server that printed `token`, at `addresses` or where it says itself that it is.

    When this returns both sides have written it down. If it raises, running it again does no harm: the server lets the
    same machine use the same token again.
    """
    context = client_context(own_identity(environment, env).path)
    places = tuple(address.lower() for address in addresses or token.addresses)
    failures: list[PacketFSError] = []
    for place in places:
        try:
            transport = connect(_endpoint(place), context, token.device, env=env)
            break
        except (UnavailableError, RefusedError) as error:
            failures.append(error)
    else:
        raise failures[0]
    with transport:
        paired = _asked(transport, token, name or env.host()) if token.secret else None
    known = (place, *(other for other in places if other != place))
    server = trust.Server(token.device.hex(), trust.name_from(paired.server if paired is not None else place))
    servers(environment).change(
        lambda before: (trust.Servers(servers={**before.servers, **dict.fromkeys(known, server)}), None)
    )
    if paired is None:
        return Pairing("", token.device, known, "", "read", trust.EVERY_VOLUME)
    return Pairing(paired.server, token.device, known, paired.name, paired.role, paired.volume)


def reach(endpoint: Endpoint, *, environment: Mapping[str, str] = os.environ, env: Env = SYSTEM) -> Tls:
    """A secure channel to a server that this machine has paired with.

    RefusedError `server-unknown` when it has not; nothing is sent then.
    """
    host, port = address_of(endpoint)
    address = f"{endpoint.host}:{port}".lower()
    known = servers(environment).read().servers
    found = known.get(address)
    if found is None:
        others = sorted(other for other in known if other.rpartition(":")[0] == endpoint.host.lower())
        raise RefusedError(
            f"this machine has not paired with a server at {host!r}, port {port}",
            code="server-unknown",
            hint=f"it has with one at {', '.join(others)}"
            if others
            else "ask who runs it for a token, and give that to `packetfs pair`",
            address=address,
        )
    context = client_context(own_identity(environment, env).path)
    return connect(endpoint, context, bytes.fromhex(found.device), env=env)


def servers(environment: Mapping[str, str]) -> Kept[trust.Servers]:
    """The servers that this user has paired with."""
    path = os.path.join(data_directory(environment), "servers.json")
    return Kept(path, trust.decode_servers, trust.Servers())


def _asked(transport: Tls, token: Token, name: str) -> protocol.Paired:
    with Connection(transport, patience_s=_PATIENCE_S) as connection:
        said = protocol.Pair(protocol.PROTOCOL, VERSION, token.secret, trust.name_from(name))
        return Link(connection).ask(said, protocol.Paired)


def _endpoint(address: str) -> Endpoint:
    host, _, port = address.rpartition(":")
    return Endpoint("pfs", host, port=int(port))
