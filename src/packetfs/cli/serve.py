"""`packetfs serve`: answer one peer over ssh, or the machines that were paired, over TLS; and invite one more."""

import os
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Final

import click

from packetfs.cli import lines
from packetfs.cli.app import command, paths
from packetfs.cli.config import seconds, size
from packetfs.cli.invocation import Invocation
from packetfs.cli.names import shown
from packetfs.cli.quantities import time_json, time_text
from packetfs.errors import EXIT_OK, UsageError
from packetfs.format.location import DEFAULT_PORT, parse_address

if TYPE_CHECKING:
    from packetfs.cli.output import Output
    from packetfs.format.trust import Role
    from packetfs.sync.exports import Exports
    from packetfs.sync.listen import Server
    from packetfs.sync.metrics import Metrics

METRICS_PORT: Final = 20551

_EVERYWHERE = ("0.0.0.0", "[::]", "::")  # noqa: S104 - to tell that nobody can connect to them


@command(
    "serve",
    examples="""
packetfs serve --root /srv/volumes
packetfs serve --root /srv/volumes --listen 192.0.2.7:20550 --max-sessions 4 --quota 500G
packetfs serve --root /srv/volumes --invite --role write --volume photos --expires 1h
packetfs serve --export site=/srv/www --export docs=/srv/docs:ro
packetfs serve --invite --role write --volume site
packetfs serve --stdio
""",
)
@click.option("--stdio", is_flag=True, help="Speak with one peer on standard input and output, as ssh runs it.")
@click.option("--root", metavar="DIR", shell_complete=paths, help="The directory whose volumes are served over TLS.")
@click.option(
    "--export",
    "exports",
    metavar="NAME=DIR[:ro]",
    multiple=True,
    shell_complete=paths,
    help="Let others sync with the directory DIR as pfs://HOST/NAME:/; can be given several times.",
)
@click.option("--listen", metavar="HOST:PORT", help="Where to listen.  [default: every IPv4 interface, port 20550]")
@click.option("--invite", is_flag=True, help="Print a token with which one machine can pair, and end.")
@click.option(
    "--role",
    type=click.Choice(["read", "write", "admin"]),
    default="read",
    help="What that machine may do: write includes read; admin makes new volumes, too.  [default: read]",
)
@click.option("--expires", metavar="TIME", default="24h", help="How long the token is good: 30m, 24h.  [default: 24h]")
@click.option(
    "--address",
    "addresses",
    metavar="HOST[:PORT]",
    multiple=True,
    help="How others reach this machine, for tokens; can be given several times.  [default: its name]",
)
@click.option("--public-read", is_flag=True, help="Let every machine read every volume, paired or not.")
@click.option(
    "--max-sessions", metavar="N", type=click.IntRange(1), default=8, help="At once, of one peer.  [default: 8]"
)
@click.option("--max-bytes-per-s", metavar="SIZE", help="How fast one peer may be, all of its sessions together: 20M.")
@click.option("--quota", metavar="SIZE", help="How much disk each volume may take: 500G.")
@click.option(
    "--metrics",
    metavar="[HOST:]PORT",
    help="Tell numbers to Prometheus over HTTP, at /healthz whether all is well; a PORT alone is for this machine.",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    help="Write what is done for whom to standard error too, line by line.",
)
def serve(
    invocation: Invocation,
    *,
    stdio: bool,
    root: str | None,
    exports: tuple[str, ...],
    listen: str | None,
    invite: bool,
    role: "Role",
    expires: str,
    addresses: tuple[str, ...],
    public_read: bool,
    max_sessions: int,
    max_bytes_per_s: str | None,
    quota: str | None,
    metrics: str | None,
    log_format: str | None,
) -> int:
    """Serve volumes to other machines.

    With --root, the volumes in DIR, over TLS 1.3, to machines that were paired: --invite prints a token (with --volume
    for one volume or export only), `packetfs pair` uses it, `packetfs peers` lists and revokes. It runs until it gets
    SIGTERM or Ctrl-C; what it did for whom is in DIR/.packetfs/audit.jsonl. With --export, plain directories as well,
    for `packetfs sync`: the role `write` may change what is in them. Without --root only those are served.

    With --stdio it answers one peer: `packetfs push DIR HOST:VOLUME::REF` runs that on HOST through ssh. What the peer
    may do is what the user may do whom it logged in as.
    """
    if stdio == (root is not None or invite or bool(exports)):
        raise UsageError(
            "say what: --stdio, or --root or --export",
            hint="--root DIR serves the volumes in DIR over TLS, --export NAME=DIR the directory DIR",
        )
    _check_options("--stdio" if stdio else "--invite" if invite else "--root" if root is not None else "--export")
    if stdio:
        _answer(invocation)
    elif invite:
        _invite(invocation, root, role, seconds(expires, "--expires"), addresses)
    else:
        from packetfs.sync.listen import Limits

        limits = Limits(
            sessions=max_sessions,
            bytes_per_s=_positive(max_bytes_per_s, "--max-bytes-per-s"),
            quota_bytes=_positive(quota, "--quota"),
        )
        _listen(
            invocation,
            root,
            exports,
            listen,
            addresses,
            limits=limits,
            public_read=public_read,
            metrics=metrics,
            log_format=log_format,
        )
    return EXIT_OK


_MEANT_FOR = {
    "--stdio": frozenset({"stdio"}),
    "--invite": frozenset({"root", "invite", "role", "expires", "addresses"}),
    "--root": frozenset(
        {"root", "exports", "listen", "addresses", "public_read", "max_sessions", "max_bytes_per_s", "quota"}
        | {"metrics", "log_format"},
    ),
    "--export": frozenset(
        {"exports", "listen", "addresses", "max_sessions", "max_bytes_per_s", "quota", "metrics", "log_format"}
    ),
}


def _check_options(mode: str) -> None:
    """UsageError if an option was given that would do nothing: whoever gave it expects something of it."""
    context = click.get_current_context()
    for parameter in context.command.params:
        name = parameter.name or ""
        given = context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        if given and parameter.expose_value and name not in _MEANT_FOR[mode]:
            raise UsageError(f"{parameter.opts[-1]} means nothing to `serve {mode}`", hint="leave it out")


def _answer(invocation: Invocation) -> None:
    from packetfs.sync.serve import serve as answer
    from packetfs.sync.usage import prepare_process
    from packetfs.wire.connection import Connection
    from packetfs.wire.transports import Stdio

    prepare_process()
    connection = Connection(Stdio(), ahead=False)
    try:
        answer(connection, lock_wait_s=invocation.settings.lock_wait_s)
    finally:
        connection.close()


def _listen(
    invocation: Invocation,
    place: str | None,
    directories: tuple[str, ...],
    listen: str | None,
    addresses: tuple[str, ...],
    *,
    limits: object,
    public_read: bool,
    metrics: str | None,
    log_format: str | None,
) -> None:
    from packetfs.cli.notify import notify
    from packetfs.sync.exports import Exports, parse_export
    from packetfs.sync.identity import data_directory
    from packetfs.sync.listen import Limits, Server
    from packetfs.sync.root import root_at
    from packetfs.sync.usage import prepare_process

    assert isinstance(limits, Limits)
    prepare_process()
    output = invocation.output
    host, port = parse_address(listen) if listen is not None else parse_address("0.0.0.0")  # noqa: S104 - the default

    def failed(error: Exception) -> None:
        text = f"a session ended because of a bug in PacketFS: {type(error).__name__}: {error}; please report it"
        output.warning(lines.Notice(code="bug", message=text), text)

    root = root_at(place, make=True)
    if log_format is not None:
        root.audit.heard = partial(_log, output, json=log_format == "json")
    own = (root.path, data_directory(invocation.environment))
    with (
        Exports([parse_export(text) for text in directories], spared=own) as exports,
        Server(
            root,
            host,
            port,
            exports=exports,
            limits=limits,
            public_read=public_read,
            lock_wait_s=invocation.settings.lock_wait_s,
            failed=failed,
        ) as server,
        _measured(server, metrics) as measured,
    ):
        try:  # from the first line on: who reads it may end the server at once
            _tell_start(
                output,
                server,
                root.path if place is None else place,
                exports,
                measured,
                public=_reached(addresses, server.address) if public_read else None,
            )
            notify(READY=1, STATUS=f"listening at {server.address}")
            server.run()
        except KeyboardInterrupt:
            notify(STOPPING=1, STATUS="ends: it was told to")
            output.notice(lines.Notice(code="stopped", message="ends: it was told to"), "ends: it was told to")


def _tell_start(
    output: "Output",
    server: "Server",
    root: str,
    exports: "Exports",
    measured: "Metrics | None",
    *,
    public: list[str] | None,
) -> None:
    """Say where it listens and what there is. `public` are its addresses for those who were not paired."""
    line = lines.Listening(
        root=root,
        host=server.host,
        port=server.port,
        device=server.device.hex(),
    )
    output.data(line, f"listening at {server.address}, device {line.device[:12]}")
    if public is not None:
        token = server.public_token(public)
        output.data(lines.PublicToken(token=token), f"every machine may read; for `packetfs pair`: {token}")
    for export in exports:
        exported = lines.Exported(name=export.name, path=os.fsencode(export.path), read_only=export.read_only)
        how = ", for reading only" if export.read_only else ""
        output.data(exported, f"exports {shown(os.fsencode(export.path))} as {export.name}{how}")
    if measured is not None:
        line_ = lines.Measuring(host=measured.host, port=measured.port)
        output.data(line_, f"tells numbers at http://{measured.host}:{measured.port}/metrics")
    output.flush()


def _measured(server: "Server", place: str | None) -> "AbstractContextManager[Metrics | None]":
    """What tells the numbers of `server`, at HOST:PORT or PORT; nothing for None."""
    if place is None:
        return nullcontext()
    from packetfs.sync.metrics import Metrics

    host, port = parse_address(f"127.0.0.1:{place}" if place.isdigit() else place, port=METRICS_PORT)
    return Metrics(server, host, port)


def _log(output: "Output", line: "dict[str, object]", *, json: bool) -> None:
    import msgspec

    if json:
        output.line(msgspec.json.encode(line).decode())
        return
    said = {name: value for name, value in line.items() if name not in ("time_ns", "event", "result")}
    if "device" in said:
        said["device"] = str(said["device"])[:12]
    fields = " ".join(f"{name}={shown(str(value).encode())}" for name, value in said.items() if value != "")
    output.line(f"{line['event']} {line['result']} {fields}".rstrip())


def _invite(
    invocation: Invocation, place: str | None, role: "Role", valid_s: float, addresses: tuple[str, ...]
) -> None:
    from packetfs.format.trust import EVERY_VOLUME, check_volume
    from packetfs.sync.identity import own_identity
    from packetfs.sync.root import root_at

    root = root_at(place)
    volume = str(invocation.flags.get("volume") or EVERY_VOLUME)
    if volume != EVERY_VOLUME:
        check_volume(volume.encode("utf-8", "surrogateescape"))
    if valid_s <= 0:
        raise UsageError("--expires 0 would be a token that nobody can use", hint="write a time such as 1h")
    reached = _reached(addresses, root.listened())
    token, expires_ns = root.invite(root.claim(own_identity()), reached, role, volume, valid_s=valid_s)
    line = lines.Invited(token=token, addresses=reached, role=role, volume=volume, expires=time_json(expires_ns))
    which = "every volume" if volume == EVERY_VOLUME else shown(volume)
    invocation.output.notice(
        lines.Notice(code="invited", message=f"good for one machine, to {role} {which}"),
        f"good for one machine until {time_text(expires_ns)}, to {role} {which}; it connects to {', '.join(reached)}",
    )
    invocation.output.data(line, token)


def _reached(addresses: tuple[str, ...], listened: str) -> list[str]:
    """HOST:PORT that others can connect to: as given, else where the server listens, else the name of this machine."""
    from packetfs.env import SYSTEM

    host, _, port = listened.rpartition(":")
    if not addresses:
        addresses = (SYSTEM.host() if host in ("", *_EVERYWHERE) else host,)
    found = [parse_address(address, port=int(port or DEFAULT_PORT)) for address in addresses]
    return [f"{host}:{port}" for host, port in found]


def _positive(text: str | None, option: str) -> int | None:
    value = None if text is None else size(text, option)
    if value == 0:
        raise UsageError(f"{option} 0 would let nobody do anything", hint="leave it out for no limit")
    return value
