"""History of the schema, forward only. Each revision is ordered DDL in a .sql file beside its Python stub."""
