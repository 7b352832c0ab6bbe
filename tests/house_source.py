"""The product's source as the house tests read it: its files, their trees, what each imports, and the map of layers."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
# From the top. A module imports from lines below its own; `|` separates neighbours, who are strangers.
MAP = """
daemons | pasys.cli | pasys.tui | pasys.api | pasys.rpc
pasys.stack
pasys.worker
pasys.service | pasys.daemon
pasys.adapters | pasys.db pasys.schema pasys.migration pasys.bulk migrations | pasys.bus pasys.pull
pasys.domain
pasys.events
pasys.config
pasys.brand
pasys.money | pasys.ids
pasys.errors
pasys
"""
LINES = [[room.split() for room in line.split("|")] for line in MAP.strip().splitlines()]
PLACES = {name: (row, room) for row, line in enumerate(LINES) for room, names in enumerate(line) for name in names}


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


OURS = sources("pasys", "daemons", "migrations")
CHECKED = OURS + sources("scripts", "tests")


def short(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), short(path))


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path) for path in OURS}


def imports(path: Path) -> Iterator[tuple[str, int, bool]]:
    """(module, line, whether it stands inside a function) for every import of a file."""
    inside = {
        id(node)
        for function in ast.walk(tree(path))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno, id(node) in inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{short(path)}:{node.lineno} is a relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in MODULES else node.module or "", node.lineno, id(node) in inside


def place(module: str) -> tuple[int, int] | None:
    parts = module.split(".")
    names = (".".join(parts[:size]) for size in range(len(parts), 0, -1))
    return next((PLACES[name] for name in names if name in PLACES), None)


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def names(node: ast.AST) -> Iterator[str]:
    """Every name and attribute that is read below a node."""
    for found in ast.walk(node):
        if isinstance(found, ast.Name):
            yield found.id
        elif isinstance(found, ast.Attribute):
            yield found.attr


def run_python(code: str) -> str:
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout
