"""`packetfs peers`: which machines a server lets in. What is changed here counts at once, also for open sessions."""

import click

from packetfs.cli import lines
from packetfs.cli.app import command, paths
from packetfs.cli.invocation import Invocation
from packetfs.cli.names import shown
from packetfs.cli.quantities import time_json, time_text
from packetfs.errors import UsageError
from packetfs.format import trust
from packetfs.sync.root import Root


@command(
    "peers",
    examples="""
packetfs peers --root /srv/volumes
packetfs peers --root /srv/volumes rename laptop ada-laptop
packetfs peers --root /srv/volumes revoke ada-laptop
""",
)
@click.argument("action", type=click.Choice(["list", "rename", "revoke"]), default="list", metavar="[rename|revoke]")
@click.argument("names", nargs=-1, metavar="[PEER] [NAME]")
@click.option("--root", metavar="DIR", required=True, shell_complete=paths, help="The directory that is served.")
def peers(invocation: Invocation, *, action: str, names: tuple[str, ...], root: str) -> None:
    """List the machines that a server lets in, rename one, or revoke it.

    PEER is a name, or at least 8 digits of a device id. A machine that is revoked is let in no more, and its open
    sessions end within a quarter of a second.
    """
    found = Root(root)
    wanted = {"list": 0, "rename": 2, "revoke": 1}[action]
    if len(names) != wanted:
        raise UsageError(
            f"`peers {action}` takes {wanted} names, and {len(names)} were given",
            hint="packetfs peers --root DIR rename PEER NAME; packetfs peers --root DIR revoke PEER",
        )
    if action == "list":
        _list(invocation, found.book.read())
    elif action == "rename":
        _rename(invocation, found, *names)
    else:
        _revoke(invocation, found, names[0])


def _list(invocation: Invocation, book: trust.Book) -> None:
    known = sorted(book.peers, key=lambda peer: peer.name)
    width = max((len(peer.name) for peer in known), default=0)
    for peer in known:
        line = lines.PeerLine(
            name=peer.name, device=peer.device, grants=dict(peer.grants), paired=time_json(peer.paired_ns)
        )
        grants = ", ".join(
            f"{role} {'every volume' if name == trust.EVERY_VOLUME else shown(name)}"
            for name, role in sorted(peer.grants.items())
        )
        invocation.output.data(line, f"{peer.name:<{width}}  {peer.device[:12]}  {time_text(peer.paired_ns)}  {grants}")
    if not known:
        text = "no machine is paired; `packetfs serve --root DIR --invite` prints a token for one"
        invocation.output.notice(lines.Notice(code="no-peers", message=text), text)


def _rename(invocation: Invocation, root: Root, old: str, new: str) -> None:
    def step(book: trust.Book) -> tuple[trust.Book, trust.Peer]:
        peer = trust.find_peer(book, old)
        return trust.renamed(book, peer, new), peer

    peer = root.book.change(step)
    root.audit.write("rename", device=peer.device, peer=new, was=peer.name)
    line = lines.PeerChanged(action="rename", name=new, device=peer.device)
    invocation.output.notice(line, f"{shown(peer.name)} is called {shown(new)} now")


def _revoke(invocation: Invocation, root: Root, name: str) -> None:
    def step(book: trust.Book) -> tuple[trust.Book, trust.Peer]:
        peer = trust.find_peer(book, name)
        return trust.revoked(book, peer), peer

    peer = root.book.change(step)
    root.audit.write("revoke", device=peer.device, peer=peer.name)
    line = lines.PeerChanged(action="revoke", name=peer.name, device=peer.device)
    invocation.output.notice(line, f"{shown(peer.name)}, device {peer.device[:12]}, is let in no more")
