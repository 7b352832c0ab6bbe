"""Each failure ends in one exit code, and in two sentences for a person or one envelope for a program.

    error: what is wrong, with the facts          {"error": {"code": …, "message": …, "facts": {…}, "fix": …}}
    what to do

The envelope goes to stdout, the sentences to stderr.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import typer

from pasys.cli.options import Format
from pasys.cli.output import plain, say, write_json
from pasys.errors import PasysError

_LOOK = "Run it again as `pasys --debug …` for the details."


def wanted(arguments: list[str]) -> Format:
    """The output that a command line asks for, also one that cannot be parsed."""
    found = Format.TABLE
    for position, argument in enumerate(arguments):
        following = arguments[position + 1] if position + 1 < len(arguments) else ""
        if argument == "--":
            break
        if argument == "--json":
            return Format.JSON
        if argument in ("-o", "--output"):
            found = _format(following, found)
        elif argument.startswith("--output="):
            found = _format(argument.removeprefix("--output="), found)
        elif argument.startswith("-o") and not argument.startswith("--"):
            found = _format(argument[2:].lstrip("="), found)
    return found


def _format(text: str, otherwise: Format) -> Format:
    return Format(text) if text in {kind.value for kind in Format} else otherwise


def known(error: PasysError, arguments: list[str]) -> int:
    """Report what pasys has a name for."""
    _trace(arguments)
    _report(envelope(error), arguments)
    return error.exit_code


def envelope(error: PasysError) -> dict[str, Any]:
    """An error as a program reads it."""
    return {
        "code": error.code,
        "message": str(error),
        "facts": {name: plain(value) for name, value in error.facts.items()},
        "fix": error.advice or _LOOK,
    }


def usage(error: typer.TyperException, arguments: list[str]) -> int:
    """Report a command line that cannot be parsed."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "pasys"
    parameter = getattr(error, "param", None)
    option = getattr(error, "option_name", None)
    field = parameter.name if parameter is not None else option.lstrip("-") if option else None
    message = " ".join(error.format_message().split())
    fix = f"`{command} --help` shows how it is used."
    if option in ("--home", "--actor", "--debug"):
        fix = f"Give it before the command: `pasys {option} … {command.removeprefix('pasys').strip()}`."
    facts = {"command": command} | ({"field": field} if field else {})
    _report({"code": "invalid_usage", "message": message, "facts": facts, "fix": fix}, arguments)
    return error.exit_code


def unexpected(error: Exception, arguments: list[str]) -> int:
    """Report a bug."""
    kind = type(error).__name__
    message = f"unexpected: {kind}: {' '.join(str(error).split()) or 'no reason given'}"
    _trace(arguments)
    _report({"code": "unexpected", "message": message, "facts": {"type": kind}, "fix": _LOOK}, arguments)
    return 1


def _report(error: Mapping[str, Any], arguments: list[str]) -> None:
    if wanted(arguments) in (Format.JSON, Format.JSONL):
        write_json({"error": error})
    else:
        print_error(error)


def print_error(error: Mapping[str, Any]) -> None:
    """An error as a person reads it."""
    red, end = ("\x1b[1;31m", "\x1b[0m") if sys.stderr.isatty() else ("", "")
    say(f"{red}error:{end} {error['message']}")
    say(error["fix"])


def _trace(arguments: list[str]) -> None:
    from pasys.cli.console import chosen

    if chosen.debug or "--debug" in arguments[:4]:
        import traceback

        traceback.print_exc()
