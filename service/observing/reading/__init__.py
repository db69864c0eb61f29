"""Metrics as they are read."""
