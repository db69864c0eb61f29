"""Searches of an index in PostgreSQL are answered as those of a dictionary and of the embedded index: every
kind, page by page, while items are written and deleted between pages, with a graph and without."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import replace
from random import Random

import psycopg
import pytest

from index_store.errors import WordsNotSealed
from index_store.postgres.index import PostgresIndex
from index_store.types import ItemDelete, SearchRequest, TextQuery, WriteBatch
from tests.integration.databases import PostgresServer
from tests.reference_index import ReferenceIndex
from tests.unit.test_index_store_ranking_pages import assert_pages_alike, item_of, request_of, vector_of
from tests.unit.test_index_store_words import SPEC


@pytest.fixture(scope="module")
def address(postgres: PostgresServer) -> str:
    return postgres.address(postgres.create_database())


@pytest.fixture
def index(address: str, request: pytest.FixtureRequest) -> Iterator[PostgresIndex]:
    """param: from how many items on a graph is searched."""
    schema = f"s_{secrets.token_hex(6)}"
    with psycopg.connect(address, autocommit=True) as db:
        db.execute(f"CREATE SCHEMA {schema}".encode())
        url = f"{address}?options=-csearch_path%3D{schema},public"
        opened = PostgresIndex(url, [SPEC], graph_from=request.param)
        assert opened.open() == {}
        yield opened
        opened.close()
        db.execute(f"DROP SCHEMA {schema} CASCADE".encode())


@pytest.mark.parametrize("index", [0, 2000], indirect=True)
@pytest.mark.parametrize("seed", range(2))
def test_any_ranking_equals_a_dictionary_page_by_page(index: PostgresIndex, seed: int) -> None:
    random = Random(seed)
    indexes = [index, ReferenceIndex([SPEC])]
    first = [item_of(number, random) for number in range(60)]
    for one in indexes:
        one.advance("numbers", "begin", "v1")
        one.write("numbers", WriteBatch(first, embedding_version="v1"))
    pages = [assert_pages_alike(indexes, request_of(random), random) for _ in range(12)]
    assert sum(pages) > 12


def test_words_of_other_fields_are_read_again_when_the_index_opens(address: str) -> None:
    schema = f"s_{secrets.token_hex(6)}"
    url = f"{address}?options=-csearch_path%3D{schema},public"
    random = Random(4)
    rows = [item_of(number, random) for number in range(40)]
    titles, shades = (replace(SPEC, lexical_fields=(field,)) for field in ("title", "shade"))
    request = SearchRequest(vector_of(1), 9, text=TextQuery("red", "lexical"))
    with psycopg.connect(address, autocommit=True) as db:
        db.execute(f"CREATE SCHEMA {schema}".encode())
    first, second = (PostgresIndex(url, [spec]) for spec in (titles, shades))
    assert first.open() == {}
    first.advance("numbers", "begin", "v1")
    first.write("numbers", WriteBatch(rows, embedding_version="v1"))
    assert not first.search("numbers", [request])[0].hits
    assert second.open() == {}
    reference = ReferenceIndex([shades])
    reference.advance("numbers", "begin", "v1")
    reference.write("numbers", WriteBatch(rows, embedding_version="v1"))
    for _ in range(2):
        got, wanted = (index.search("numbers", [request])[0] for index in (second, reference))
        assert [hit.id for hit in got.hits] == [hit.id for hit in wanted.hits] != []
        changes = WriteBatch([item_of(3, random)], [ItemDelete(5)], "v1")
        for index in (second, reference):
            index.write("numbers", changes)
    with pytest.raises(WordsNotSealed, match="title"):
        first.search("numbers", [request])
    first.write("numbers", WriteBatch([item_of(7, random)], embedding_version="v1"))
    with pytest.raises(WordsNotSealed, match="shade"):  # which do not know what the other one wrote
        second.search("numbers", [request])
    for index in (first, second):
        index.close()
