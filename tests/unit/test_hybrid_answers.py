"""Hybrid answers where words may lift many rows that are not near."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from index_store.types import ItemWrite, WriteBatch
from tests.reference_index import ReferenceIndex
from tests.unit.test_index_store_words import SPEC, assert_alike, opened, sealed


@pytest.mark.long
def test_of_many_rows_with_the_words_none_of_the_best_is_missed(tmp_path: Path) -> None:
    """The nearest rows have none of the words, hundreds of others have them all: more than are scored before
    their codes are looked at."""
    random = np.random.default_rng(4)
    vectors = random.standard_normal((600, SPEC.dim)).astype(np.float32)
    vectors[:100] = np.ones(SPEC.dim) + 0.2 * vectors[:100]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    written = [
        ItemWrite(number, vector, metadata={"title": "냉면" if number < 100 else "김치찌개 500g kimchi"})
        for number, vector in enumerate(vectors)
    ]
    index, reference = opened(tmp_path), ReferenceIndex([SPEC])
    for one in (index, reference):
        one.advance("numbers", "begin", "v1")
        one.write("numbers", WriteBatch(written, embedding_version="v1"))
    sealed(tmp_path, index)
    for k in (3, 40):
        assert_alike(index, reference, k=k)
        assert_alike(index, reference, k=k, exclude_ids=range(0, 600, 3))
    index.close()
