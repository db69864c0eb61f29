"""English queries moved to where a model has Korean ones."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest

from index_store.types import SearchRequest, SearchResult, TextQuery
from service.app.encoders import Encoders, Slot
from service.app.rebuild.throttle import FillThrottle
from service.app.report.replay import Replayer, ReplaySide
from service.app.search import ParsedSearch, Searcher
from service.app.search_queue import SearchQueue
from service.collections import Catalogue, Collection
from service.embedding.catalog.preload import EarlyModels
from service.embedding.port import Embedded, Embedder, Modality, ModelInfo, Role
from service.embedding.serving.encoders import queued_texts
from service.embedding.serving.language_shift import is_latin, language_shift, shifted
from service.observing.metrics import Metrics
from service.settings import Settings
from service.wiring_models import ModelLoader
from service.words.interpreter import Interpreter
from tests.reference_index import ReferenceIndex

DIM = 512
VECTOR = np.empty(0, np.float32)
INFO = ModelInfo("m", "m.1", DIM, "text", "r", "fake", None, is_placeholder=False)


class TwoLanguages:
    """A meaning is a direction, and Korean another one beside it. knows: whether it sees what words mean."""

    info = INFO

    def __init__(self, *, knows: bool) -> None:
        self._knows = knows

    def embed(self, contents: Sequence[str], role: Role) -> Embedded:
        assert role == "query"
        vectors = np.zeros((len(contents), DIM), np.float32)
        for place, text in enumerate(contents):
            vectors[place, place // 2 if self._knows else place] = 1
            vectors[place, -1 if text.isascii() else -2] = 1
        return Embedded(vectors / np.sqrt(2, dtype=np.float32), np.zeros(len(contents), np.bool_))

    def close(self) -> None:
        """Nothing to close."""


class OneModel(EarlyModels):
    """Whatever is asked for: one that knows two languages."""

    def load(self, modality: Modality, reference: str, dim: int) -> Embedder[Any]:  # noqa: ARG002
        return TwoLanguages(knows=True)


class NoHits:
    """Every generation, without an item."""

    def search_version(
        self, _: str, embedding_version: str, requests: Sequence[SearchRequest]
    ) -> list[SearchResult]:
        return [SearchResult((), "g", embedding_version, 1, True, None) for _ in requests]


def test_the_shift_leads_from_english_to_korean() -> None:
    shift = language_shift(TwoLanguages(knows=True))
    assert shift is not None
    vector = np.zeros(DIM, np.float32)
    vector[[0, -1]] = np.sqrt(0.5)
    moved = shifted(vector, shift)
    assert np.linalg.norm(moved) == pytest.approx(1)
    assert moved[[0, -2]] == pytest.approx(np.sqrt([0.5, 0.5])) and moved[-1] == pytest.approx(0, abs=1e-6)


def test_a_model_that_does_not_know_both_has_none() -> None:
    assert language_shift(TwoLanguages(knows=False)) is None


@pytest.mark.parametrize(("collection", "is_possible"), [
    (Collection("a", lexical=("title",)), True),
    (Collection("a"), False),
    (Collection("a", modality="image", lexical=("title",)), False),
])  # fmt: skip
def test_it_is_measured_only_where_texts_are_searched_by_words_too(
    collection: Collection, is_possible: bool
) -> None:
    models = OneModel(Path(), threads=1, runtime="auto")
    hybrid = Catalogue((collection,)).is_hybrid_possible
    loader = ModelLoader(Settings.from_environ({}), models, is_hybrid_possible=hybrid)
    encoder = loader.load_text("m", DIM)
    loader.release_encoder(encoder)
    assert (encoder.info.language_shift is not None) is is_possible


@pytest.mark.parametrize(("text", "expected"), [
    ("soy sauce", True), ("Café 2", True), ("500", False), ("간장 soy", False), ("соус", False),
    ("醤油", False), ("🍲 soup", True), ("", False),
])  # fmt: skip
def test_what_is_moved_has_latin_letters_and_no_others(text: str, expected: bool) -> None:
    assert is_latin(text) is expected


@pytest.mark.parametrize(("text", "mode", "is_moved"), [
    ("soup", "hybrid", True), ("soup", None, False), ("국", "hybrid", False),
])  # fmt: skip
def test_only_english_that_words_are_searched_for_beside_is_moved(
    text: str, mode: Literal["hybrid"] | None, is_moved: bool
) -> None:
    embedder = TwoLanguages(knows=True)
    shift = language_shift(embedder)
    assert shift is not None
    plain = embedder.embed([text], "query").vectors[0]
    expected = shifted(plain, shift) if is_moved else plain
    assert vector_asked_for(text, mode, replace(INFO, language_shift=shift)) == pytest.approx(expected)


def vector_asked_for(text: str, mode: Literal["hybrid"] | None, info: ModelInfo) -> npt.NDArray[np.float32]:
    async def scene() -> npt.NDArray[np.float32]:
        encoder = queued_texts(TwoLanguages(knows=True), info=info)
        encoder.start()
        slot = Slot("m")
        slot.fill(text=encoder)
        collection = Collection("a", dim=DIM)
        index = ReferenceIndex([collection.spec])
        queue = SearchQueue(index, Metrics(), queue_requests_max=10, queue_ms_max=1000)
        searcher = Searcher(
            Encoders({"a": slot}), queue, index, ThreadPoolExecutor(1), Interpreter(index, {}),
            deadline_ms=60_000, min_seq_wait_ms=0,
        )  # fmt: skip
        words = None if mode is None else TextQuery(text, mode)
        search = ParsedSearch(collection, SearchRequest(VECTOR, 5, text=words), content=text)
        again = ParsedSearch(collection, SearchRequest(VECTOR, 5, text=words), content=text)
        named = ParsedSearch(collection, SearchRequest(VECTOR, 5, text=words), content=text)
        no_hits: Any = NoHits()
        replayer = Replayer(no_hits, ThreadPoolExecutor(1), FillThrottle(list, 50))
        try:
            found, remembered = [(await searcher.request_of(each, "")).vector for each in (search, again)]
            await replayer.search_side(named, ReplaySide("m.1", slot))
        finally:
            encoder.close()
        assert np.array_equal(found, remembered)
        assert np.array_equal(found, named.request.vector), "of a named generation"
        return found

    return asyncio.run(scene())
