"""`packetfs pair`: use a token that a server's operator has given to this machine."""

import click

from packetfs.cli import lines
from packetfs.cli.app import command
from packetfs.cli.invocation import Invocation
from packetfs.cli.names import shown
from packetfs.format.location import DEFAULT_PORT, parse_address

_LINE_CHARACTERS_MAX = 8192  # twice the longest token


@command(
    "pair",
    examples="""
packetfs pair pfs1-kwQgAAAA
packetfs pair --address nas.example:2550 pfs1-kwQgAAAA
ssh nas.example packetfs serve --root /srv/volumes --invite | packetfs pair -
""",
)
@click.argument("token", metavar="TOKEN")
@click.option("--name", default="", metavar="NAME", help="What this machine is called there.  [default: its own name]")
@click.option(
    "--address",
    "addresses",
    metavar="HOST[:PORT]",
    multiple=True,
    help="Connect there, and know the server under that name; can be given several times.  [default: as in the token]",
)
def pair(invocation: Invocation, *, token: str, name: str, addresses: tuple[str, ...]) -> None:
    """Pair this machine with a server, by a token that `packetfs serve --invite` printed there.

    From then on `pfs://HOST/VOLUME:REF` can be used wherever a location can. A token is good for one machine, once.
    That it is the right server is checked before anything is said to it. TOKEN `-` is read from standard input.
    """
    from packetfs.format.token import decode_token
    from packetfs.format.trust import EVERY_VOLUME, check_name
    from packetfs.sync.pairing import pair as use

    if name:
        check_name(name)
    places = [f"{host}:{port}" for host, port in map(parse_address, addresses)]
    done = use(decode_token(_given(token)), name=name, addresses=places)
    line = lines.Paired(
        server=done.server,
        device=done.device.hex(),
        addresses=list(done.addresses),
        name=done.name,
        role=done.role,
        volume=done.volume,
    )
    which = "every volume" if done.volume == EVERY_VOLUME else shown(done.volume)
    who = f"{shown(done.server)}, " if done.server else ""
    called = f" as {shown(done.name)}" if done.name else ""
    host = done.addresses[0].removesuffix(f":{DEFAULT_PORT}")
    url = f"pfs://{host}/{'VOLUME' if done.volume == EVERY_VOLUME else done.volume}"
    also = "" if done.volume == EVERY_VOLUME else f", or {shown(url)}:/ if it is a directory"
    invocation.output.notice(
        line,
        f"paired with {who}device {line.device[:12]}{called}: may {done.role} {which}; "
        f"a location there is {shown(url)}{also}",
    )


def _given(text: str) -> str:
    """The token, or the first line of standard input for `-`."""
    if text != "-":
        return text
    import sys

    return sys.stdin.readline(_LINE_CHARACTERS_MAX)
