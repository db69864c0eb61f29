"""What PostgreSQL's filters read of metadata."""

from __future__ import annotations

import json
from typing import Any

import pytest

from index_store.postgres.facts import (
    LOCAL_MOMENTS_KEY,
    MOMENTS_KEY,
    NO_FACTS,
    decoded,
    encoded,
    facts_of,
)
from item_rules.metadata import metadata_text


@pytest.mark.parametrize(
    "metadata",
    [{}, {"brand": "낮", "price": 12000.5, "tags": ["a", {"b": [1, None]}], "on": True, "when": 1795867200}],
)
def test_usual_metadata_are_their_own_facts(metadata: dict[str, Any]) -> None:
    text = metadata_text(metadata)
    assert facts_of(text) is text


@pytest.mark.parametrize(
    ("metadata", "facts"),
    [
        ({"a": "\0\1"}, {"a": "\1\1\1\2"}),
        ({"\0": {"\1": 1}}, {"\1\1": {"\1\2": 1}}),
        ({"a": 1e23, "b": [2.0**63]}, {"a": 99999999999999991611392, "b": [2**63]}),
        ({"e\u0301": ["e\u0301"]}, {"e\u0301": ["é"]}),
        ({"a": {"e\u0301": 1}}, {"a": {"é": 1}}),
        ({"a": {"e\u0301": 1, "é": 2}}, {"a": {"e\u0301": 1, "é": 2}}),
        ({"a": [1, [2, [{"b": 3}]], []]}, {"a": [1, {"b": 3}]}),
        ({"a": " 1970-01-01T00:00:01Z "}, {"a": " 1970-01-01T00:00:01Z ", MOMENTS_KEY: {"a": 1_000_000}}),
        ({"a": "1970-01-02"}, {"a": "1970-01-02", LOCAL_MOMENTS_KEY: {"a": 86_400_000_000}}),
        ({"a": {"b": "1970-01-02"}}, {"a": {"b": "1970-01-02"}}),
    ],
)
def test_what_jsonb_would_answer_otherwise_is_written_differently(
    metadata: dict[str, Any], facts: dict[str, Any]
) -> None:
    assert json.loads(facts_of(metadata_text(metadata))) == facts


def test_items_without_metadata_have_no_facts() -> None:
    assert facts_of(None) == NO_FACTS == facts_of("{}")


def test_texts_come_back_and_keep_their_order() -> None:
    texts = ["", "\0", "\0\0", "\0\1", "\0a", "\1", "\1\0", "\1\1", "\1\2", "\2", "a", "a\0", "a\1", "b"]
    assert sorted(texts) == texts
    assert sorted(map(encoded, texts)) == [encoded(text) for text in texts]
    assert decoded([{encoded(text): encoded(text)} for text in texts]) == [{text: text} for text in texts]
