"""Stored items of an index in PostgreSQL: pages of them, counts and facets."""
