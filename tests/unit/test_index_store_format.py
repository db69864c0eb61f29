"""The format on disk: a directory written when it was new must open, and answer, for ever."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from index_store.ann.rerank import rescore
from index_store.engine.index import EmbeddedIndex
from index_store.maintenance.check import check
from index_store.types import Metric, SearchRequest
from tests.fixtures.golden.make import DIRECTORY, SPECS, vector
from tests.sealing import generation_of

LIVE = [n for n in range(165) if n not in (0, 140, 158)]


@pytest.mark.parametrize(("collection", "metric"), [("numbers", "l2"), ("names", "cosine")])
def test_the_golden_directory_opens_and_answers(tmp_path: Path, collection: str, metric: Metric) -> None:
    shutil.copytree(DIRECTORY, tmp_path / "data")
    assert check(tmp_path / "data") == []
    index = EmbeddedIndex(tmp_path / "data", SPECS)
    index.open()
    view = generation_of(index, collection).refresh()
    assert [one.segment.reader.rows for one in view.segments] == [149, 19] and view.count == 6
    query = vector(77) + np.float32(0.1)
    truth = rescore(query, np.stack([vector(n) for n in LIVE]), metric)
    wanted = [LIVE[place] for place in np.argsort(truth)]
    names = wanted if collection == "numbers" else [f"상품-{n}" for n in wanted]
    hits = index.search(collection, [SearchRequest(query, 200, with_metadata=True)])[0].hits
    assert [hit.id for hit in hits] == names
    assert [hit.distance for hit in hits] == np.sort(truth).tolist()
    assert [hit.metadata for hit in hits] == [{"shade": n % 3, "이름": f"n{n}"} for n in wanted]
    some = index.search(collection, [SearchRequest(query, 200, filter={"shade": 1})])[0].hits
    assert [hit.id for hit in some] == [name for name, n in zip(names, wanted, strict=True) if n % 3 == 1]
    status = index.status(collection).current
    assert status is not None and (status.items, status.live, status.cursors) == (162, 162, {"source": "165"})
    item = index.get(collection, [names[0]])[0]
    assert item is not None and item.source_version == wanted[0]
    assert index.get(collection, [140 if collection == "numbers" else "상품-140"]) == [None]
    index.close()
