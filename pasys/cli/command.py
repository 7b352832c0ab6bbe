"""A command is a function with a docstring, typed parameters and examples; a noun is a group of them.

A function that has a parameter `output` gets `--json` beside `-o/--output`; one that has `--wait` may be given it bare.
Parameters of plain types are read here: Typer would load pydantic for that, which costs every command 0.1 s.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any, get_args, get_origin

import typer
from typer.core import TyperCommand, TyperGroup

from pasys.cli.options import FINAL, Format

JsonFlag = Annotated[bool, typer.Option("--json", help="Short for -o json.")]
_WORDS = {int: "a whole number", float: "a number"}


class Command(TyperCommand):
    """A command whose --wait may stand alone."""

    def get_params(self, ctx: Any) -> list[Any]:
        return read_plainly(super().get_params(ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if any("--wait" in parameter.opts for parameter in self.params):
            args = [f"--wait={FINAL}" if argument == "--wait" else argument for argument in args]
        return super().parse_args(ctx, args)


class Group(TyperGroup):
    """The commands of a noun, or of the root."""

    def get_params(self, ctx: Any) -> list[Any]:
        return read_plainly(super().get_params(ctx))


class Noun(typer.Typer):
    """The commands of one noun: `app = Noun("account", "Accounts: …")`. Alone, it prints its help."""

    def __init__(self, name: str, help: str) -> None:
        super().__init__(name=name, cls=Group, help=help, rich_markup_mode=None, add_completion=False)
        self.callback(invoke_without_command=True)(_help_when_alone)

    def command(self, name: str, *, examples: str, hidden: bool = False) -> Callable[[Callable], Callable]:  # type: ignore[override]
        """Wire a function as a command. `examples`: command lines as one types them, one a line."""
        listed = "\n".join(f"  {line.strip()}" for line in examples.strip().splitlines())
        wire = super().command(name, cls=Command, epilog=f"\b\nExamples:\n{listed}", hidden=hidden)

        def decorate(call: Callable) -> Callable:
            wire(_with_json(call))
            return call

        return decorate


def _help_when_alone(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def _with_json(call: Callable) -> Callable:
    signature = inspect.signature(call, eval_str=True)
    if "output" not in signature.parameters:
        return call

    @functools.wraps(call)
    def with_json(*, json: bool, **named: Any) -> None:
        if json:
            named["output"] = Format.JSON
        call(**named)

    flag = inspect.Parameter("json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=JsonFlag)
    parameters = [*signature.parameters.values(), flag]
    keyword_only = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    with_json.__signature__ = signature.replace(parameters=keyword_only)  # type: ignore[attr-defined]
    with_json.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return with_json


def read_plainly(parameters: list[Any]) -> list[Any]:
    """Give parameters of plain types a reader of their own, in place of Typer's, which imports pydantic."""
    for parameter in parameters:
        kind = parameter.type_descriptor.annotation
        if _plain(get_args(kind)[0] if get_origin(kind) is list else kind):
            parameter.get_runtime_param = functools.partial(_Reader, kind)
    return parameters


def _plain(kind: Any) -> bool:
    return kind in (str, int, float, bool) or (isinstance(kind, type) and issubclass(kind, StrEnum))


class _Reader:
    """What Typer asks for a parameter's value: `coerce`, as its own readers have it."""

    def __init__(self, kind: Any) -> None:
        self.kind = kind

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        many = get_origin(self.kind) is list
        if value is None:
            return () if many else None
        kind = get_args(self.kind)[0] if many else self.kind
        return [_read(kind, item, param, ctx) for item in value] if many else _read(kind, value, param, ctx)


def _read(kind: Any, value: Any, param: Any, ctx: Any) -> Any:
    if isinstance(value, kind):
        found = value
    else:
        try:
            found = kind(value)
        except ValueError:
            wanted = _WORDS.get(kind) or f"one of {', '.join(member.value for member in kind)}"
            raise typer.BadParameter(f"{value!r} is not {wanted}", ctx=ctx, param=param) from None
    low, high = getattr(param, "min", None), getattr(param, "max", None)
    if kind in (int, float) and not _within(found, low, high):
        bounds = [f"at least {low}"] * (low is not None) + [f"at most {high}"] * (high is not None)
        raise typer.BadParameter(f"{value!r} is not {' and '.join(bounds)}", ctx=ctx, param=param)
    return found


def _within(number: float, low: float | None, high: float | None) -> bool:
    return number == number and (low is None or low <= number) and (high is None or number <= high)
