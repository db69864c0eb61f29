"""Commands that ask a running service: a model change by those on call."""
