"""Real queries, kept for reports where the operator asks for that (docs/decisions/0068)."""
