"""Alembic's entry: one transaction for each revision, one migrator at a time, and never a long wait for a lock."""

from __future__ import annotations

import time

from alembic import context
from sqlalchemy import create_engine, pool

from pasys.schema import metadata

MIGRATION_LOCK = 7_082_501  # any number that nobody else uses: two migrators wait for each other


def run() -> None:
    url = context.config.get_main_option("sqlalchemy.url")
    assert url is not None
    engine = create_engine(url, poolclass=pool.NullPool)
    with engine.connect() as connection:
        # Asked for again and again: whoever waited in a statement would be waited for by an index that is being built.
        while not connection.exec_driver_sql(f"select pg_try_advisory_lock({MIGRATION_LOCK})").scalar():
            connection.commit()
            time.sleep(0.1)
        connection.exec_driver_sql("set lock_timeout = '5s'")
        connection.commit()
        context.configure(connection=connection, target_metadata=metadata, transaction_per_migration=True)
        with context.begin_transaction():
            context.run_migrations()


run()
