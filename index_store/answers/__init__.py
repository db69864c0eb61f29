"""From what a search finds to the answer of its request."""
