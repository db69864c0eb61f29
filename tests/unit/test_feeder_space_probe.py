"""The space probe's cost: each content once, whatever repeats, and a sign of life."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import pytest

from feeder.changes import ItemRow, VectorPage
from feeder.load.importer import _most, _spread
from feeder.load.space_probe import CONTENTS_MAX, ProbeRules, SpaceProbe
from feeder.read.image_fetch import PictureRefused
from vector_client.errors import BadRequest
from vector_client.types import Embedded

DIM = 8


def vector_of(text: str) -> np.ndarray:
    found = np.random.default_rng(list(text.encode())).standard_normal(DIM)
    return found / np.linalg.norm(found)


class HashedEmbedder:
    """The two calls of VectorClient that the probe makes; each text has a direction of its own."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.now = 0.0

    def embed_batch(self, texts: Sequence[str], collection: str, role: str) -> Embedded:
        assert collection == "titles" and role == "document" and len(texts) <= 100
        self.texts += texts
        self.now += 3
        return Embedded([vector_of(text).tolist() for text in texts], DIM, "m.1")

    def embed_image(self, image: bytes, collection: str) -> Embedded:
        assert collection == "titles"
        if image == b"broken":
            raise BadRequest(422, "invalid_image", "no picture")
        self.texts.append(image.decode())
        self.now += 3
        return Embedded([vector_of(image.decode()).tolist()], DIM, "m.1")


def probe_of(client: HashedEmbedder, modality: str = "text") -> SpaceProbe:
    rules = ProbeRules(0.999, 1)
    return SpaceProbe(client, "titles", modality, "{title}", rules, lambda: client.now)  # type: ignore[arg-type]


def no_picture(address: str) -> bytes:
    raise AssertionError(f"nobody asks for {address}")


def page(ids: Sequence[int], texts: Sequence[str]) -> VectorPage:
    return VectorPage(list(range(len(ids))), ids, np.array([vector_of(t) for t in texts], dtype=np.float32))


def rows(*titles: str) -> list[ItemRow]:
    return [ItemRow({"title": title, "image_url": title}, {}) for title in titles]


def test_an_id_of_many_rows_costs_each_text_once(caplog: pytest.LogCaptureFixture) -> None:
    """One id on 455 of 600 rows used to cost 52,000 texts."""
    caplog.set_level(logging.INFO)
    many = [f"방송 {n}" for n in range(455)]
    ids = [1] * 455 + list(range(2, 147))
    texts = many + [f"상품 {n}" for n in range(2, 147)]
    content = {1: rows(*many), **{n: rows(f"상품 {n}") for n in range(2, 147)}}
    client = HashedEmbedder()
    proof = probe_of(client).prove(page(ids, texts), content, no_picture)
    assert proof.reason is None and proof.compared == 600 and proof.median > 0.9999
    assert len(client.texts) == len(set(client.texts)) == 600
    assert "id 1 has the most rows of content, 455" in str(proof)
    went_on = [record.done for record in caplog.records if record.message == "space_probe_went_on"]  # type: ignore[attr-defined]
    assert went_on and went_on == sorted(went_on) and went_on[-1] <= 600


def test_the_sample_is_bounded_whatever_the_ids_hold() -> None:
    content = {n: rows(*(f"{n}-{position}" for position in range(600))) for n in range(20)}
    content |= {n: rows(f"상품 {n}") for n in range(20, 60)}
    ids = list(range(60))
    texts = [f"{n}-7" if n < 20 else f"상품 {n}" for n in ids]
    client = HashedEmbedder()
    proof = probe_of(client).prove(page(ids, texts), content, no_picture)
    assert len(client.texts) <= CONTENTS_MAX
    assert proof.reason is None and proof.compared == 40 + 3


def test_a_single_id_with_more_is_proved_by_all_of_them() -> None:
    count = CONTENTS_MAX + 10
    texts = [f"방송 {n}" for n in range(count)]
    client = HashedEmbedder()
    proof = probe_of(client).prove(page([1] * 30, texts[-30:]), {1: rows(*texts)}, no_picture)
    assert proof.reason is None and len(client.texts) == count


def test_a_picture_of_many_items_is_fetched_once() -> None:
    fetched: list[str] = []

    def fetch(address: str) -> bytes:
        fetched.append(address)
        if address == "gone":
            raise PictureRefused("status 404")
        return b"broken" if address == "bad" else address.encode()

    content = {n: rows(("same", "gone", "bad", "other")[n % 4]) for n in range(80)}
    texts = [content[n][0].content["image_url"] for n in range(80)]
    proof = probe_of(HashedEmbedder(), "image").prove(page(range(80), texts), content, fetch)
    assert sorted(fetched) == ["bad", "gone", "other", "same"]
    assert proof.reason is None and proof.compared == 40


def test_the_best_of_several_contents_counts_and_noise_is_still_seen() -> None:
    content = {n: rows(f"a{n}", f"b{n}") for n in range(30)}
    good = probe_of(HashedEmbedder()).prove(
        page(range(30), [f"b{n}" for n in range(30)]), content, no_picture
    )
    assert good.reason is None
    bad = probe_of(HashedEmbedder()).prove(page(range(30), [f"x{n}" for n in range(30)]), content, no_picture)
    assert bad.reason is not None
    zero = VectorPage([0], [0], np.zeros((1, DIM), np.float32))
    assert probe_of(HashedEmbedder()).prove(zero, content, no_picture).compared == 0


@pytest.mark.parametrize("kind", [int, str])
def test_ids_come_before_their_further_rows(kind: type) -> None:
    ids = [kind(1)] * 455 + [kind(n) for n in range(2, 147)]
    survey = np.array(ids) if kind is int else ids
    positions = _spread(survey, np.arange(600), 200)
    assert len({ids[position] for position in positions}) == 146 and len(positions) <= 201
    few = _spread(survey, np.arange(600), 50)
    assert len({ids[position] for position in few}) == len(few) == 50
    assert _most(survey) == (kind(1), 455)
    assert len(_spread(survey, np.arange(0), 50)) == 0


def test_equal_refusals_are_one_line_with_a_count(caplog: pytest.LogCaptureFixture) -> None:
    """200 of them used to be 200 lines."""

    def fetch(address: str) -> bytes:
        if address == "https://img.example/7.jpg":
            raise PictureRefused("not complete within 10 s")
        raise PictureRefused(f"{address}: host img.example is not listed in FEEDER_IMAGE_HOSTS")

    addresses = [f"https://img.example/{n}.jpg" for n in range(200)]
    content = {n: rows(address) for n, address in enumerate(addresses)}
    proof = probe_of(HashedEmbedder(), "image").prove(page(range(200), addresses), content, fetch)
    assert proof.compared == 0
    said = [(r.why, r.count) for r in caplog.records if r.message == "picture_refused"]  # type: ignore[attr-defined]
    assert said == [
        ("host img.example is not listed in FEEDER_IMAGE_HOSTS", 199),
        ("not complete within 10 s", 1),
    ]
