"""CSV files for import tests, the check that comes before the database is asked for anything, and the real command."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from pasys.cli.import_file import Options, Outcome, prepare, run
from pasys.cli.import_source import Source, Survey
from pasys.config import Settings
from pasys.db import Database

HEADER = "key,kind,from,to,amount,asset,rail,payment_method,effective_at"
FUNDED = ["f1,deposit,,ada,100.00,USD,,,", "f2,deposit,,ben,100.00,USD,,,"]


def write(path: Path, *rows: str, header: str = HEADER) -> Path:
    path.write_bytes("\n".join([header, *rows, ""]).encode())
    return path


def silent(*_: Any) -> None:
    return None


def chosen_of(chosen: dict[str, Any]) -> Options:
    options = {"open_accounts": True, "atomic": False, "dry_run": False, "skip_invalid": False, "batch_size": 1_000}
    return Options(**(options | chosen))  # type: ignore[arg-type]


def checked(path: Path) -> Survey:
    """A file, as the command checks it before it asks the database for anything."""
    return prepare(Source(path, delimiter=","), chosen_of({}), silent)


async def imported(db: Database, path: Path, **chosen: Any) -> Outcome:
    """Import a file, as the command does."""
    source = Source(path, delimiter=chosen.pop("delimiter", ","))
    wanted = chosen_of(chosen)
    return await run(db, source, prepare(source, wanted, silent), wanted, silent)


def command(settings: Settings, *arguments: str) -> list[str]:
    return [str(Path(sys.executable).with_name("pasys")), "--actor", "tester", "--home", settings.home, *arguments]


def environment(settings: Settings) -> dict[str, str]:
    servers = {name.upper(): settings.require(name) for name in ("database_url", "nats_url", "redis_url")}
    return {name: value for name, value in os.environ.items() if not name.startswith("PASYS_")} | servers
