"""The report that precedes a cut-over: the same queries to pgvector and to the service."""
