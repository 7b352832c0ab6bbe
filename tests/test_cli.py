"""Every command keeps what the command line promises: help, examples, formats, envelopes, exit codes, lightness."""

from __future__ import annotations

import io
import json
import os
import resource
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pasys.cli import failure, tree
from pasys.cli.main import PIPE_CLOSED, run
from pasys.cli.options import Format
from pasys.errors import PasysError, WaitTimedOut

HEAVY = {"web3", "xgboost", "textual", "grpc", "sqlalchemy", "nats", "psycopg", "stripe", "redis", "numpy"}
HEAVY |= {"pydantic", "rich", "msgspec"}
# These print sentences, or become a program of their own.
WITHOUT_DATA = {"down", "daemon run", "dash"}
# These answer, or start something, where no stack runs.
WITHOUT_STACK = {"up", "doctor", "logs", "events topology", "demo", "bench pipeline", "bench ledger", "tx key"}
FAMILIES = {2, 3, 7}


def commands() -> dict[str, Any]:
    """Every command by its path: "account open"."""
    root = tree.tree()
    with root.make_context("pasys", [], resilient_parsing=True) as context:
        found = {name: root.get_command(context, name) for name in root.list_commands(context)}
    while nested := {path: command for path, command in found.items() if hasattr(command, "commands")}:
        for path, group in nested.items():
            del found[path]
            found |= {f"{path} {name}": command for name, command in group.commands.items()}
    return found


COMMANDS = commands()
every_command = pytest.mark.parametrize("path", COMMANDS)


def takes_output(path: str) -> bool:
    return any(parameter.name == "output" for parameter in COMMANDS[path].params)


def examples(path: str) -> list[list[str]]:
    """The words of each example in a command's help, after the command itself."""
    lines = COMMANDS[path].epilog.partition("Examples:")[2].strip().splitlines()
    found = []
    for line in lines:
        words = shlex.split(line, comments=True)
        while "|" in words and words[:1] and not _is_example(words[: words.index("|")], path):
            words = words[words.index("|") + 1 :]
        words = words[: words.index("|")] if "|" in words else words
        assert _is_example(words, path), f"{line!r} is no example of {path}"
        found.append(_after_globals(words)[len(path.split()) :])
    return found


def _after_globals(words: list[str]) -> list[str]:
    """What follows `VARIABLE=… pasys --home DIR`."""
    words = words[words.index("pasys") + 1 :] if "pasys" in words else []
    while words and words[0].startswith("--"):
        words = words[2:]
    return words


def _is_example(words: list[str], path: str) -> bool:
    return _after_globals(words)[: len(path.split())] == path.split()


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A home without a stack."""
    for variable in ("DATABASE_URL", "NATS_URL", "REDIS_URL", "PASYS_HOME"):
        monkeypatch.delenv(variable, raising=False)
    return str(tmp_path / "home")


def pasys(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """A real process, without a terminal."""
    command = [sys.executable, "-c", "from pasys.cli.main import main; main()", *words]
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False, **options
    )


# Help ----------------------------------------------------------------------------------------------------------------


def test_alone_it_shows_everything(capsys: pytest.CaptureFixture[str]) -> None:
    """`pasys` alone prints the groups, and one line for each name that works."""
    assert run([]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for title, entries in tree.TREE.items():
        assert title in printed
        assert all(f"{name} {entry.help}" in printed for name, entry in entries.items())
    assert {path.split()[0] for path in COMMANDS} == {name for entries in tree.TREE.values() for name in entries}


@every_command
def test_help_explains(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every command says in its help what it does, what each parameter is, and shows an example that parses."""
    assert run([*path.split(), "--help"]) == 0
    printed = capsys.readouterr()
    assert "Examples:" in printed.out and not printed.err
    command = COMMANDS[path]
    assert command.help and command.help.splitlines()[0].endswith("."), "the first line is a sentence"
    for parameter in command.params:
        assert getattr(parameter, "help", None), f"{parameter.name} is not explained"
    assert examples(path)
    for words in examples(path):
        with command.make_context(path, list(words)):
            pass


def test_every_noun_file_is_in_the_tree() -> None:
    """A file with an `app` is reachable, and nothing is listed that is not there."""
    files = {path.stem: path.read_text("utf-8") for path in Path(tree.__file__).parent.glob("*.py")}
    nouns = {stem for stem, text in files.items() if "\napp = Noun(" in text}
    assert nouns == {entry.module for entries in tree.TREE.values() for entry in entries.values()}


# Lightness -----------------------------------------------------------------------------------------------------------


def imported_by(*words: str) -> set[str]:
    script = "import sys; from pasys.cli.main import run; run(sys.argv[1:]); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", script, *words], capture_output=True, text=True, timeout=60, check=True
    )
    return set(done.stderr.split())


def test_help_imports_nothing_heavy() -> None:
    """`pasys --help` loads neither a driver nor numpy nor anything else that takes its time."""
    assert not imported_by("--help") & HEAVY


def test_version_imports_nothing_at_all() -> None:
    """`pasys --version` answers before Typer is loaded."""
    assert not imported_by("--version") & {*HEAVY, "typer", "pasys.cli.tree"}


@pytest.mark.parametrize("noun", sorted({path.split()[0] for path in COMMANDS}))
def test_a_nouns_help_imports_nothing_heavy(noun: str) -> None:
    """The help of a command loads no driver either: commands import what they need inside the function."""
    assert not imported_by(noun, "--help") & HEAVY


@pytest.mark.parametrize("word", ["--help", "--version"])
def test_answers_within_200_ms(word: str) -> None:
    """Measured as processor time, best of ten, so that a busy machine does not decide."""

    def measured() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert pasys(word).returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(measured() for _ in range(10)) <= 0.2


# Failures ------------------------------------------------------------------------------------------------------------


def envelope(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The one thing on stdout; nothing is on stderr."""
    printed = capsys.readouterr()
    assert not printed.err, "with --json, a program reads stdout alone"
    error = json.loads(printed.out)["error"]
    assert set(error) == {"code", "message", "facts", "fix"} and error["message"] and error["fix"]
    return error


@every_command
def test_unknown_option_is_a_usage_error(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An option that does not exist exits 2 and is named, in the envelope too."""
    assert run([*path.split(), "--no-such-option", "--json"]) == 2
    error = envelope(capsys)
    assert error["code"] == "invalid_usage" and error["facts"]["field"] == "no-such-option"


@every_command
def test_data_come_in_every_format(path: str) -> None:
    """Whoever prints data takes -o and --json; the others are listed here."""
    options = {option for parameter in COMMANDS[path].params for option in parameter.opts}
    assert ({"-o", "--output", "--json"} <= options) == (path not in WITHOUT_DATA)


@pytest.mark.parametrize("path", [path for path in COMMANDS if takes_output(path) and path not in WITHOUT_STACK])
def test_without_a_stack_it_says_so(
    path: str, nowhere: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing hangs, and nothing but the envelope is printed: exit 7, or 2 and 3 for what is refused before that."""
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    code = run(["--home", nowhere, *path.split(), *examples(path)[0], "--json"])
    printed = capsys.readouterr()
    error = json.loads(printed.out)["error"]
    assert code in FAMILIES and not printed.err
    if code == 7:
        assert error["code"] == "stack_not_running" and "pasys up -d" in error["fix"]


@pytest.mark.parametrize("path", ["account list", "ledger verify", "events dead", "migrate status"])
def test_two_sentences_for_a_person(path: str, nowhere: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Without --json: what is wrong and what to do, on stderr; nothing on stdout."""
    assert run(["--home", nowhere, *path.split()]) == 7
    printed = capsys.readouterr()
    assert not printed.out
    wrong, cure = printed.err.strip().splitlines()
    assert wrong == f"error: no pasys stack is running in {nowhere}" and "pasys up -d" in cure


@pytest.mark.parametrize(
    ("words", "field"),
    [
        (["account", "list", "--limit", "many"], "limit"),
        (["account", "list", "--limit", "0"], "limit"),
        (["account", "list", "--type", "dog"], "type"),
        (["account", "open", "alice"], "asset"),
        (["account", "open"], "name"),
        (["events", "tail", "--timeout", "nan"], "timeout"),
        (["status", "-o", "xml"], "output"),
    ],
)
def test_usage_names_the_field(words: list[str], field: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A value that is missing or means nothing exits 2 and names the parameter."""
    assert run([*words, "--json"]) == 2
    assert envelope(capsys)["facts"]["field"] == field


@pytest.mark.parametrize("amount", ["-1", "0", "1.005", "NaN", "1e3", "abc", "", "١", "1,000"])
def test_amounts_are_refused_by_name(amount: str, nowhere: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What is no amount exits 2 and names the field, before anybody is asked."""
    words = ["tx", "create", "--from", "alice", "--to", "shop", f"--amount={amount}", "--asset", "USD", "--json"]
    assert run(["--home", nowhere, *words]) == 2
    assert envelope(capsys)["message"].startswith("amount: ")


def test_misplaced_global_option(capsys: pytest.CaptureFixture[str]) -> None:
    """--home after the command is refused, and the fix shows where it belongs."""
    assert run(["account", "list", "--home", "x", "--json"]) == 2
    assert envelope(capsys)["fix"] == "Give it before the command: `pasys --home … account list`."


def test_near_miss_is_suggested(capsys: pytest.CaptureFixture[str]) -> None:
    """A mistyped command names the one that was meant."""
    assert run(["acount"]) == 2
    assert "Did you mean 'account'?" in capsys.readouterr().err


def test_no_prompt_without_a_terminal(nowhere: str) -> None:
    """A question without a terminal is an error that names the flag which answers it."""
    done = pasys("--home", nowhere, "down", "--destroy")
    assert done.returncode == 2 and "--yes" in done.stderr


def test_every_error_has_its_exit_code(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The family decides, for every error there is."""
    waiting = [PasysError]
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        error = kind.__new__(kind)
        error.facts = {}
        error.args = ("it is so",)
        monkeypatch.setattr(kind, "fix", "Do otherwise.")
        assert failure.known(error, ["--json"]) == kind.exit_code
        assert envelope(capsys)["code"] == error.code
    assert WaitTimedOut.exit_code == 8


def test_bug_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    """An unexpected error exits 1 without a traceback; --debug shows it, on stderr."""
    try:
        raise ZeroDivisionError("division\nby zero")
    except ZeroDivisionError as error:
        assert failure.unexpected(error, []) == 1
        assert capsys.readouterr().err.splitlines()[0] == "error: unexpected: ZeroDivisionError: division by zero"
        assert failure.unexpected(error, ["--debug", "--json"]) == 1
        printed = capsys.readouterr()
        assert "Traceback" in printed.err and json.loads(printed.out)["error"]["code"] == "unexpected"


def test_closed_pipe_is_quiet() -> None:
    """`pasys … | head` ends without a word."""
    command = [sys.executable, "-c", "from pasys.cli.main import main; main()", "events", "topology", "-o", "jsonl"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert running.stdout and running.stderr
    running.stdout.close()
    assert running.stderr.read() == b""
    assert running.wait(30) == PIPE_CLOSED


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["--json"], Format.JSON),
        (["-o", "jsonl"], Format.JSONL),
        (["-ocsv"], Format.CSV),
        (["--output=json"], Format.JSON),
        (["--", "--json"], Format.TABLE),
        (["-o"], Format.TABLE),
        (["-o", "xml"], Format.TABLE),
    ],
)
def test_the_wanted_format_is_known_before_parsing(words: list[str], wanted: Format) -> None:
    """Also a command line that cannot be parsed is answered in the format that it asks for."""
    assert failure.wanted(words) is wanted


# Completion ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def shell(nowhere: str) -> Iterator[Any]:
    def complete(line: str) -> list[str]:
        words = {"_PASYS_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1)}
        done = pasys(env=os.environ | {"PASYS_HOME": nowhere} | words)
        assert not done.stderr
        return done.stdout.split()

    yield complete


def test_completion(shell: Any) -> None:
    """Names of commands and options are completed; ids are silent where no stack runs."""
    assert shell("pasys acc") == ["account"]
    assert shell("pasys account fr") == ["freeze"]
    assert "--asset" in shell("pasys account open --as")
    assert shell("pasys account show a") == []
