"""Pictures over the wire: every format, and what hostile ones do to the others."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pillow_heif
import pytest
from PIL import Image

from service.app.encoders import ImageEncoder
from service.embedding.port import ModelInfo
from service.errors import Overloaded
from tests.http_app import HttpApp, application_of, picture_bytes, running_app, seed
from tests.unit.test_embedding_decoders import jpeg_with_scans, slow_picture

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP", "TIFF", "HEIF")


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_finds_the_product_it_shows(app: HttpApp, kind: str) -> None:
    pillow_heif.register_heif_opener()  # here to write; the service registers nothing
    image = Image.open(io.BytesIO(picture_bytes(4)))
    out = io.BytesIO()
    image.save(out, kind)
    answer = app.post("/search_similar?top_k=3", files={"file": ("a.bin", out.getvalue())})
    assert answer.status_code == 200, answer.text
    assert "p-5" in [each["product_id"] for each in answer.json()]
    body = {"image": base64.b64encode(out.getvalue()).decode(), "top_k": 3}
    assert app.post("/v1/search", body).status_code == 200


def test_a_picture_made_to_cost_is_refused_by_name(app: HttpApp) -> None:
    answer = app.post("/search_similar", files={"file": ("a.jpg", jpeg_with_scans(101))})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_image")
    assert answer.json()["errors"][0]["msg"].startswith("image_too_complex: ")


@pytest.mark.long
def test_slow_pictures_of_one_caller_hold_up_neither_the_others_nor_the_end(tmp_path: Path) -> None:
    """The slow ones would take many seconds: whoever waited for them would find them done."""
    environ = {
        "IMAGE_WORK_MS_MAX": "60000", "SEARCH_DEADLINE_MS": "100000", "SEARCH_API_KEY": "hog-s-key,other-key",
        "MODEL_STREAMS": "2",
    }  # fmt: skip
    slow = slow_picture(4000)
    environ["IMAGE_BYTES_MAX"] = str(len(slow))
    with running_app(tmp_path, environ) as app:
        seed(app)
        hog = [
            asyncio.run_coroutine_threadsafe(
                app._client.post(
                    "/search_similar", files={"file": ("a.bmp", slow)}, headers={"x-api-key": "hog-s-key"}
                ),
                app.loop._loop,
            )
            for _ in range(2)
        ]
        for number in range(3):
            answer = app.post(
                "/search_similar",
                files={"file": ("a.png", picture_bytes(number))},
                headers={"x-api-key": "other-key"},
            )
            assert answer.status_code == 200
        assert not any(each.done() for each in hog), "others waited for the slow pictures"
    assert all(not each.done() or each.result().status_code == 503 for each in hog), "the end waited for them"


class FullImages:
    """A picture model whose queue is full; a picture that is read all the same fails the test."""

    def __init__(self, inner: ImageEncoder) -> None:
        self._inner = inner
        self.asked: list[tuple[int, str]] = []

    @property
    def info(self) -> ModelInfo:
        return self._inner.info

    def known_query(self, content: bytes) -> None:  # noqa: ARG002
        return None

    def is_under_way(self, content: bytes) -> bool:  # noqa: ARG002
        return False

    def refusal(self, size: int, caller: str) -> Overloaded:
        self.asked.append((size, caller))
        return Overloaded("Work of 2.3 s waits for picture-model.", 2.3, reason="picture-model")

    async def embed_query(self, content: bytes, caller: str = "") -> Any:
        raise AssertionError(f"{len(content)} bytes of {caller} were read")

    async def embed_queries(self, contents: Sequence[bytes], caller: str = "") -> Any:
        raise AssertionError(f"{len(contents)} pictures of {caller} were read")

    async def embed_documents(self, contents: Sequence[bytes]) -> Any:
        return await self._inner.embed_documents(contents)

    def close(self) -> None:
        self._inner.close()


def test_an_upload_that_would_wait_too_long_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with running_app(tmp_path, {"SEARCH_API_KEY": "first-key,second-key"}) as app:
        slot = application_of(app).searcher._encoders.slot("products")
        assert slot.image is not None
        slot.image = full = FullImages(slot.image)
        upload = {"file": ("a.png", picture_bytes(1))}
        answer = app.post("/search_similar", files=upload, headers={"x-api-key": "second-key"})
        assert (answer.status_code, answer.json()["code"]) == (503, "overloaded")
        assert answer.headers["retry-after"] == "3"
        ((announced, caller),) = full.asked
        assert len(picture_bytes(1)) < announced < len(picture_bytes(1)) + 1000
        assert caller == "key search-2"
        assert app.post("/search_similar", files=upload).status_code == 401, "keys come first"
        count = 'uhok_http_requests_total{method="POST",route="/search_similar",status="503"} 1.0'
        assert count in app.get("/metrics").text
