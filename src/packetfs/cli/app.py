"""The group of commands, its options and its help. A command's module is imported when that command is called.

Nothing here runs a command's work; see the module that `COMMANDS` names.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import click

from packetfs.cli import config
from packetfs.cli.invocation import Invocation

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_ORDER: Final = "packetfs.order"

# name -> (module, first line of its help): what `packetfs --help` needs without loading any of them
COMMANDS: Final = {
    "init": ("init", "Create an empty volume."),
    "push": ("push", "Store directories and files as a new snapshot of a ref."),
    "pull": ("pull", "Write a snapshot, or a part of it, into a directory."),
    "sync": ("sync", "Make a directory on one machine hold what one on another machine holds."),
    "ls": ("ls", "List what a snapshot holds."),
    "cat": ("cat", "Write files of a snapshot to standard output."),
    "find": ("find", "Find in which snapshots a file was."),
    "diff": ("diff", "Compare two snapshots, or two paths in them."),
    "log": ("log", "List the snapshots of a ref, newest first."),
    "refs": ("refs", "List the refs of a volume."),
    "status": ("status", "Tell how large a volume is and where its journal stands."),
    "clone": ("clone", "Make a replica of another machine's volume in DIR, or bring it up to date."),
    "replicate": ("replicate", "Make DIR a full replica of another machine's volume, and keep it up to date."),
    "promote": ("promote", "Make a full replica the origin of its volume."),
    "forget": ("forget", "Stop keeping old snapshots of a ref."),
    "rm": ("rm", "Remove refs with all of their snapshots."),
    "gc": ("gc", "Give back the space that no snapshot needs."),
    "verify": ("verify", "Check every byte of a volume against its digest."),
    "rebuild": ("rebuild", "Recover a lost or damaged journal from the segments."),
    "bench": ("bench", "Tell what new versions of your data would cost to move, beside rsync and a full copy."),
    "serve": ("serve", "Serve volumes to other machines."),
    "pair": ("pair", "Pair this machine with a server, by a token that `packetfs serve --invite` printed there."),
    "peers": ("peers", "List the machines that a server lets in, rename one, or revoke it."),
    "completion": ("completion", "Print the script that completes `packetfs` in a shell."),
    "version": ("version", "Print the versions of PacketFS and what it stands on."),
}


class Command(click.Command):
    """A click command whose help ends with examples and tells its own options from those of every command."""

    examples: str = ""

    def make_parser(self, ctx: click.Context) -> Any:
        """Keep the order in which options were given, of different ones too: `given_in_order` tells it."""
        parser = super().make_parser(ctx)
        parse = parser.parse_args

        def parse_args(args: list[str]) -> Any:
            found = parse(args)
            ctx.meta[_ORDER] = [parameter.name for parameter in found[2]]
            return found

        parser.parse_args = parse_args  # type: ignore[method-assign]  # what click itself drops
        return parser

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write two sections: what is particular to this command, and what every command understands."""
        own: list[tuple[str, str]] = []
        shared: list[tuple[str, str]] = []
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record is not None:
                (shared if parameter.name in _SHARED_NAMES or parameter.name == "help" else own).append(record)
        for title, records in (("Options", own), ("Options of every command", shared)):
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples as they are, one command a line."""
        del ctx
        if self.examples:
            with formatter.section("Examples"):
                for line in self.examples.strip("\n").splitlines():
                    formatter.write(f"{'':>{formatter.current_indent}}{line}\n")


class Group(click.Group):
    """The commands, by name; listing them loads none."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the commands in the order in which one meets them."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the one command that is asked for."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"packetfs.cli.{COMMANDS[cmd_name][0]}")
        found: click.Command = getattr(module, cmd_name)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of commands."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or say which names come close."""
        if args[0] not in COMMANDS and not ctx.resilient_parsing and not args[0].startswith("-"):
            from difflib import get_close_matches

            close = get_close_matches(args[0], COMMANDS, n=2)
            advice = f"did you mean {' or '.join(close)}?" if close else "`packetfs --help` lists the commands"
            raise click.UsageError(f"there is no command {args[0]!r}; {advice}", ctx)
        return super().resolve_command(ctx, args)


def command(name: str, *, examples: str) -> Callable[[Callable[..., int | None]], Command]:
    """Make a command of a function that takes an `Invocation` and its own parameters, and returns an exit code."""

    def make(function: Callable[..., int | None]) -> Command:
        @wraps(function)
        def call(**arguments: Any) -> int | None:
            invocation = click.get_current_context().find_object(Invocation)
            assert invocation is not None, "`guard.run` passes one"
            invocation.check()
            return function(invocation, **arguments)

        made: Command = click.command(name, cls=Command, short_help=COMMANDS[name][1])(shared_options(call))
        made.examples = examples
        return made

    return make


def remote_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command what it takes to reach a volume on another machine."""
    for option in reversed(_REMOTE):
        function = option(function)
    return function


def ssh_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command what it takes to reach a volume on another machine of which it keeps nothing here."""
    for option in reversed(_REMOTE[:2]):
        function = option(function)
    return function


def given_in_order(**options: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The values of some options that can be given several times, in the order of the command line: (name, value)."""
    values = {name: iter(given) for name, given in options.items()}
    for name in click.get_current_context().meta[_ORDER]:
        if name in values and (value := next(values[name], None)) is not None:
            yield name, value


def paths(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> "list[CompletionItem]":
    """Complete an argument as the shell completes file names."""
    from click.shell_completion import CompletionItem

    del ctx, parameter
    return [CompletionItem(incomplete, type="file")]


def shared_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that every command has; what they are given lands in `Invocation.flags`."""
    for option in reversed(_SHARED):
        function = option(function)
    return function


def _keep(field: str, read: Callable[[Any], Any]) -> Callable[[click.Context, click.Parameter, Any], None]:
    def keep(ctx: click.Context, parameter: click.Parameter, value: Any) -> None:
        del parameter
        if value is not None and isinstance(ctx.obj, Invocation):
            ctx.obj.flags[field] = read(value)

    return keep


_REMOTE: Final = (
    click.option(
        "-e",
        "--ssh",
        "ssh_command",
        metavar="COMMAND",
        expose_value=False,
        callback=_keep("ssh", str),
        help="What reaches another machine: 'ssh -p 2222'.  [env: PACKETFS_SSH]",
    ),
    click.option(
        "--remote-packetfs",
        metavar="PATH",
        expose_value=False,
        callback=_keep("remote_packetfs", str),
        help="Where packetfs is on that machine.  [env: PACKETFS_REMOTE]",
    ),
    click.option(
        "--cache-size",
        metavar="SIZE",
        expose_value=False,
        callback=_keep("cache_bytes", lambda text: config.size(text, "--cache-size")),
        help="How much of its volume to keep here: 2G.  [default: a tenth of the free disk; env: PACKETFS_CACHE_SIZE]",
    ),
    click.option(
        "--bwlimit",
        metavar="RATE",
        expose_value=False,
        callback=_keep("rate_bytes_s", lambda text: config.rate(text, "--bwlimit")),
        help="Move at most so much a second each way: 500K, 2M; a bare number counts KiB.  [env: PACKETFS_BWLIMIT]",
    ),
)
_SHARED: Final = (
    click.option(
        "--volume",
        "default_volume",
        metavar="VOLUME",
        expose_value=False,
        callback=_keep("volume", str),
        help="The volume of a location that names none.  [env: PACKETFS_VOLUME]",
    ),
    click.option(
        "--lock-wait",
        metavar="TIME",
        expose_value=False,
        callback=_keep("lock_wait_s", lambda text: config.seconds(text, "--lock-wait")),
        help="How long to wait for another process: 10, 30s, 2m.  [env: PACKETFS_LOCK_WAIT]",
    ),
    click.option(
        "--json",
        "as_json",
        is_flag=True,
        default=None,
        expose_value=False,
        callback=_keep("json", bool),
        help="Events on standard output, one JSON object a line.  [env: PACKETFS_JSON]",
    ),
    click.option(
        "--progress/--no-progress",
        "with_progress",
        default=None,
        expose_value=False,
        callback=_keep("progress", bool),
        help="Whether to tell how far a running operation is.  [env: PACKETFS_PROGRESS]",
    ),
    click.option(
        "-q",
        "--quiet",
        is_flag=True,
        default=None,
        expose_value=False,
        callback=_keep("verbosity", lambda _: -1),
        help="Only errors and what was asked for.",
    ),
    click.option(
        "-v",
        "--verbose",
        is_flag=True,
        default=None,
        expose_value=False,
        callback=_keep("verbosity", lambda _: 1),
        help="Every change as well.",
    ),
)
_SHARED_NAMES: Final = frozenset({"default_volume", "lock_wait", "as_json", "with_progress", "quiet", "verbose"})


def _version(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:  # noqa: FBT001 - click's signature
    del parameter
    if value and not ctx.resilient_parsing:
        from packetfs import __version__

        click.echo(f"packetfs {__version__}")
        ctx.exit()


@click.group(
    cls=Group,
    no_args_is_help=False,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Print the version."
)
@shared_options
@click.pass_context
def app(ctx: click.Context) -> None:
    """Keep directory trees in volumes: address spaces of bytes in which nothing is stored twice.

    A LOCATION is [[USER@]HOST:]VOLUME::REF[@WHEN][:/PATH]. REF is `main` when it is left out; WHEN is `latest`, `~N`,
    a time or a snapshot id. HOST is reached over ssh, and needs packetfs, too; pfs://HOST/VOLUME:REF is on a server
    that this machine has paired with. With PACKETFS_VOLUME (or --volume) set, `::REF` and plain `REF` mean that volume.

    \b
    Exit codes: 0 done, 1 failed, 2 wrong use, 3 done in part, 4 conflict, 5 damaged data, 6 busy,
    7 disk unavailable, 8 refused, 130 interrupted.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
