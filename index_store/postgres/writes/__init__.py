"""What changes a collection in PostgreSQL: batches, and steps of its generations."""
