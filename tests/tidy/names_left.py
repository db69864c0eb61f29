"""Names that were there before the rules of names.py, by tower. Nothing is added here.

What is renamed is removed here too: a line that is no longer needed fails.
"""

from __future__ import annotations

REPEATED_CLASSES: dict[str, set[str]] = {
    "index_store": set(),
    "service": set(),
    "feeder": set(),
    "vector_client": set(),
}
"""Class names that stand twice in a tower."""
SHARED_METHODS: dict[str, set[str]] = {
    "index_store": {
        "candidates",
    },
    "service": {
        "begin",
        "decode",
        "directory",
        "refusal",
        "text",
        "waiting",
    },
    "feeder": set(),
    "vector_client": set(),
}
"""Method names of classes that have nothing to do with each other."""
AVOIDED_WORDS: dict[str, set[str]] = {
    "index_store": set(),
    "service": {
        "lane",
    },
    "feeder": set(),
    "vector_client": set(),
}
"""Words of names that docs/GLOSSARY.md has another word for."""
