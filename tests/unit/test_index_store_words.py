"""Postings in segments and in memory: what is sealed, what is found, and what happens to what was not."""

from __future__ import annotations

import contextlib
import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from index_store.delta.delta import Delta
from index_store.engine.index import EmbeddedIndex
from index_store.errors import PageExpired, WordsNotSealed
from index_store.explanation import ExplainedHit
from index_store.lexical.analysis import document_text
from index_store.lexical.growable_postings import UNREAD_MAX, GrowablePostings
from index_store.lexical.postings import write_postings
from index_store.lexical.scores import SCORING, query_grams, text_weight
from index_store.maintenance.check import check
from index_store.maintenance.policy import MaintenanceLimits
from index_store.maintenance.worker import Maintenance
from index_store.query.execute import answer
from index_store.query.view import View, view_of_delta
from index_store.record.rows import Row
from index_store.request.ranking import GroupBy, Ranking
from index_store.types import CollectionSpec, ItemDelete, ItemWrite, SearchRequest, TextQuery, WriteBatch
from tests.reference_index import ReferenceIndex
from tests.reference_words import matches_of
from tests.sealing import generation_of

SPEC = CollectionSpec("numbers", "int64", 8, "l2", ("title", "tags"))
WORDS = [
    "김치",
    "찌개",
    "된장",
    "두부",
    "갈비",
    "탕",
    "국물",
    "매운",
    "kimchi",
    "stew",
    "500g",
    "떡볶이",
    "순두부",
    "비빔밥",
    "냉면",
]
LIMITS = MaintenanceLimits(seal_rows=1, disk_reserve_bytes=0)


def items(numbers: range, seed: int) -> list[ItemWrite]:
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((len(numbers), SPEC.dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return [
        ItemWrite(
            number,
            vector,
            metadata={
                "title": " ".join(random.choice(WORDS, 3)),
                "tags": [str(random.choice(WORDS)), 7, None],
            },
        )
        for number, vector in zip(numbers, vectors, strict=True)
    ]


def opened(data_dir: Path, spec: CollectionSpec = SPEC) -> EmbeddedIndex:
    index = EmbeddedIndex(data_dir, [spec])
    index.open()
    return index


def sealed(data_dir: Path, index: EmbeddedIndex | None = None) -> None:
    """Publish what is due; the index serves it at once."""
    assert Maintenance(data_dir, limits=LIMITS).run_once()
    if index is not None:
        generation = generation_of(index)
        generation._next_poll_at = 0.0
        generation.refresh()
        assert generation._background is not None
        generation._background.join()


def request(text: str, mode: str = "hybrid", k: int = 20, **more: object) -> SearchRequest:
    vector = np.ones(SPEC.dim, np.float32)
    return SearchRequest(vector, k, text=TextQuery(text, mode), **more)  # type: ignore[arg-type]


def assert_alike(index: EmbeddedIndex, reference: ReferenceIndex, k: int = 20, **more: object) -> None:
    for text in ("김치찌개 500g", "kimchi"):
        for mode in ("lexical", "hybrid"):
            asked = request(text, mode, k, **more)
            got = index.search("numbers", [asked])[0]
            reference.text_weight = got.text_weight
            wanted = reference.search("numbers", [asked])[0]
            assert [hit.id for hit in got.hits] == [hit.id for hit in wanted.hits], (text, mode)
            assert got.exhausted == wanted.exhausted


@pytest.mark.long
def test_the_words_that_hits_hold_are_those_of_their_texts(tmp_path: Path) -> None:
    """In segments and in memory, against the grams of each text and each word."""
    index = opened(tmp_path)
    index.advance("numbers", "begin", "v1")
    index.write("numbers", WriteBatch(items(range(40), 1), embedding_version="v1"))
    sealed(tmp_path, index)
    index.write("numbers", WriteBatch(items(range(30, 50), 2), embedding_version="v1"))
    for text in ("김치찌게 500g 국물", "kimchi stew", "떡뽁이 ㅋㅋ", "?"):
        query = replace(request(text, k=50), with_matches=True, with_metadata=True)
        (result,) = index.search("numbers", [query])
        assert len(result.hits) == 50
        for hit in result.hits:
            assert isinstance(hit, ExplainedHit)
            assert hit.matched == matches_of(
                text, document_text(json.dumps(hit.metadata), SPEC.lexical_fields)
            )
    index.close()


@pytest.mark.long
def test_sealed_merged_and_growing_rows_score_like_a_dictionary(tmp_path: Path) -> None:
    index, reference = opened(tmp_path), ReferenceIndex([SPEC])
    for one in (index, reference):
        one.advance("numbers", "begin", "v1")
    written = [
        WriteBatch(items(range(50), 1), embedding_version="v1"),
        WriteBatch(items(range(45, 62), 2), [ItemDelete(n) for n in range(0, 30, 3)], "v1"),
        WriteBatch(items(range(60, 66), 3), [ItemDelete(1)], "v1"),
    ]
    for batch in written:
        for one in (index, reference):
            one.write("numbers", batch)
        assert_alike(index, reference)
        sealed(tmp_path, index)
        assert_alike(index, reference)
        assert_alike(index, reference, k=40, exclude_ids=range(20, 60, 2), offset=7)
        assert_alike(index, reference, filter={"tags": {"$exists": True}})
    assert len(generation_of(index).refresh().segments) > 1
    index.close()
    assert check(tmp_path) == []


@pytest.mark.long
def test_rows_sealed_before_the_fields_were_declared_are_sealed_again(tmp_path: Path) -> None:
    plain = opened(tmp_path, replace(SPEC, lexical_fields=()))
    plain.advance("numbers", "begin", "v1")
    plain.write("numbers", WriteBatch(items(range(50), 1), embedding_version="v1"))
    plain.close()
    sealed(tmp_path)
    index = opened(tmp_path)
    assert len(index.search("numbers", [SearchRequest(np.ones(SPEC.dim, np.float32), 5)])[0].hits) == 5
    for mode in ("lexical", "hybrid"):
        with pytest.raises(WordsNotSealed, match="not sealed"):
            index.search("numbers", [request("김치", mode)])
    sealed(tmp_path, index)
    assert index.search("numbers", [request("김치", "lexical")])[0].hits
    index.close()
    other = opened(tmp_path, replace(SPEC, lexical_fields=("tags",)))
    with pytest.raises(WordsNotSealed):
        other.search("numbers", [request("김치")])
    sealed(tmp_path, other)
    assert other.search("numbers", [request("김치", "lexical")])[0].hits
    other.close()
    opened(tmp_path, replace(SPEC, lexical_fields=())).close()
    sealed(tmp_path)
    plain = opened(tmp_path, replace(SPEC, lexical_fields=()))
    assert [one.segment.postings for one in generation_of(plain).refresh().segments] == [None]
    plain.close()
    assert check(tmp_path) == []


def test_nothing_is_sealed_again_when_nothing_has_changed(tmp_path: Path) -> None:
    index = opened(tmp_path)
    index.advance("numbers", "begin", "v1")
    index.write("numbers", WriteBatch(items(range(50), 1), embedding_version="v1"))
    index.close()
    sealed(tmp_path)
    before = sorted(tmp_path.glob("collections/*/*/snapshots/*"))
    opened(tmp_path).close()
    sealed(tmp_path)
    assert sorted(tmp_path.glob("collections/*/*/snapshots/*")) == before


def test_a_flipped_bit_of_postings_is_found_and_mended(tmp_path: Path) -> None:
    index, reference = opened(tmp_path), ReferenceIndex([SPEC])
    for one in (index, reference):
        one.advance("numbers", "begin", "v1")
        one.write("numbers", WriteBatch(items(range(50), 1), embedding_version="v1"))
    index.close()
    sealed(tmp_path)
    (path,) = tmp_path.glob("collections/*/*/segments/*/lexical_sounds_rows.npy")
    data = bytearray(path.read_bytes())
    data[-1] ^= 4
    path.write_bytes(data)
    assert check(tmp_path)
    index = opened(tmp_path)
    assert_alike(index, reference)
    index.close()


def test_the_weight_of_words_follows_the_spread_of_similarities(tmp_path: Path) -> None:
    index = opened(tmp_path)
    index.advance("numbers", "begin", "v1")
    index.write("numbers", WriteBatch(items(range(300), 1), embedding_version="v1"))
    in_memory = index.search("numbers", [request("김치")])[0].text_weight
    sealed(tmp_path, index)
    on_disk = index.search("numbers", [request("김치")])[0].text_weight
    assert 0.5 < in_memory / on_disk < 2
    assert index.search("numbers", [request("kimchi")])[0].text_weight > on_disk
    index.close()


def test_the_number_of_the_scoring_goes_with_what_words_score(tmp_path: Path) -> None:
    """Where these scores change, `SCORING` rises, and with it this."""
    index = opened(tmp_path)
    index.advance("numbers", "begin", "v1")
    titles = ["김치찌개 500g", "된장찌개", "kimchi 김치 stew", "순두부"]
    written = [
        ItemWrite(number, np.ones(SPEC.dim, np.float32), metadata={"title": title})
        for number, title in enumerate(titles)
    ]
    index.write("numbers", WriteBatch(written, embedding_version="v1"))
    scores = {
        query: {hit.id: hit.text_score for hit in found.hits}
        for query in ("김치찌게", "kimchi")
        for found in index.search("numbers", [request(query, "lexical")])
    }
    weights = [text_weight(query_grams(query), 0.5, 0.1) for query in scores]
    index.close()
    assert SCORING == 101
    assert scores == {
        "김치찌게": {
            0: pytest.approx(0.524, abs=0.002),
            2: pytest.approx(0.092, abs=0.002),
            1: pytest.approx(0.009, abs=0.002),
        },
        "kimchi": {2: pytest.approx(0.89, abs=0.002), 0: pytest.approx(0.819, abs=0.002)},
    }
    assert weights == pytest.approx([0.05, 0.14])


@pytest.mark.parametrize("mode", ["lexical", "hybrid"])
@pytest.mark.parametrize("ranking", [None, Ranking(group=GroupBy("title", 1))], ids=["plain", "grouped"])
def test_a_page_by_words_that_another_scoring_began_ends(
    tmp_path: Path, mode: str, ranking: Ranking | None
) -> None:
    index = opened(tmp_path)
    index.advance("numbers", "begin", "v1")
    index.write("numbers", WriteBatch(items(range(50), 1), embedding_version="v1"))
    page = index.search("numbers", [request("김치", mode, 3, ranking=ranking)])[0].next_page
    assert page is not None and page.scoring == SCORING
    assert index.search("numbers", [request("김치", mode, 3, ranking=ranking, after=page)])[0].hits
    for scoring in (0, SCORING + 1):
        another = replace(page, scoring=scoring)
        with pytest.raises(PageExpired, match="scored words in another way"):
            index.search("numbers", [request("김치", mode, 3, ranking=ranking, after=another)])
    index.close()


@pytest.mark.long
def test_a_seal_waits_for_the_room_that_postings_take(tmp_path: Path) -> None:
    index = opened(tmp_path)
    index.advance("numbers", "begin", "v1")
    index.write("numbers", WriteBatch(items(range(50), 1), embedding_version="v1"))
    vectors = 50 * SPEC.dim * 10
    free = vectors + 50 * 400

    def published() -> int:
        assert Maintenance(tmp_path, limits=LIMITS, free=lambda _path: free).run_once()
        return len(list(tmp_path.glob("collections/*/*/snapshots/*")))

    assert published() == 0  # vectors alone would have had room
    free = vectors + 50 * 500
    assert published() == 1
    sealed_bytes = sum(file.stat().st_size for file in tmp_path.rglob("lexical_*"))
    assert sealed_bytes > 0
    index.write("numbers", WriteBatch(items(range(50, 100), 2), embedding_version="v1"))
    free = 2 * (vectors + sealed_bytes) - 100  # as much a row as is sealed: all is made again
    assert published() == 1
    free += 100 + 2 * 50
    assert published() == 2
    index.close()


@pytest.mark.long
def test_the_words_of_very_many_new_rows_are_read_beside_searches(tmp_path: Path) -> None:
    index = opened(tmp_path)
    index.advance("numbers", "begin", "v1")
    index.write("numbers", WriteBatch(items(range(UNREAD_MAX + 1), 1), embedding_version="v1"))
    generation = generation_of(index)
    with contextlib.suppress(WordsNotSealed):  # the thread that keeps up may be done by now
        index.search("numbers", [request("김치")])
    if generation._background is not None:
        generation._background.join()
    assert index.search("numbers", [request("김치")])[0].hits
    index.close()


def test_a_search_does_not_read_very_many_rows_itself() -> None:
    view = view_of_rows(UNREAD_MAX + 1)
    with pytest.raises(WordsNotSealed, match="being read"):
        answer(view, request("김치"))
    while view.delta.postings.unread(view.count):
        view.delta.postings.read_some(view.count)
    assert answer(view, request("김치")).ids


def test_a_search_reads_long_texts_for_a_while_only() -> None:
    texts = [json.dumps({"title": "김치찌개" * 1000})] * 40
    hours = itertools.count()
    postings = GrowablePostings(("title",), lambda start, stop: texts[start:stop], lambda: float(next(hours)))
    assert postings.first(40) is None
    assert postings.has_many_unread(40)
    before = postings.unread(40)
    postings.read_some(40)
    assert 0 < postings.unread(40) < before
    while postings.unread(40):
        postings.read_some(40)
    assert not postings.has_many_unread(40)
    found = postings.first(40)
    assert found is not None
    assert found.lists("letters", np.array([ord("김")])).rows.tolist() == list(range(40))


def test_what_is_sealed_does_not_depend_on_how_much_is_looked_at_in_one_go(tmp_path: Path) -> None:
    random = np.random.default_rng(4)
    texts = [json.dumps({"title": " ".join(random.choice(WORDS, 1 + n % 7))}) for n in range(200)]
    written = []
    for name, lot_chars in (("whole", 10**6), ("lots", 50)):
        (tmp_path / name).mkdir()
        write_postings(tmp_path / name, [*texts, None], ("title",), 0.1, lot_chars=lot_chars)
        written.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert written[0] == written[1]
    assert len(written[0]) == 11


def test_reading_words_ends_with_the_generation(tmp_path: Path) -> None:
    index = opened(tmp_path)
    index.advance("numbers", "begin", "v1")
    long = [replace(each, metadata={"title": "김치찌개" * 1000}) for each in items(range(300), 1)]
    index.write("numbers", WriteBatch(long, embedding_version="v1"))
    generation = generation_of(index)
    index.close()
    assert generation._background is None or not generation._background.is_alive()


def view_of_rows(count: int) -> View:
    delta = Delta(SPEC)
    vector = np.ones(SPEC.dim, "<f4").tobytes()
    delta.add_rows(
        [Row(n, n + 1, False, True, None, None, '{"title":"김치"}', 0, vector) for n in range(count)]
    )
    return view_of_delta(delta, count)


@pytest.mark.long
def test_rows_that_change_their_place_in_memory_are_found_by_words_meanwhile(tmp_path: Path) -> None:
    index = opened(tmp_path)
    index.advance("numbers", "begin", "v1")
    index.write("numbers", WriteBatch(items(range(UNREAD_MAX + 1), 1), embedding_version="v1"))
    generation = generation_of(index)
    if generation._background is not None:
        generation._background.join()
    before = generation.refresh().delta
    generation._compact()
    view = generation.refresh()
    assert view.delta is not before
    assert answer(view, request("김치", "lexical")).ids
    index.close()


def test_a_word_that_every_item_holds_finds_every_item(tmp_path: Path) -> None:
    """However little it tells: fewer answers than there are would be the worse mistake."""
    index = opened(tmp_path)
    index.advance("numbers", "begin", "v1")
    titles = ["국내산 김치찌개", *["국내산"] * 199, "떡볶이"]
    vector = np.ones(SPEC.dim, np.float32)
    items = [ItemWrite(number, vector, metadata={"title": title}) for number, title in enumerate(titles)]
    index.write("numbers", WriteBatch(items, embedding_version="v1"))
    request = SearchRequest(vector, 300, text=TextQuery("김치찌개 국내산", "lexical"))
    (found,) = index.search("numbers", [request])
    assert [hit.id for hit in found.hits] == list(range(200)) and found.exhausted
    index.close()
