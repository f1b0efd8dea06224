"""`packetfs peers`: which machines a server lets in. What is changed here counts at once, also for open sessions."""

import click

from packetfs.cli import lines
from packetfs.cli.app import command, paths
from packetfs.cli.invocation import Invocation
from packetfs.cli.names import shown
from packetfs.cli.quantities import time_json, time_text
from packetfs.env import SYSTEM
from packetfs.errors import UsageError
from packetfs.format import trust
from packetfs.sync.root import Root, root_at


@command(
    "peers",
    examples="""
packetfs peers --root /srv/volumes
packetfs peers --root /srv/volumes rename laptop ada-laptop
packetfs peers --root /srv/volumes revoke ada-laptop
packetfs peers --root /srv/volumes revoke 1f0c3a9e2b71
""",
)
@click.argument("action", type=click.Choice(["list", "rename", "revoke"]), default="list", metavar="[rename|revoke]")
@click.argument("names", nargs=-1, metavar="[PEER] [NAME]")
@click.option(
    "--root",
    metavar="DIR",
    shell_complete=paths,
    help="The directory that is served.  [default: of a server that only exports directories]",
)
def peers(invocation: Invocation, *, action: str, names: tuple[str, ...], root: str | None) -> None:
    """List the machines that a server lets in, rename one, or revoke it.

    PEER is a name, or at least 8 digits of a device id. A machine that is revoked is let in no more, and its open
    sessions end within a quarter of a second. Tokens that nobody has used yet are listed, too, and can be revoked.
    """
    found = root_at(root)
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
        grants = ", ".join(_grant(role, name) for name, role in sorted(peer.grants.items()))
        invocation.output.data(line, f"{peer.name:<{width}}  {peer.device[:12]}  {time_text(peer.paired_ns)}  {grants}")
    for one in trust.open_invitations(book, SYSTEM.now_ns()):
        invitation = lines.OpenInvitation(
            digest=one.digest, role=one.role, volume=one.volume, expires=time_json(one.expires_ns)
        )
        grant = _grant(one.role, one.volume)
        text = f"token {one.digest[:12]}, not used yet, good until {time_text(one.expires_ns)}: {grant}"
        invocation.output.data(invitation, text)
    if not known:
        text = "no machine is paired; `packetfs serve --root DIR --invite` prints a token for one"
        invocation.output.notice(lines.Notice(code="no-peers", message=text), text)


def _grant(role: str, volume: str) -> str:
    return f"{role} {'every volume' if volume == trust.EVERY_VOLUME else shown(volume)}"


def _rename(invocation: Invocation, root: Root, old: str, new: str) -> None:
    def step(book: trust.Book) -> tuple[trust.Book, trust.Peer]:
        peer = trust.find_peer(book, old)
        return trust.renamed(book, peer, new), peer

    peer = root.book.change(step)
    root.audit.write("rename", device=peer.device, peer=new, was=peer.name)
    line = lines.PeerChanged(action="rename", name=new, device=peer.device)
    invocation.output.notice(line, f"{shown(peer.name)} is called {shown(new)} now")


def _revoke(invocation: Invocation, root: Root, name: str) -> None:
    def step(book: trust.Book) -> tuple[trust.Book, trust.Peer | trust.Invitation]:
        if (done := trust.cancelled(book, name.lower(), SYSTEM.now_ns())) is not None:
            return done
        peer = trust.find_peer(book, name)
        return trust.revoked(book, peer), peer

    gone = root.book.change(step)
    if isinstance(gone, trust.Invitation):
        root.audit.write("revoke", digest=gone.digest, role=gone.role, volume=gone.volume)
        line = lines.PeerChanged(action="revoke", name="", device="")
        invocation.output.notice(line, f"token {gone.digest[:12]} is good for nobody any more")
        return
    root.audit.write("revoke", device=gone.device, peer=gone.name)
    line = lines.PeerChanged(action="revoke", name=gone.name, device=gone.device)
    invocation.output.notice(line, f"{shown(gone.name)}, device {gone.device[:12]}, is let in no more")
