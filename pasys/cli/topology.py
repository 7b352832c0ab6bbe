"""Who emits and who consumes each subject, read from the code itself: handlers' signatures, and the verbs' source."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from pasys.events import CATALOG

# The topics of the systems that pasys replaces, by subject or by its noun.
OLDER_NAMES = {
    "account": "accounts_events",
    "transaction": "transaction_events",
    "fraud": "fraud_detected_events",
    "settlement": "settlement_result_events",
    "refund": "refund_events",
    "reconciliation": "reconciliation_events",
    "analytics": "analytics_events",
}


@dataclass(frozen=True, slots=True)
class Subject:
    """`emitted_by` and `consumed_by` name handlers as daemon.handler, and verbs as service.noun. A final one has no
    consumer inside pasys."""

    subject: str
    version: int
    emitted_by: list[str]
    consumed_by: list[str]
    final: bool
    older_name: str | None
    says: str


def read() -> list[Subject]:
    """Every subject of the catalogue, in its order."""
    from pasys.worker import daemon_names, load

    emitters: dict[str, set[str]] = {subject: set() for subject in CATALOG}
    consumers: dict[str, set[str]] = {subject: set() for subject in CATALOG}
    for name in daemon_names():
        for start, handler, emits in load(name).topology():
            for subject in start.split(" + "):
                if subject in consumers:
                    consumers[subject].add(f"{name}.{handler}")
            for subject in emits:
                emitters[subject].add(f"{name}.{handler}")
    for verb, subjects in _verbs().items():
        for subject in subjects:
            emitters[subject].add(verb)
    return [
        Subject(
            subject=subject,
            version=kind.version,
            emitted_by=sorted(emitters[subject]),
            consumed_by=sorted(consumers[subject]),
            final=kind.final,
            older_name=OLDER_NAMES.get(subject) or OLDER_NAMES.get(subject.split(".")[0]),
            says=" ".join((kind.__doc__ or "").split()),
        )
        for subject, kind in CATALOG.items()
    ]


def page() -> str:
    """The catalogue as a page in Markdown: what each event says and carries, who emits it, who consumes it."""
    lines = [
        "# Events",
        "",
        "Subjects end in the asset: `transaction.created.USD`. Written by `pasys events topology --page`.",
    ]
    for entry in read():
        kind = CATALOG[entry.subject]
        lines += ["", f"## {entry.subject} (version {entry.version})", "", entry.says, ""]
        lines += [f"- emitted by {', '.join(entry.emitted_by) or 'nobody'}"]
        lines += [f"- consumed by {', '.join(entry.consumed_by)}" if entry.consumed_by else "- final"]
        lines += [f"- older topic: {entry.older_name}"] if entry.older_name else []
        lines += ["", "| field | type |", "|---|---|"]
        lines += [f"| `{name}` | `{type_.replace('|', chr(92) + '|')}` |" for name, type_ in _fields(kind).items()]
    return "\n".join(lines)


def _fields(kind: type) -> dict[str, str]:
    """An event's fields in the order of its class, the asset last, with their types as they are written."""
    own = {name: str(type_) for name, type_ in kind.__annotations__.items()}
    return own | {"asset": "str"}


def _verbs() -> dict[str, set[str]]:
    """What service functions announce by themselves, outside a handler."""
    spec = find_spec("pasys.service")
    assert spec is not None and spec.submodule_search_locations
    found: dict[str, set[str]] = {}
    for path in sorted(Path(spec.submodule_search_locations[0]).glob("*.py")):
        if subjects := _announced(ast.parse(path.read_text(encoding="utf-8"))):
            found[f"service.{path.stem}"] = subjects
    return found


def _announced(module: ast.Module) -> set[str]:
    """The subjects of events made by a function that calls `emit`, or by one that it calls in the same file."""
    subjects = {kind.__name__: subject for subject, kind in CATALOG.items()}
    functions = (node for node in module.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    calls = {function.name: _called(function) for function in functions}
    reached = {name for name, called in calls.items() if "emit" in called}
    waiting = list(reached)
    while waiting:
        further = (calls[waiting.pop()] & calls.keys()) - reached
        reached |= further
        waiting += further
    return {subjects[name] for function in reached for name in calls[function] & subjects.keys()}


def _called(function: ast.AST) -> set[str]:
    calls = [node.func for node in ast.walk(function) if isinstance(node, ast.Call)]
    return {call.id if isinstance(call, ast.Name) else getattr(call, "attr", "") for call in calls}
