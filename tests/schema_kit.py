"""Databases at no revision, who may make tables in one, and what the schema is to refuse."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec
import psycopg
import pytest
from alembic.script import ScriptDirectory

from pasys import migration
from pasys.config import Settings

APPEND_ONLY = (
    "transfer",
    "transfer_key",
    "checkpoint",
    "archive",
    "archive_account",
    "archive_answer",
    "archive_transfer",
    "transaction_history",
    "refund_history",
    "fraud_decision",
    "fraud_rules",
)
HOME = Settings(home="unused", database_url="postgresql://nowhere")
REVISIONS = [
    script.revision for script in reversed(list(ScriptDirectory.from_config(migration._alembic(HOME)).walk_revisions()))
]

RIGHTS = """
select c.relname, c.relkind::text, array(select privilege_type::text from aclexplode(c.relacl) a
                                    where a.grantee = 'pasys_app'::regrole order by 1)
  from pg_class c
 where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'v', 'S') order by c.relname
"""
APP = "pasys_app"

Make = Callable[[], Settings]


@pytest.fixture
def empty(servers: Settings, settings: Settings) -> Iterator[Make]:
    """Makes empty databases."""
    made: list[str] = []
    own, admin = str(settings.bus_prefix), servers.require("database_url")

    def make() -> Settings:
        made.append(f"{own}_{len(made)}")
        with psycopg.connect(admin, autocommit=True) as connection:
            connection.execute(f"create database {made[-1]} template template0 strategy file_copy".encode())
        url = settings.require("database_url").replace(f"/{own}", f"/{made[-1]}")
        return msgspec.structs.replace(settings, database_url=url)

    yield make
    with psycopg.connect(admin, autocommit=True) as connection:
        for name in made:
            connection.execute(f"drop database {name} with (force)".encode())


@pytest.fixture
def tenant(empty: Make) -> Iterator[tuple[Settings, Settings]]:
    """An empty database, as its owner reaches it, and as somebody who may make tables in it and nothing else."""
    whole = empty()
    url = whole.require("database_url")
    name = f"tenant_{url.partition('?')[0].rsplit('/', 1)[1]}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"create role {name}; grant create on schema public to {name}".encode())
        yield whole, msgspec.structs.replace(whole, database_url=f"{url}&options=-crole%3D{name}")
        connection.execute(f"reassign owned by {name} to current_user; drop owned by {name}; drop role {name}".encode())
