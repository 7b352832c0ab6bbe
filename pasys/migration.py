"""The database's schema is brought up to the declared one, forward only, by one process at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.errors import InsufficientPrivilege

from pasys.config import Settings
from pasys.driver import address
from pasys.errors import DatabaseUnavailable, RightsMissing, SchemaOutdated

if TYPE_CHECKING:
    from alembic.config import Config

HEAD = "0017"  # asserted against migrations/versions by a test: the quick check must not import Alembic


@dataclass(frozen=True, slots=True)
class Revision:
    revision: str
    title: str
    applied: bool


@contextmanager
def asking(settings: Settings) -> Iterator[psycopg.Connection[Any]]:
    """A connection as the login itself, to ask how far the database is. Raises DatabaseUnavailable, RightsMissing."""
    try:
        url = address(settings.require("database_url"))
        with psycopg.connect(url, connect_timeout=10, autocommit=True) as connection:
            yield connection
    except psycopg.OperationalError as error:
        raise DatabaseUnavailable(reason=" ".join(str(error).split())[:300]) from None
    except InsufficientPrivilege as error:
        raise RightsMissing(reason=error.diag.message_primary) from None


def current(settings: Settings) -> str | None:
    """The database's revision, or None for an empty one. Raises DatabaseUnavailable, RightsMissing."""
    with asking(settings) as connection:
        found = connection.execute("select to_regclass('alembic_version')").fetchone()
        if found is None or found[0] is None:
            return None
        row = connection.execute("select version_num from alembic_version").fetchone()
        return row[0] if row else None


def check(settings: Settings) -> None:
    """Raises SchemaOutdated where the database is not at this version's revision."""
    found = current(settings)
    if found != HEAD:
        raise SchemaOutdated(found=found or "nothing", wanted=HEAD)


def upgrade(settings: Settings) -> list[str]:
    """Apply what is missing; the revisions that were applied. Raises DatabaseUnavailable, RightsMissing."""
    before = current(settings)
    if before == HEAD:
        return []
    from alembic import command
    from sqlalchemy.exc import OperationalError, ProgrammingError

    try:
        command.upgrade(_alembic(settings), "head")
    except OperationalError as error:
        raise DatabaseUnavailable(reason=" ".join(str(error.orig).split())[:300]) from None
    except ProgrammingError as error:
        if not isinstance(error.orig, InsufficientPrivilege):
            raise
        raise RightsMissing(reason=error.orig.diag.message_primary) from None
    return [row.revision for row in status(settings) if before is None or row.revision > before]


def status(settings: Settings) -> list[Revision]:
    """Every revision, oldest first, and whether the database has it."""
    from alembic.script import ScriptDirectory

    found = current(settings) or ""
    revisions = sorted(ScriptDirectory.from_config(_alembic(settings)).walk_revisions(), key=lambda s: s.revision)
    return [Revision(script.revision, script.doc, script.revision <= found) for script in revisions]


def plan(settings: Settings) -> list[tuple[Revision, str]]:
    """The revisions that are missing, with the SQL that each would run."""
    missing = [revision for revision in status(settings) if not revision.applied]
    folder = _folder() / "versions"
    texts = {revision: next(folder.glob(f"{revision.revision}_*.sql")).read_text("utf-8") for revision in missing}
    return list(texts.items())


def _folder() -> Path:
    import migrations

    return Path(migrations.__path__[0])


def _alembic(settings: Settings) -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_folder()).replace("%", "%%"))
    url = address(settings.require("database_url")).replace("postgresql://", "postgresql+psycopg://", 1)
    config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    return config
