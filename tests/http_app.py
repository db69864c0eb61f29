"""The real application in this process: real index, embedders that need no files, no socket."""

from __future__ import annotations

import asyncio
import base64
import io
import threading
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import numpy as np
import numpy.typing as npt
from PIL import Image

from service.http.app import Application, DemoPicture
from service.settings import Settings
from service.wiring import MakeIndex, Service, build

T = TypeVar("T")

NO_MODEL_FILES = {
    "TEXT_MODEL": "builtin:hashed-ngrams",
    "IMAGE_MODEL": "builtin:descriptor",
    "LOG_LEVEL": "error",
    "KEYLESS_WRITES": "loopback",
}
DISHES = (
    "갈비탕",
    "김치찌개",
    "된장찌개",
    "비빔밥",
    "떡볶이",
    "삼계탕",
    "잡채",
    "불고기",
    "냉면",
    "순두부찌개",
)
CATEGORIES = ("국", "찌개", "밥")


class _LoopAhead(asyncio.SelectorEventLoop):
    """A loop whose clock a test may put forward: what waits for an hour is due at once."""

    ahead_s = 0.0

    def time(self) -> float:
        return super().time() + self.ahead_s


class Loop:
    """An event loop on a thread, so that tests read from top to bottom."""

    def __init__(self) -> None:
        self._loop = _LoopAhead()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout=120)

    def pass_time(self, seconds: float) -> None:
        """Let the time of the loop's timers pass; nothing else sees it."""

        async def put_forward() -> None:
            self._loop.ahead_s += seconds

        self.run(put_forward())

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class HttpApp:
    """Calls an ASGI application as a client at `peer` would."""

    def __init__(self, application: Any, loop: Loop, peer: str = "127.0.0.1") -> None:
        self.application = application
        self.loop = loop
        transport = httpx.ASGITransport(application, client=(peer, 50_000), raise_app_exceptions=False)
        self._client = httpx.AsyncClient(transport=transport, base_url="http://localhost")

    def request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        return self.loop.run(self._client.request(method, path, **arguments))

    def get(self, path: str, **arguments: Any) -> httpx.Response:
        return self.request("GET", path, **arguments)

    def post(self, path: str, json: Any = None, **arguments: Any) -> httpx.Response:
        if json is not None:
            arguments["json"] = json
        return self.request("POST", path, **arguments)

    def from_peer(self, peer: str) -> HttpApp:
        return HttpApp(self.application, self.loop, peer)


@contextmanager
def running_app(
    data_dir: Path,
    environ: Mapping[str, str] | None = None,
    make_index: MakeIndex | None = None,
    demo_picture: DemoPicture | None = None,
) -> Iterator[HttpApp]:
    """A service on `data_dir`, opened and with its models loaded."""
    settings = Settings.from_environ({**NO_MODEL_FILES, "DATA_DIR": str(data_dir), **(environ or {})})
    loop = Loop()
    service = build(settings, make_index=make_index, demo_picture=demo_picture)
    opened = service.lifecycle.opened()
    try:
        watches = loop.run(_enter(opened, service))
        try:
            yield HttpApp(service.application, loop)
        finally:
            loop.run(_leave(opened, watches))
    finally:
        loop.close()


async def _enter(opened: Any, service: Service) -> list[asyncio.Task[None]]:
    await opened.__aenter__()
    await service.lifecycle.wait()
    return [asyncio.create_task(watch()) for watch in service.watches]


async def _leave(opened: Any, watches: list[asyncio.Task[None]]) -> None:
    for task in watches:
        task.cancel()
    await asyncio.gather(*watches, return_exceptions=True)
    await opened.__aexit__(None, None, None)


def with_collections(folder: Path, text: str) -> dict[str, str]:
    """Write a collections file into the folder and return the setting that names it."""
    file = folder / "collections.toml"
    file.write_text(text, encoding="utf-8")
    return {"COLLECTIONS_FILE": str(file)}


def application_of(app: HttpApp) -> Application:
    assert isinstance(app.application, Application)
    return app.application


def seed(app: HttpApp) -> None:
    """Recipes 1 to 30 and products "p-1" to "p-9", "007" and "7"."""
    recipes = [
        {
            "recipe_id": number,
            "text": f"{DISHES[number % len(DISHES)]} {number}",
            "metadata": {"category": CATEGORIES[number % len(CATEGORIES)], "price": 1000 * number},
            "source_version": 5,
        }
        for number in range(1, 31)
    ]
    assert app.post("/v1/upsert", {"items": recipes}).status_code == 200
    ids = [f"p-{number}" for number in range(1, 10)] + ["007", "7"]
    products = [
        {
            "product_id": id,
            "image": picture(place),
            "metadata": {"image_url": f"https://img.example/{id}.jpg"},
        }
        for place, id in enumerate(ids)
    ]
    assert app.post("/v1/upsert", {"items": products}).status_code == 200


def picture_bytes(number: int, side: int = 48, kind: str = "PNG") -> bytes:
    """A picture that no other number gives."""
    image = Image.new("RGB", (side, side), (37 * number % 256, 90 * number % 256, 200 - 11 * number % 200))
    image.paste((255 - 20 * number % 256, 10, 40), (4 + number, 4, 14 + number, 30))
    data = io.BytesIO()
    image.save(data, kind)
    return data.getvalue()


def picture(number: int) -> str:
    return base64.b64encode(picture_bytes(number)).decode()


def as_base64(vector: npt.NDArray[np.float32]) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


def unit(rng: np.random.Generator, dim: int) -> npt.NDArray[np.float32]:
    vector = rng.standard_normal(dim)
    return np.asarray(vector / np.linalg.norm(vector), dtype=np.float32)
