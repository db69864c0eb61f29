"""Searches of one collection in PostgreSQL."""
