"""The durable store of record: one SQLite file a generation, one group-commit writer a process."""
