"""What the routes await: cache, single flight, order, callers that leave, broken pictures."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service.embedding.pictures.decoders import DecodeLimits
from service.embedding.port import Embedded, ModelInfo, Role
from service.embedding.runtimes.placeholder import descriptor, hashed_ngrams
from service.embedding.serving.encoders import EncoderLimits, QueuedTexts, queued_pictures, queued_texts
from service.embedding.serving.queue import QueueLimits
from service.errors import DeadlineExceeded, InvalidImage, ModelUnavailable, Overloaded
from tests.waiting import PATIENCE_S


class GatedTexts:
    """Hashed n-grams that work only while the gate is open, and note what they were asked."""

    def __init__(self) -> None:
        self._inner = hashed_ngrams(32)
        self.gate = threading.Event()
        self.gate.set()
        self.asked: list[tuple[Role, list[str]]] = []

    @property
    def info(self) -> ModelInfo:
        return replace(self._inner.info, tokens_max=20)

    def embed(self, contents: Sequence[str], role: Role) -> Embedded:
        self.asked.append((role, list(contents)))
        assert self.gate.wait(PATIENCE_S)
        vectors = self._inner.embed(contents, role).vectors
        for row, text in enumerate(contents):
            if text == "poison":
                vectors[row] = np.nan
        return Embedded(vectors, np.array([len(t) > 20 for t in contents], np.bool_))

    def close(self) -> None:
        self.gate.set()


def run(embedder: GatedTexts, work: Any, limits: EncoderLimits | None = None) -> Any:
    """Run `work(encoder)` in a fresh loop around a started encoder."""
    encoder = queued_texts(embedder, limits)

    async def around() -> Any:
        encoder.start()
        try:
            return await work(encoder)
        finally:
            embedder.gate.set()
            encoder.close()

    return asyncio.run(around())


async def started(work: Coroutine[Any, Any, Any], embedder: GatedTexts, asked: int) -> asyncio.Task[Any]:
    """Start `work` and wait until the model has been asked `asked` times."""
    task = asyncio.ensure_future(work)
    for _ in range(1000):
        if len(embedder.asked) >= asked:
            return task
        await asyncio.sleep(0.005)
    raise AssertionError("the model was never asked")


def test_a_repeated_query_costs_no_second_pass() -> None:
    embedder = GatedTexts()

    async def work(encoder: QueuedTexts) -> None:
        first, second = await encoder.embed_query("탕"), await encoder.embed_query("탕")
        assert first[0] is second[0]
        assert not first[0].flags.writeable
        assert (encoder.cache_counters.hits, encoder.cache_counters.misses) == (1, 1)

    run(embedder, work)
    assert embedder.asked == [("query", ["탕"])]


def test_the_cache_is_bounded_and_forgets_the_oldest() -> None:
    embedder = GatedTexts()

    async def work(encoder: QueuedTexts) -> None:
        for text in ["a", "b", "a", "c", "a", "b"]:  # c pushes b out
            await encoder.embed_query(text)
        assert encoder.cache_counters.evicted == 2

    run(embedder, work, EncoderLimits(cache_items_max=2))
    assert [texts for _, texts in embedder.asked] == [["a"], ["b"], ["c"], ["b"]]


def test_equal_queries_at_once_share_one_pass() -> None:
    embedder = GatedTexts()

    async def work(encoder: QueuedTexts) -> None:
        found = await asyncio.gather(*[encoder.embed_query("탕") for _ in range(20)])
        assert all(f[0] is found[0][0] for f in found)
        assert encoder.cache_counters.shared == 19

    run(embedder, work)
    assert embedder.asked == [("query", ["탕"])]


def test_a_caller_that_leaves_does_not_take_the_answer_from_the_others() -> None:
    embedder = GatedTexts()
    embedder.gate.clear()

    async def work(encoder: QueuedTexts) -> None:
        busy = await started(encoder.embed_query("busy"), embedder, 1)
        leaves = asyncio.ensure_future(encoder.embed_query("탕"))
        stays = asyncio.ensure_future(encoder.embed_query("탕"))
        await asyncio.sleep(0.01)
        leaves.cancel()
        await asyncio.sleep(0.01)
        embedder.gate.set()
        assert (await stays)[0].shape == (32,)
        await busy

    run(embedder, work, EncoderLimits(QueueLimits(streams=1)))


def test_when_every_caller_leaves_the_work_is_dropped() -> None:
    embedder = GatedTexts()
    embedder.gate.clear()

    async def work(encoder: QueuedTexts) -> None:
        busy = await started(encoder.embed_query("busy"), embedder, 1)
        gone = [asyncio.ensure_future(encoder.embed_query("탕")) for _ in range(2)]
        bulky = await started(encoder.embed_documents(["z"]), embedder, 2)
        bulk = asyncio.ensure_future(encoder.embed_documents(["x", "y"]))
        await asyncio.sleep(0.01)
        for task in [*gone, bulk]:
            task.cancel()
        await asyncio.gather(*gone, bulk, return_exceptions=True)
        embedder.gate.set()
        await asyncio.gather(busy, bulky)
        await encoder.embed_query("next")
        await encoder.embed_documents(["last"])
        assert encoder.counters.dropped == 3

    run(embedder, work, EncoderLimits(QueueLimits(streams=1)))
    assert [texts for _, texts in embedder.asked] == [["busy"], ["z"], ["next"], ["last"]]


def test_documents_come_back_in_order_and_say_what_was_cut() -> None:
    embedder = GatedTexts()
    texts = [f"{'탕' * (i * 7 % 31)} {i}" for i in range(200)]

    async def work(encoder: QueuedTexts) -> Any:
        return await encoder.embed_documents(texts)

    found = run(embedder, work)
    vectors = np.stack([each.vector for each in found])
    np.testing.assert_array_equal(vectors, hashed_ngrams(32).embed(texts, "document").vectors)
    assert [each.truncated for each in found] == [len(t) > 20 for t in texts]
    assert {role for role, _ in embedder.asked} == {"document"}


def test_no_documents_give_no_vectors() -> None:
    async def work(encoder: QueuedTexts) -> Any:
        return await encoder.embed_documents([])

    assert run(GatedTexts(), work) == []


def test_an_answer_that_takes_too_long_is_an_error() -> None:
    embedder = GatedTexts()
    embedder.gate.clear()

    async def work(encoder: QueuedTexts) -> None:
        with pytest.raises(DeadlineExceeded):
            await encoder.embed_query("탕", deadline_ms=20)
        with pytest.raises(DeadlineExceeded):
            await encoder.embed_documents(["탕"], deadline_ms=20)

    run(embedder, work)


def test_more_queries_than_may_wait_are_refused() -> None:
    embedder = GatedTexts()
    embedder.gate.clear()

    async def work(encoder: QueuedTexts) -> None:
        busy = await started(encoder.embed_query("busy"), embedder, 1)
        waiting = [asyncio.ensure_future(encoder.embed_query(str(i))) for i in range(3)]
        await asyncio.sleep(0.01)
        with pytest.raises(Overloaded):
            await encoder.embed_query("one too many")
        embedder.gate.set()
        await asyncio.gather(busy, *waiting)

    run(embedder, work, EncoderLimits(QueueLimits(streams=1, queries_max=3)))


def test_a_vector_that_is_none_never_leaves_and_spoils_nothing() -> None:
    async def work(encoder: QueuedTexts) -> None:
        good, bad = await asyncio.gather(
            encoder.embed_query("탕"), encoder.embed_query("poison"), return_exceptions=True
        )
        assert isinstance(bad, ModelUnavailable)
        assert good[0].shape == (32,)

    run(GatedTexts(), work, EncoderLimits(QueueLimits(streams=1)))


def jpeg(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 40, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


@pytest.mark.long
def test_one_broken_picture_spoils_no_other() -> None:
    files = [jpeg(seed) for seed in range(80)]
    files[3], files[70] = b"text", files[70][:60]
    encoder = queued_pictures(descriptor())

    async def work() -> tuple[list[Any], Any]:
        encoder.start()
        try:
            return await encoder.embed_documents(files), await encoder.embed_query(files[5])
        finally:
            encoder.close()

    found, query = asyncio.run(work())
    refused = {place: f.code for place, f in enumerate(found) if isinstance(f, InvalidImage)}
    assert refused == {3: "image_format", 70: "image_truncated"}
    np.testing.assert_array_equal(query.vector, found[5].vector)
    assert len({f.vector.tobytes() for f in found if not isinstance(f, InvalidImage)}) == 78


def test_a_broken_query_picture_says_why() -> None:
    encoder = queued_pictures(descriptor(), pictures=DecodeLimits(bytes_max=100))

    async def work() -> None:
        encoder.start()
        try:
            with pytest.raises(InvalidImage) as caught:
                await encoder.embed_query(jpeg(1))
            assert caught.value.code == "image_too_large"
        finally:
            encoder.close()

    asyncio.run(work())
