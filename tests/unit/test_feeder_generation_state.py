"""Two generations with a source column each: the mapping of both, and the state that each follower sees."""

from __future__ import annotations

import json

import pytest

from feeder.errors import ImportRefused
from feeder.follow.versions import imported_version
from feeder.sink.generation_state import WrittenGeneration
from feeder.state.cursor_names import CLOCK_CURSOR, IMPORT_CURSOR
from feeder.table_mapping import CollectionTables, parse_collections
from feeder.wiring_feeds import reader_of
from vector_client.types import CollectionState, Generation

BOTH = """
[collections.products.source]
embedding_version = "old.1"
next = { embedding_version = "new.2", NEXT }
[collections.products.source.vectors]
table = "product_vectors"
key = "number"
id = "product_id"
vector = "vector"
[collections.products.source.items]
table = "product"
id = "id"
content = { image_url = "picture" }
"""


def parsed(text: str) -> tuple[dict[str, CollectionTables], list[str]]:
    mistakes: list[str] = []
    return parse_collections(text, mistakes), mistakes


def test_a_second_column_has_everything_else_of_the_first() -> None:
    found, mistakes = parsed(BOTH.replace("NEXT", 'vector = "vector_2"'))
    assert not mistakes and list(found) == ["products", "products.next"]
    first, second = found["products"], found["products.next"]
    assert first.vectors is not None and second.vectors is not None
    assert (second.vectors.vector, second.vectors.table) == ("vector_2", first.vectors.table)
    assert (first.embedding_version, first.other_versions) == ("old.1", ("new.2",))
    assert (second.embedding_version, second.other_versions) == ("new.2", ("old.1",))
    assert second.items == first.items and second.name == first.name == "products"
    assert (first.label, second.label) == ("products", "products.next")
    assert second.watched_as == "products", "one table is watched once"
    assert reader_of(first, "ab12") != reader_of(second, "ab12")


def test_without_a_column_the_content_is_embedded_by_the_service() -> None:
    found, mistakes = parsed(BOTH.replace(", NEXT", ""))
    second = found["products.next"]
    assert not mistakes and second.vectors is None and second.items == found["products"].items
    assert (second.embedding_version, second.other_versions) == ("new.2", ("old.1",))
    _, mistakes = parsed(BOTH.replace(", NEXT", "").replace('content = { image_url = "picture" }', ""))
    assert any("source.next.vector: 'vector' is the column of source.vectors" in each for each in mistakes)


def test_the_next_model_may_have_another_dim() -> None:
    found, mistakes = parsed(BOTH.replace("NEXT", 'vector = "v", dim = 768'))
    assert not mistakes and (found["products"].dim, found["products.next"].dim) == (512, 768)


def test_a_second_table_is_watched_by_a_name_of_its_own() -> None:
    found, mistakes = parsed(
        BOTH.replace("NEXT", 'table = "vectors_2", key = "nr", id = "item", vector = "v"')
    )
    second = found["products.next"]
    assert not mistakes and second.vectors is not None
    assert (second.vectors.table, second.vectors.key, second.vectors.id) == (("vectors_2",), "nr", "item")
    assert second.watched_as == "products_next" and found["products"].watched_as == "products"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("NEXT", 'vector = "vector"'), "source.next.vector: 'vector' is the column of source.vectors"),
        (("new.2", "old.1"), "source.next.embedding_version: 'old.1' is that of source.vectors"),
        (
            ('embedding_version = "new.2", NEXT', 'vector = "v"'),
            "source.next.embedding_version: a text is needed",
        ),
        (('embedding_version = "old.1"', ""), "source.embedding_version: is needed beside source.next"),
        (("NEXT", 'vector = "v", dim = 0'), "source.next.dim: a whole number 1..16000 is needed, got 0"),
        (("NEXT", 'vektor = "v"'), "source.next.vektor: unknown; did you mean vector?"),
        (("NEXT", 'vector = ["a", "b"]'), "source.next.vector: one column is needed"),
        (("next = {", "nxt = {"), "source.nxt: unknown; did you mean next?"),
        (('{ embedding_version = "new.2", NEXT }', '"v"'), "source.next: a table is needed"),
    ],
)
def test_a_mistake_is_named(change: tuple[str, str], says: str) -> None:
    _, mistakes = parsed(BOTH.replace(*change).replace("NEXT", 'vector = "v"'))
    assert any(says in mistake for mistake in mistakes), mistakes


def test_content_alone_has_no_second_column() -> None:
    text = BOTH.replace("NEXT", 'vector = "v"')
    start, end = (
        text.index("[collections.products.source.vectors]"),
        text.index("[collections.products.source.items]"),
    )
    _, mistakes = parsed(f"[collections.dishes]{text[:start]}{text[end:]}".replace("products", "dishes"))
    assert any("source.next: a table is needed, beside one of source.vectors" in each for each in mistakes)


def state(*roles: tuple[str, str], clocks: tuple[str, ...] = ()) -> CollectionState:
    """clocks: of each generation."""
    generations = [
        Generation(
            f"g{n}",
            role,
            version,
            9,
            9,
            70 + n,
            {"who": version, **({CLOCK_CURSOR: clocks[n]} if clocks else {})},
        )
        for n, (role, version) in enumerate(roles)
    ]
    first = generations[0] if generations else None
    return CollectionState(
        "products", first and first.embedding_version, first.seq if first else 0,
        first.cursors if first else {}, "ab12", generations=generations,
    )  # fmt: skip


OLD = WrittenGeneration("products", "old.1", ("new.2",))
NEW = WrittenGeneration("products.next", "new.2", ("old.1",))


def test_roles_change_nothing_of_what_a_follower_sees() -> None:
    before = state(("current", "old.1"), ("next", "new.2"))
    after = state(("current", "new.2"), ("former", "old.1"))
    for written in (OLD, NEW):
        seen = [written.state_in(each) for each in (before, after)]
        assert [each.version for each in seen] == [written.embedding_version] * 2
        assert [each.cursors["who"] for each in seen] == [written.embedding_version] * 2
        assert seen[0].name == written.label and seen[0].store == "ab12"
    assert WrittenGeneration("products").state_in(before) is before


def test_a_version_that_the_service_does_not_hold_is_refused_by_name() -> None:
    for written, held in (
        (OLD, state(("current", "new.2"))),
        (NEW, state(("current", "old.1"), ("next", "x.3"))),
    ):
        with pytest.raises(ImportRefused, match=str(written.embedding_version)) as caught:
            written.state_in(held)
        assert all(each.embedding_version in str(caught.value) for each in held.generations)
        assert "COLLECTIONS_FILE" in caught.value.hint
    empty = state()
    assert OLD.state_in(empty) is empty, "an import begins the first generation"


def test_a_service_of_the_release_before_tells_no_generations() -> None:
    old = CollectionState("products", "old.1", 7, {"who": "old.1"})
    assert OLD.state_in(old).cursors == old.cursors
    with pytest.raises(ImportRefused, match="holds no generation"):
        NEW.state_in(old)


def test_the_clock_goes_on_behind_every_generation() -> None:
    """What a new generation took over bears source_versions of the former's feeder."""
    held = state(("current", "old.1"), ("next", "new.2"), clocks=("900", "20"))
    assert NEW.state_in(held).cursors[CLOCK_CURSOR] == "900"


@pytest.mark.parametrize(
    ("cursor", "is_proven"),
    [
        (None, False),
        ({"version": "new.2", "done": True}, True),
        ({"version": "new.2", "done": False}, False),
        ({"version": "old.1", "done": True}, False),
    ],
)
def test_a_next_generation_is_followed_once_its_import_has_come_to_its_end(
    cursor: dict[str, object] | None, is_proven: bool
) -> None:
    cursors = {} if cursor is None else {IMPORT_CURSOR: json.dumps(cursor)}
    held = CollectionState("products.next", "new.2", 7, cursors)
    if is_proven:
        assert imported_version(held) == "new.2"
    else:
        with pytest.raises(ImportRefused) as caught:
            imported_version(held)
        assert "feeder import products.next" in caught.value.hint
