"""The search for unigram pieces against the `tokenizers` library, on the same file."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from service.demo.catalogue import recipes
from service.embedding.catalog.builtin import BUILTIN, E5
from service.embedding.runtimes.tokenizer import LibraryTokenizer, UnigramTokenizer, open_tokenizer
from tests.fixtures.models import built_models

pytestmark = pytest.mark.slow  # `make test` runs these; a check before each commit must be quick

TOKENS_MAX = 24
WORDS = st.sampled_from(
    [
        "김치찌개",
        "국물",
        "<s>",
        "</s>",
        "<mask>",
        " <mask> ",
        "<unk>",
        "ｆｕｌｌ",
        "＜s＞",
        "2～3인분",
        "㎏",
        "ﬁ",
    ]
)
CHARACTERS = st.characters(codec="utf-8", exclude_categories=["Cs", "Cn"])
TEXTS = st.lists(st.one_of(WORDS, st.text(CHARACTERS, max_size=12)), max_size=8).map("".join)


@cache
def both(tokens_max: int) -> tuple[UnigramTokenizer, LibraryTokenizer]:
    path = BUILTIN[E5].directory(built_models()) / "tokenizer.json"
    ours = open_tokenizer(path, tokens_max)
    assert isinstance(ours, UnigramTokenizer)
    return ours, LibraryTokenizer(path, tokens_max)


def assert_alike(texts: list[str], tokens_max: int = TOKENS_MAX) -> None:
    ours, library = both(tokens_max)
    (found, cut), (expected, expected_cut) = ours.encode(texts), library.encode(texts)
    for text, one, other in zip(texts, found, expected, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=repr(text))
    assert cut == expected_cut


@settings(max_examples=600, deadline=None, print_blob=True)
@given(TEXTS)
@example("")
@example(" ")
@example("\u3000▁▁ \u200b")
@example("𠮷𠮷𠮷 🍜🍜")
@example("query: " + "ㅋ" * 100)
def test_any_text_becomes_the_same_ids(text: str) -> None:
    assert_alike([text])


def test_recipes_become_the_same_ids() -> None:
    texts = [f"passage: {r.title}: {r.description} {', '.join(r.ingredients)}" for r in recipes()]
    assert_alike(texts)
    assert_alike(texts * 2, 512)


def test_other_tokenizers_are_left_to_the_library(tmp_path: Path) -> None:
    path = BUILTIN[E5].directory(built_models()) / "tokenizer.json"
    content = json.loads(path.read_text("utf-8"))
    content["model"] = {"type": "WordLevel", "vocab": {"<unk>": 0, "a": 1}, "unk_token": "<unk>"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    assert isinstance(open_tokenizer(tmp_path / "tokenizer.json", 8), LibraryTokenizer)
