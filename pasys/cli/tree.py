"""The tree of commands: names and one line each. A noun's file is imported when one of its commands is used."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from pasys.cli.command import Group
from pasys.errors import InvalidInput


@dataclass(frozen=True)
class Entry:
    """A name at the root: a noun's whole app, or with `command` one command of it."""

    module: str
    help: str
    command: str | None = None


TREE: dict[str, dict[str, Entry]] = {
    "The stack": {
        "up": Entry("stack", "Start what is missing, and say when it is ready.", "up"),
        "down": Entry("stack", "Stop cleanly; the data stay.", "down"),
        "restart": Entry("stack", "Restart one server or daemon.", "restart"),
        "status": Entry("stack", "Every server and daemon: state, lag, rate, last error.", "status"),
        "logs": Entry("stack", "The logs of all of them, merged and filtered.", "logs"),
        "dash": Entry("dash", "The system in one terminal: live, by keyboard.", "dash"),
        "doctor": Entry("stack", "Name each fault, with a fix that cures it.", "doctor"),
        "demo": Entry("demo", "Realistic traffic through the real system.", "demo"),
    },
    "Money": {
        "account": Entry("account", "Accounts: open, look, freeze, close."),
        "tx": Entry("transaction", "Transactions: payments, transfers, deposits, withdrawals."),
        "refund": Entry("refund", "Refunds: all or part of a payment goes back."),
        "fraud": Entry("fraud", "The fraud check: reviews, rules, explanations."),
        "reconcile": Entry("reconcile", "The PSP's statement against the books."),
        "ledger": Entry("ledger", "The books: verify them, read them."),
        "trace": Entry("trace", "From any id: everything that belongs to it.", "trace"),
    },
    "The machine room": {
        "events": Entry("events", "The bus: who says what to whom, tail, dead letters, replay."),
        "daemon": Entry("daemon", "One daemon in the foreground, for systemd, Compose and Kubernetes."),
        "migrate": Entry("migrate", "The database's schema: plan, bring up to date, look."),
        "backup": Entry("backup", "A base backup of the embedded database, and what there is.", "backup"),
        "restore": Entry("restore", "The embedded database as it was at a time; or a drill.", "restore"),
        "bench": Entry("bench", "Measured speed, with the hardware stated."),
    },
}


class Root(Group):
    """Knows every name without importing it."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(_entries())

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        entry = _entries().get(cmd_name)
        return None if entry is None else load(cmd_name, entry)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        self.commands = dict.fromkeys(_entries())  # type: ignore[arg-type]  # names, for "did you mean"
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        for title, entries in TREE.items():
            with formatter.section(title):
                formatter.write_dl([(name, entry.help) for name, entry in entries.items()])

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        from typer._click.shell_completion import CompletionItem  # Typer has no public name for it

        found = [(name, entry.help) for name, entry in _entries().items() if name.startswith(incomplete)]
        options = super(TyperGroup, self).shell_complete(ctx, incomplete)
        return [CompletionItem(name, help=line) for name, line in found] + options


def _entries() -> dict[str, Entry]:
    return {name: entry for entries in TREE.values() for name, entry in entries.items()}


def load(name: str, entry: Entry) -> Any:
    """Import a noun's file; its group, or the one command that is meant."""
    app = import_module(f"pasys.cli.{entry.module}").app
    group = typer.main.get_group(app)
    if entry.command is not None:
        return group.commands[entry.command]
    group.name = name
    return group


def _version(wanted: bool) -> None:
    if wanted:
        import pasys

        typer.echo(f"pasys {pasys.__version__}")
        raise typer.Exit()


Version = Annotated[bool, typer.Option("--version", "-V", is_eager=True, callback=_version, help="The version.")]


def _root(
    context: typer.Context,
    home: Annotated[str | None, typer.Option("--home", metavar="DIR", help="The home; else $PASYS_HOME.")] = None,
    actor: Annotated[str | None, typer.Option("--actor", metavar="NAME", help="Who acts; else you.")] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Version = False,
) -> None:
    if context.resilient_parsing:
        return
    from pasys.cli.console import chosen

    chosen.home = Path(home).expanduser() if home else None
    if chosen.home is not None and chosen.home.exists() and not chosen.home.is_dir():
        raise InvalidInput(field="home", reason=f"{chosen.home} is not a folder")
    chosen.actor, chosen.debug = actor, debug
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def tree() -> Any:
    """The root command."""
    app = typer.Typer(
        cls=Root,
        name="pasys",
        help="Payments, settlement, and the double-entry books that prove them.",
        epilog=(
            "\b\nExamples:\n  pasys up -d\n  pasys account open alice --type customer --asset USD\n"
            "  pasys tx create --from alice --to shop --amount 12.50 --asset USD --rail stripe --wait\n  pasys status"
        ),
        invoke_without_command=True,
        rich_markup_mode=None,
    )
    app.callback(invoke_without_command=True)(_root)
    return typer.main.get_command(app)


def complete() -> None:
    """Answer a shell that asks for completions, and exit; else nothing."""
    if "_PASYS_COMPLETE" in os.environ:
        tree().main(prog_name="pasys", complete_var="_PASYS_COMPLETE", args=[])
