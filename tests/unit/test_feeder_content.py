"""Collections whose vectors the service makes: only new content is sent, and what can't be had is named."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from feeder.changes import Changes, Directory, IntDirectory, ItemRow, TextDirectory
from feeder.compare.reconciler import Reconciler
from feeder.compare.report import Report
from feeder.compare.writes import store_state
from feeder.digest import Shares, crc_of, crcs_of
from feeder.follow.quarantine import QuarantineNotes, quarantine_text
from feeder.read.content_reader import ContentReader, ContentRules
from feeder.read.image_fetch import PictureFetcher, PictureRefused
from feeder.sink.brake import Brake
from feeder.sources.port import Throttling
from feeder.sources.rows import IdCodec, item_rows
from feeder.state.content_cache import BACKOFF_S, ContentCache
from feeder.table_mapping import ItemTable, parse_collections
from index_store.engine.index import EmbeddedIndex
from index_store.types import CollectionSpec
from tests.index_side import BROKEN, IndexStore
from vector_client.types import Id

VERSION, NAME, DIM = "model-1", "products", 4
TEMPLATE = "{title}: {ingredients}"


class ListItems:
    """An items table in a dict: id -> (content, active). Fits ItemSource."""

    def __init__(self) -> None:
        self.rows: dict[str, tuple[dict[str, str], bool]] = {}

    def open(self) -> None: ...

    def directory(self, throttle: Throttling | None = None) -> Directory:  # noqa: ARG002
        return TextDirectory({item_id: active for item_id, (_, active) in self.rows.items()})

    def fetch(self, ids: Sequence[Id]) -> Mapping[Id, Sequence[ItemRow]]:
        rows = {i: self.rows[str(i)] for i in ids if str(i) in self.rows}
        return {item_id: [ItemRow(content, {}, active)] for item_id, (content, active) in rows.items()}

    def close(self) -> None: ...


class Pictures(PictureFetcher):
    """A web in a dict."""

    def __init__(self) -> None:
        self.web: dict[str, bytes] = {}
        self.asked: list[str] = []

    def picture_at(self, url: str) -> bytes:
        self.asked.append(url)
        if url not in self.web:
            raise PictureRefused("status 404")
        return self.web[url]


class Bench:
    def __init__(self, index: EmbeddedIndex, folder: Path, modality: str) -> None:
        self.items, self.pictures, self.store = ListItems(), Pictures(), IndexStore(index, NAME)
        self.now, self.clock = 1000.0, 1
        self.state = ContentCache(str(folder / "content.sqlite"), lambda: self.now)
        recipe = ContentRules("image" if modality == "image" else "text", TEMPLATE, 7, 3)
        self.reader = ContentReader(self.items, self.state, self.pictures, recipe, "one", lambda: self.now)
        self.reader.open()

    def put(self, item_id: str, *, active: bool = True, **content: str) -> None:
        self.items.rows[item_id] = (content, active)

    def picture(self, item_id: str, data: bytes | None, *, url: str = "", active: bool = True) -> None:
        address = url or f"http://127.0.0.1/{item_id}.jpg"
        if data is not None:
            self.pictures.web[address] = data
        self.put(item_id, image_url=address, active=active)

    def reconciler(self) -> Reconciler:
        return Reconciler(
            NAME, self.store, self.reader, Brake(50.0), batch_items=5, clock=lambda: 0.0, pause=lambda _: None
        )

    def repair(self) -> Report:
        self.store.embedded.clear()
        return self.reconciler().repair(VERSION, self.version)

    def compare(self) -> Report:
        return self.reconciler().compare(VERSION)

    def batch(self, *ids: str) -> Mapping[Id, str]:
        """What following does with ids that changed."""
        self.store.embedded.clear()
        known = self.reader.current_state(ids=ids)
        return store_state(self.store, self.reader, known, VERSION, self.version(), {})[1]

    def version(self) -> int:
        self.clock += 1
        return self.clock

    def stored(self, item_id: str):  # type: ignore[no-untyped-def]
        return self.store.index.get(NAME, [item_id])[0]


@pytest.fixture
def index(tmp_path: Path) -> Iterator[EmbeddedIndex]:
    index = EmbeddedIndex(tmp_path / "index", [CollectionSpec(NAME, "string", DIM, "l2")])
    index.open()
    index.advance(NAME, "begin", VERSION)
    yield index
    index.close()


@pytest.fixture
def texts(index: EmbeddedIndex, tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(index, tmp_path, "text")
    for number in range(20):
        bench.put(f"r{number}", title=f"김치찌개 {number}", ingredients="두부, 파", active=number % 4 != 0)
    yield bench
    bench.reader.close()


@pytest.fixture
def shop(index: EmbeddedIndex, tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(index, tmp_path, "image")
    for number in range(20):
        bench.picture(f"p{number}", b"picture %d" % number, active=number % 4 != 0)
    yield bench
    bench.reader.close()


@pytest.mark.parametrize("kind", ["texts", "shop"])
def test_everything_is_embedded_once_and_proved(kind: str, request: pytest.FixtureRequest) -> None:
    bench: Bench = request.getfixturevalue(kind)
    assert bench.repair().is_equal and len(bench.store.embedded) == 20
    assert bench.repair().is_equal and bench.store.embedded == []
    assert bench.compare().found.all_ids == []


def test_the_hash_is_of_the_rendered_text_in_nfc(texts: Bench) -> None:
    texts.put("r1", title=unicodedata.normalize("NFD", "  순두부"), ingredients="파")
    texts.repair()
    assert texts.stored("r1").content_hash == hashlib.sha256("순두부: 파".encode()).digest()


def test_only_changed_content_is_embedded_again(texts: Bench) -> None:
    texts.repair()
    texts.put("r1", title="김치찌개 1", ingredients="두부, 파", active=False)
    texts.put("r2", title="김치찌개 2", ingredients="두부, 파, 마늘")
    assert texts.batch("r1", "r2") == {}
    assert texts.store.embedded == ["r2"] and texts.stored("r1").active is False
    assert texts.compare().found.all_ids == []


def test_a_comparison_embeds_only_what_differs_in_content(texts: Bench) -> None:
    texts.repair()
    texts.put("r1", title="김치찌개 1", ingredients="두부, 파", active=False)
    texts.put("r2", title="새 이름", ingredients="")
    del texts.items.rows["r3"]
    report = texts.repair()
    assert report.is_equal and sorted(report.found.all_ids) == ["r1", "r2", "r3"]
    assert texts.store.embedded == ["r2"] and texts.stored("r3") is None


def test_an_index_that_lost_rows_gets_them_again_despite_the_memory(shop: Bench) -> None:
    shop.repair()
    before = shop.store.digest().root
    shop.store.index.write(NAME, _delete("p3"))
    assert shop.repair().is_equal and shop.store.embedded == ["p3"]
    assert shop.store.digest().root == before


def test_an_item_that_the_index_lost_is_sent_whole_when_it_changes(texts: Bench) -> None:
    texts.repair()
    before = texts.store.digest().root
    for item_id in ("r1", "r4"):
        texts.store.index.write(NAME, _delete(item_id))
    texts.put("r1", title="김치찌개 1", ingredients="두부, 파", active=False)
    assert texts.batch("r1", "r4", "r2") == {}
    assert sorted(texts.store.embedded) == ["r1", "r4"]
    lost = texts.stored("r1")
    assert lost.vector is not None and not lost.active
    texts.put("r1", title="김치찌개 1", ingredients="두부, 파", active=True)
    texts.batch("r1")
    assert texts.compare().is_equal and texts.store.digest().root == before


def test_a_lost_item_whose_content_is_gone_leaves_no_row(shop: Bench) -> None:
    shop.repair()
    shop.store.index.write(NAME, _delete("p3"))
    del shop.pictures.web["http://127.0.0.1/p3.jpg"]
    assert shop.batch("p3") == {}
    assert shop.stored("p3") is None
    assert shop.repair().quarantined == {"p3": "status 404"}


def test_a_new_address_is_fetched_and_an_old_one_is_not(shop: Bench) -> None:
    shop.repair()
    shop.pictures.asked.clear()
    shop.picture("p5", b"another", url="http://127.0.0.1/new.jpg")
    shop.batch("p5", "p6")
    assert shop.pictures.asked == ["http://127.0.0.1/new.jpg"] and shop.store.embedded == ["p5"]
    assert shop.compare().is_equal


def test_what_fails_is_named_and_tried_again_with_back_off(shop: Bench) -> None:
    del shop.pictures.web["http://127.0.0.1/p7.jpg"]
    report = shop.repair()
    assert report.is_equal and report.quarantined == {"p7": "status 404"}
    assert "except 1 quarantined" in str(report) and shop.stored("p7") is None
    assert shop.reader.quarantined(only_due=True) == {}
    shop.now += BACKOFF_S + 1
    assert list(shop.reader.quarantined(only_due=True)) == ["p7"]
    shop.batch("p7")
    shop.now += BACKOFF_S + 1
    assert shop.reader.quarantined(only_due=True) == {}, "the second pause is longer"
    shop.now += BACKOFF_S
    shop.pictures.web["http://127.0.0.1/p7.jpg"] = b"there at last"
    shop.batch(*map(str, shop.reader.quarantined(only_due=True)))
    assert shop.reader.quarantined() == {} and shop.stored("p7") is not None
    report = shop.compare()
    assert report.is_equal and not report.quarantined


def test_all_that_failed_is_due_once_somebody_asks_for_it(shop: Bench) -> None:
    del shop.pictures.web["http://127.0.0.1/p7.jpg"]
    shop.repair()
    notes = QuarantineNotes(shop.reader, shop.store)
    notes.follow_wish({})
    assert shop.reader.quarantined(only_due=True) == {}
    notes.tell({})
    stored = shop.store.state().cursors
    assert json.loads(stored["sync.quarantine"]) == {
        "reasons": [{"why": "status 404", "count": 1, "ids": ["p7"]}]
    }
    seq = shop.store.state().seq
    notes.tell(stored)
    assert shop.store.state().seq == seq, "the same is not stored again"
    notes.follow_wish({"sync.retry": "1"})
    assert list(shop.reader.quarantined(only_due=True)) == ["p7"]
    shop.batch("p7")
    notes.follow_wish({"sync.retry": "1"})
    assert shop.reader.quarantined(only_due=True) == {}, "each wish counts once"


def test_what_is_told_of_a_large_quarantine_is_bounded() -> None:
    reasons = {"가" * 250 + f"{place:05}": f"{place % 1000} {'사유' * 1000}" for place in range(20_000)}
    text = quarantine_text(reasons)
    assert len(text.encode()) < 65_536
    assert [each["count"] for each in json.loads(text)["reasons"]] == [20] * 10
    assert quarantine_text({}) == ""


@pytest.mark.parametrize("way", ["gone", "broken"])
def test_a_picture_that_became_bad_keeps_the_old_vector_but_not_its_place_on_sale(
    shop: Bench, way: str
) -> None:
    shop.repair()
    old = shop.stored("p5")
    shop.picture("p5", None if way == "gone" else BROKEN, url="http://127.0.0.1/bad.jpg", active=False)
    shop.batch("p5")
    now = shop.stored("p5")
    assert now.active is False and now.content_hash == old.content_hash
    assert list(shop.reader.quarantined()) == ["p5"]
    report = shop.compare()
    assert report.is_equal and list(report.quarantined) == ["p5"]


def test_a_lost_memory_costs_one_comparison(shop: Bench, tmp_path: Path) -> None:
    shop.repair()
    (tmp_path / "fresh").mkdir()
    fresh = Bench(shop.store.index, tmp_path / "fresh", "image")
    fresh.items, fresh.reader._items = shop.items, shop.items
    fresh.pictures.web.update(shop.pictures.web)
    assert not fresh.reader.is_ready
    assert fresh.compare().is_equal, "a proof needs no memory, only pictures"
    fresh.pictures.web["http://127.0.0.1/p3.jpg"] = b"another one under the same address"
    assert fresh.repair().is_equal and fresh.reader.is_ready
    assert fresh.store.embedded == ["p3"], "what the index holds already is not embedded again"
    fresh.pictures.asked.clear()
    assert fresh.repair().is_equal and fresh.pictures.asked == []
    fresh.reader.close()


def test_an_item_without_content_is_not_there(texts: Bench) -> None:
    texts.repair()
    texts.put("r1", title=" ", ingredients="")
    report = texts.repair()
    assert report.is_equal and report.skipped == {"no_content": 1} and texts.stored("r1") is None


def test_a_page_of_shares_is_the_same_as_each_of_them() -> None:
    import numpy as np

    from feeder.facts import Chunk

    rng, shares = np.random.default_rng(3), Shares(VERSION)
    bodies = rng.integers(0, 256, (50, 32), dtype=np.uint8)
    active = rng.random(50) < 0.5
    for ids in ([f"상품-{n}" for n in range(50)], [n * 7919 - 2**40 for n in range(50)]):
        for is_hashed in (True, False):
            one = shares.of_content if is_hashed else shares.of_vector
            expected = [one(i, bool(a), b.tobytes()) for i, a, b in zip(ids, active, bodies, strict=True)]
            assert shares.of_chunk(Chunk(ids, active, bodies, is_hashed)).tolist() == expected
        packed = np.array(ids) if isinstance(ids[0], int) else ids
        assert crcs_of(packed).tolist() == [crc_of(i) for i in ids]


def test_a_directory_tells_its_ids() -> None:
    import numpy as np

    assert IntDirectory(np.array([3, 1, 3]), np.array([True, False, False])).ids() == [1, 3]
    assert TextDirectory({"b": True, "a": False}).ids() == ["b", "a"]


def _delete(item_id: str):  # type: ignore[no-untyped-def]
    from index_store.types import ItemDelete, WriteBatch

    return WriteBatch((), [ItemDelete(item_id, None)], None, {})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (["두부", None, "파"], "두부, 파"),
        ('["두부", "파"]', "두부, 파"),
        ("[국내산] 두부", "[국내산] 두부"),
        ("[1, 2]", "[1, 2]"),
        (b"\xed\x8c\x8c", "파"),
    ],
)
def test_several_values_are_joined_by_commas(value: object, text: str) -> None:
    table = ItemTable(("t",), "id", "1 = 1", content={"ingredients": "I"})
    rows = item_rows(table, IdCodec("int64", True), [(1, True, value)])
    assert rows[1][0].content == {"ingredients": text}


def test_content_without_vectors_is_a_collection() -> None:
    mistakes: list[str] = []
    found = parse_collections(CONTENT_ONLY, mistakes)
    assert mistakes == [] and found["recipes"].vectors is None
    assert found["recipes"].text_template == "{title}: {ingredients}"
    broken = CONTENT_ONLY.replace("title = ", "name = ").replace('modality = "text"', 'modality = "image"')
    parse_collections(broken, mistakes)
    assert "image_url" in mistakes[0]


CONTENT_ONLY = """
[collections.recipes]
id_type = "int64"
modality = "text"
text_template = "{title}: {ingredients}"
[collections.recipes.source.items]
table = "FCT_RECIPE"
id = "RECIPE_ID"
content = { title = "T", ingredients = "I" }
"""


def test_what_somebody_deleted_in_the_index_comes_back_with_its_content(texts: Bench) -> None:
    """Only its activity changed, and nothing is stored of an id that is not there."""
    texts.repair()
    texts.store.apply(Changes(delete_ids=["r1"]), {})
    texts.put("r1", title="김치찌개 1", ingredients="두부, 파", active=False)
    texts.batch("r1", "r2")
    assert texts.store.embedded == ["r1"]
    assert texts.stored("r1").vector is not None and not texts.stored("r1").active
    assert texts.compare().is_equal
