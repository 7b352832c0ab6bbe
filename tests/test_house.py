"""The rules of the house, read from the source: layers, sizes, words, wiring. A rule that nobody checks is a wish.

One rule is put otherwise here than the sentence in the design, for a reason: settings declare tokens, so `config`
stands above `money` and `ids` instead of beside them.
Whoever starts a process imports it by its name, in the function that starts it: the worker its daemons, `pasys daemon
run` the webhook face and the simulator, `pasys dash` its application. No other import points anywhere but down.
Imports under TYPE_CHECKING count like any other: a type is a dependency of the reader, if not of the interpreter.
"""

from __future__ import annotations

import ast
import importlib
import re
import string
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import Any

import pytest

from pasys import errors, worker
from pasys.events import CATALOG
from pasys.schema import metadata
from tests.house_source import (
    CHECKED,
    OURS,
    ROOT,
    functions,
    imports,
    module_of,
    names,
    place,
    run_python,
    short,
    sources,
    tree,
)

# Form ----------------------------------------------------------------------------------------------------------------


def test_each_file_says_first_what_is_true_inside():
    """Every file of the product begins with a docstring whose first sentence ends."""
    silent = [short(path) for path in OURS if not re.match(r".+[.:;]", ast.get_docstring(tree(path)) or "", re.DOTALL)]
    assert not silent


def test_files_have_at_most_400_lines():
    """A file holds one noun and can be read in one sitting."""
    lines = {short(path): len(path.read_text(encoding="utf-8").splitlines()) for path in CHECKED}
    assert not {name: count for name, count in lines.items() if count > 400}


def test_functions_have_at_most_60_lines():
    """A function can be seen whole."""
    sizes = {
        f"{short(path)}:{function.lineno} {function.name}": (function.end_lineno or 0) - function.lineno + 1
        for path in CHECKED
        for function in functions(path)
    }
    assert not {name: size for name, size in sizes.items() if size > 60}


def test_each_test_is_a_claim():
    """Every test has a docstring, which says what is true when it passes."""
    mute = [
        f"{short(path)}:{function.lineno} {function.name}"
        for path in sources("tests")
        if path.name.startswith("test_")
        for function in functions(path)
        if function.name.startswith("test_") and not ast.get_docstring(function)
    ]
    assert not mute


def test_nothing_is_left_to_do():
    """No file announces work that is not done."""
    marks = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "HA" + "CK")) + r")\b")
    texts = [*CHECKED, *ROOT.glob("pasys/**/*.sql"), *ROOT.glob("migrations/**/*.sql")]
    assert not [short(path) for path in texts if marks.search(path.read_text(encoding="utf-8"))]


def test_the_library_does_not_print():
    """Faces talk to people; the stack's processes may write to stderr, which is their log; a library says nothing."""
    talkers = []
    for path in OURS:
        if short(path).startswith(("pasys/cli/", "pasys/simulator/__main__")):
            continue
        calls = [node for node in ast.walk(tree(path)) if isinstance(node, ast.Call)]
        for call in calls:
            logs = short(path).startswith("pasys/stack/") and any(word.arg == "file" for word in call.keywords)
            if isinstance(call.func, ast.Name) and call.func.id == "print" and not logs:
                talkers.append(f"{short(path)}:{call.lineno}")
    assert not talkers


# Layers --------------------------------------------------------------------------------------------------------------


# Processes are found by their names: whoever starts one imports it then, inside the function that starts it.
STARTS = {
    ("pasys.worker", "daemons"),
    ("pasys.cli.daemon", "daemons.webhook"),
    ("pasys.cli.daemon", "pasys.simulator.__main__"),
    ("pasys.cli.dash", "pasys.tui.app"),
    ("pasys.cli.dash", "pasys.tui.web"),
}


def crossings() -> Iterator[tuple[str, int, str]]:
    """(module, line, imported module) for every import of one part of the product by another, but for its starts."""
    for path in OURS:
        for module, line, late in imports(path):
            ours = module.split(".")[0] in ("pasys", "daemons", "migrations")
            if ours and not (late and (module_of(path), module) in STARTS):
                yield module_of(path), line, module


def test_imports_point_down():
    """A module imports only from the lines below its own; neighbours are strangers."""
    assert not [path for path in OURS if place(module_of(path)) is None], "in no layer"
    wrong = []
    for module, line, imported in crossings():
        mine, theirs = place(module), place(imported)
        assert mine is not None and theirs is not None, f"{module} imports {imported}, which is in no layer"
        if theirs != mine and theirs[0] <= mine[0]:
            wrong.append(f"{module}:{line} imports {imported}")
    assert not wrong


def test_the_simulator_is_a_stranger():
    """The PSP simulator is a program of its own: it imports nothing of pasys, and nobody imports it but to start it."""
    parts = [(module, line, imported, "pasys.simulator") for module, line, imported in crossings()]
    assert not [part for *part, home in parts if part[0].startswith(home) != part[2].startswith(home)]


def test_rules_know_nothing_of_the_world():
    """domain/ imports the standard library, numpy and msgspec; it awaits nothing, reads no clock and opens no file."""
    known = {*sys.stdlib_module_names, "numpy", "msgspec", "pasys"}
    world = {"asyncio", "time", "socket", "subprocess", "os", "pathlib", "random", "threading", "secrets"}
    wrong = []
    for path in sources("pasys/domain"):
        top = {module.split(".")[0] for module, _, _ in imports(path)}
        wrong += [f"{short(path)} imports {module}" for module in (top - known) | (top & world)]
        waits = ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith
        wrong += [f"{short(path)}:{node.lineno} waits" for node in ast.walk(tree(path)) if isinstance(node, waits)]
        called = [call.func for call in ast.walk(tree(path)) if isinstance(call, ast.Call)]
        asks = {
            func.attr if isinstance(func, ast.Attribute) else f"{func.id}()"
            for func in called
            if isinstance(func, ast.Attribute | ast.Name)
        }
        wrong += [f"{short(path)} asks {name}" for name in asks & {"now", "utcnow", "today", "time_ns", "open()"}]
    assert not wrong


def test_rules_load_nothing_that_waits():
    """Importing every module of domain/ loads no event loop, no driver and no bus."""
    modules = [module_of(path) for path in sources("pasys/domain")]
    heavy = "{'asyncio', 'sqlalchemy', 'psycopg', 'nats', 'redis', 'aiohttp'}"
    loaded = run_python(f"import sys, {', '.join(modules)}; print(sorted({heavy} & set(sys.modules)))")
    assert loaded.strip() == "[]"


@pytest.mark.parametrize("asked", ["--help", "--version"])
def test_help_stays_light(asked: str):
    """Help and version load nothing heavy: no driver, no event loop, no server, no numpy."""
    code = (
        f"import sys; sys.argv = ['pasys', '{asked}']\n"
        "from pasys.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "print('LOADED', *sorted({name.split('.')[0] for name in sys.modules}))"
    )
    heavy = {"web3", "xgboost", "textual", "grpc", "sqlalchemy", "nats", "psycopg", "redis", "numpy", "asyncio"}
    heavy |= {"aiohttp", "alembic", "stripe", "starlette", "uvicorn"}
    assert not heavy & set(run_python(code).split("LOADED")[1].split())


SQL = re.compile(
    r"\s*(?:select\s.*from|insert into|update \w+ set|delete from|with \w+ as|truncate|listen|"
    r"(?:create|alter) (?:table|index|role|database))\b",
    re.IGNORECASE | re.DOTALL,
)
DRIVERS = {"sqlalchemy", "psycopg"}
# The worker's own bookkeeping: inbox, outbox, locks of timers, and what its own failures look like.
SQL_IN = ("pasys/service/", "pasys/db.py", "pasys/driver.py", "pasys/schema/", "pasys/migration.py", "pasys/worker/")
SQL_IN += ("pasys/stack/",)


def test_sql_lives_in_verbs():
    """Only service/ asks the database; beside it db.py, migrations, the worker's in- and outbox, and the stack."""
    wrong = []
    for path in OURS:
        if short(path).startswith((*SQL_IN, "migrations/", "pasys/simulator/")):
            continue
        wrong += [
            f"{short(path)}:{line} imports {module}"
            for module, line, _ in imports(path)
            if module.split(".")[0] in DRIVERS
        ]
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and SQL.match(node.value):
                wrong.append(f"{short(path)}:{node.lineno} {node.value[:40]!r}")
    assert not wrong


def test_verbs_never_open_or_end_a_unit():
    """A verb takes a Unit; only faces and workers open, commit or roll back one, and the door that counts velocities,
    whose looks at the books belong to no unit."""
    wrong = [
        f"{short(path)}:{node.lineno} {node.func.attr}"
        for path in sources("pasys/service")
        if path.name != "fraud_watch.py"
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if node.func.attr in ("unit", "commit", "rollback", "begin")
    ]
    assert not wrong


# Wiring --------------------------------------------------------------------------------------------------------------


def daemons() -> dict[str, Any]:
    return {name: worker.load(name) for name in worker.daemon_names()}


def announced() -> set[str]:
    """The events that verbs and handlers make: those that they name where a value is meant, and not a type."""
    made: set[str] = set()
    for path in sources("pasys/service", "daemons"):
        nodes = list(ast.walk(tree(path)))
        hints = [getattr(node, field, None) for node in nodes for field in ("annotation", "returns")]
        types = {id(inner) for hint in hints if isinstance(hint, ast.AST) for inner in ast.walk(hint)}
        made |= {node.id for node in nodes if isinstance(node, ast.Name) and id(node) not in types}
    return {subject for subject, kind in CATALOG.items() if kind.__name__ in made}


def test_every_fact_is_announced_and_heard():
    """An event that somebody announces is consumed, or final; what is consumed or declared, somebody announces."""
    consumed, declared = set(), set()
    for daemon in daemons().values():
        for handler in daemon.handlers:
            consumed |= {kind.subject for kind in handler.consumes}
        for _, _, emits in daemon.topology():
            declared |= set(emits)
    final = {subject for subject, kind in CATALOG.items() if kind.final}
    made = announced()
    assert not (made | declared) - consumed - final, "announced, and nobody listens"
    assert not consumed - made, "waited for, and nobody announces it"
    assert not declared - made, "declared by a handler, and made nowhere"
    assert not set(CATALOG) - made, "in the catalogue, and made nowhere"
    assert not consumed & final, "final, and consumed"


@pytest.mark.parametrize("name", worker.daemon_names())
def test_a_daemon_draws_what_it_does(name: str):
    """The picture in a daemon's docstring is the one that its handlers' signatures make."""
    drawn = importlib.import_module(f"daemons.{name}").__doc__ or ""
    assert [line.strip() for line in drawn.splitlines() if " -> " in line] == daemons()[name].picture()


@pytest.mark.parametrize("group", ["pasys.psp", "pasys.scorer", "pasys.chain", "pasys.notifier"])
def test_every_adapter_loads(group: str):
    """What an entry point names can be imported and called."""
    for entry in entry_points(group=group):
        assert callable(entry.load()), entry


# Errors --------------------------------------------------------------------------------------------------------------

FAMILIES = (errors.Rejected, errors.Unavailable, errors.Broken)
ABSTRACT = {errors.PasysError, *FAMILIES, errors.Invalid, errors.NotFound, errors.Conflict, errors.NotAllowed}
ABSTRACT |= {errors.Refused, errors.TimedOut, errors.Integrity}
RULES = {
    kind.__name__: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.PasysError) and kind not in ABSTRACT
}


def facts_of(template: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(template) if name}


def test_every_error_belongs_to_one_family_and_has_its_words():
    """An error has one family, a code of its own, a sentence about what is wrong and one about what to do."""
    assert not [name for name, kind in RULES.items() if sum(issubclass(kind, family) for family in FAMILIES) != 1]
    codes = [errors.error_code(kind) for kind in RULES.values()]
    assert len(set(codes)) == len(codes)
    assert not [name for name, kind in RULES.items() if kind.says == errors.PasysError.says], "says nothing"
    assert not [name for name, kind in RULES.items() if not kind.fix.endswith((".", "…"))], "has no fix"


def test_every_error_is_raised_with_its_facts():
    """Each error is raised somewhere, and wherever it is made its sentences find the facts that they name."""
    made, wrong = set(), []
    for path in (path for path in OURS if not short(path).startswith("pasys/errors/")):
        for call in ast.walk(tree(path)):
            if not isinstance(call, ast.Call):
                continue
            for name in {name for name in names(call.func) if name in RULES}:
                made.add(name)
                given = {word.arg for word in call.keywords}
                missing = (facts_of(RULES[name].says) | facts_of(RULES[name].fix)) - given
                if missing and None not in given and any(names(call.func)) and not isinstance(call.func, ast.Attribute):
                    wrong.append(f"{short(path)}:{call.lineno} {name} lacks {sorted(missing)}")
    assert not wrong
    assert not RULES.keys() - made, "never raised"


# Money ---------------------------------------------------------------------------------------------------------------

MONEY_PATHS = [
    path
    for pattern in (
        "pasys/money.py",
        "pasys/domain/ledger*.py",
        "pasys/domain/posting.py",
        "pasys/domain/settlement.py",
        "pasys/domain/refund.py",
        "pasys/service/ledger*.py",
        "pasys/service/refund*.py",
        "pasys/service/settlement.py",
        "pasys/service/transaction*.py",
    )
    for path in ROOT.glob(pattern)
]


def test_money_never_floats():
    """Where money is counted there is no float: no literal, no conversion, no true division."""
    wrong = []
    for path in MONEY_PATHS:
        for node in ast.walk(tree(path)):
            literal = isinstance(node, ast.Constant) and isinstance(node.value, float)
            divides = isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Div)
            names_a_file = divides and isinstance(getattr(node, "right", None), ast.Constant)
            converts = isinstance(node, ast.Name) and node.id == "float"
            numpys = isinstance(node, ast.Attribute) and node.attr.startswith(("float", "true_divide"))
            if literal or (divides and not names_a_file) or converts or numpys:
                wrong.append(f"{short(path)}:{getattr(node, 'lineno', 0)}")
    assert not wrong


COUNTED = re.compile(r"(.*_minor|amount|debits_.*|credits_.*|(debit|credit)_balance)")


def test_amounts_are_whole_in_the_database():
    """Every column that holds an amount is a BIGINT."""
    columns = [
        column for table in metadata.tables.values() for column in table.columns if COUNTED.fullmatch(column.name)
    ]
    assert len(columns) > 15
    assert not [str(column) for column in columns if str(column.type) != "BIGINT"]
