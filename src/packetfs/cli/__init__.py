"""The command line. `main` is the entry point; each command is a module of its own, imported when it is called.

The commands decide nothing about volumes: they turn words into calls, and what happened into words or JSON lines.
"""


def main() -> None:
    """Run `packetfs` with the process's arguments and exit with one of the codes of `packetfs.errors`."""
    import gc
    import sys

    from packetfs.cli.signals import heard

    try:
        with heard():
            from packetfs.cli.guard import run

            code = run(sys.argv[1:])
    except KeyboardInterrupt:  # while the modules were still being loaded
        code = 130
    # Python would look for cycles in all that the modules made before it ends: 25 of 170 ms for loading and ending.
    gc.freeze()
    raise SystemExit(code)
