"""The entry point: every way that a command can end has its exit code, and its words or its envelope.

Nothing heavy is imported here: `pasys --version` answers before Typer is loaded.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import pasys

INTERRUPTED = 130
PIPE_CLOSED = 141  # what a shell reports for a program that SIGPIPE ended


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command line, and exit."""
    sys.exit(run(list(sys.argv[1:] if arguments is None else arguments)))


def run(arguments: list[str]) -> int:
    """Run one command line; its exit code."""
    if arguments[:1] in (["--version"], ["-V"]):
        print(f"pasys {pasys.__version__}")
        return 0
    try:
        code = _dispatch(arguments)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the flush at exit complains
        return PIPE_CLOSED


def _dispatch(arguments: list[str]) -> int:
    import typer

    from pasys.cli.tree import complete, tree
    from pasys.errors import PasysError

    complete()
    root = tree()
    try:
        with root.make_context("pasys", arguments) as context:
            root.invoke(context)
        return 0
    except typer.Exit as exit:
        return exit.exit_code
    except typer.Abort:  # end of input at a prompt
        return INTERRUPTED
    except (KeyboardInterrupt, BrokenPipeError):
        raise
    except Exception as error:
        from pasys.cli import failure

        if isinstance(error, typer.TyperException):
            return failure.usage(error, arguments)
        if isinstance(error, PasysError):
            return failure.known(error, arguments)
        return failure.unexpected(error, arguments)
