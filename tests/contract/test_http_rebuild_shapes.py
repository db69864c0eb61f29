"""A model change to vectors of another dim: both shapes live side by side, nothing mixes, nothing stops."""

from __future__ import annotations

import http.server
import ipaddress
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.contract.rebuild_steps import ended, first, generations, rebuild, search, step
from tests.http_app import (
    DISHES,
    HttpApp,
    application_of,
    picture,
    picture_bytes,
    running_app,
    seed,
    with_collections,
)
from tests.waiting import STOP_LOOK_S

pytestmark = pytest.mark.long

COLLECTIONS = """
[collections.recipes]
id_field = "recipe_id"
model = "builtin:hashed-ngrams"
dim = {dim}

[collections.products]
id_field = "product_id"
id_type = "string"
modality = "image"
model = "{image_model}"
dim = {image_dim}
keep_content = true
"""
OLD, NEW = 384, 128


def configured(
    tmp_path: Path, dim: int = OLD, image_dim: int = 512, image_model: str = "builtin:descriptor"
) -> dict[str, str]:
    return with_collections(
        tmp_path, COLLECTIONS.format(dim=dim, image_dim=image_dim, image_model=image_model)
    )


@pytest.fixture
def app(tmp_path: Path) -> Iterator[HttpApp]:
    """A service whose configuration says `NEW`, over data of `OLD`."""
    with running_app(tmp_path / "data", configured(tmp_path)) as before:
        seed(before)
    with running_app(tmp_path / "data", configured(tmp_path, NEW)) as after:
        yield after


def vector(dim: int) -> list[float]:
    return [1.0] + [0.0] * (dim - 1)


def dims(app: HttpApp) -> dict[str, Any]:
    """Wherever a caller can read how long a vector is."""
    listed = {each["name"]: each for each in app.get("/v1/collections").json()["collections"]}
    return {
        "collections": listed["recipes"]["dim"],
        "health": app.get("/health").json()["collections"]["recipes"]["dim"],
        "model-info": app.get("/v1/model-info").json()["collections"]["recipes"]["dim"],
        "embed": len(app.post("/v1/embed", {"collection": "recipes", "text": "국"}).json()["embedding"]),
    }


def test_a_changed_dim_is_rebuilt_promoted_and_rolled_back(app: HttpApp) -> None:
    assert set(dims(app).values()) == {OLD}
    job = ended(app, rebuild(app))
    assert (job["state"], job["dim"], job["done"], job["missing"]) == ("ready", NEW, 30, 0)
    assert [each["dim"] for each in generations(app).values()] == [OLD, NEW]
    assert set(dims(app).values()) == {OLD}
    for name, dim in (("promote", NEW), ("rollback", OLD), ("rollback", NEW)):
        step(app, name)
        assert first(app, query=f"{DISHES[3]} 3") == 3
        assert set(dims(app).values()) == {dim}
        found = search(app, query=f"{DISHES[3]} 3", include=["vector"])["results"]
        assert {len(hit["vector"]) for hit in found} == {dim}
        assert first(app, like_ids=[3]) is not None
        item = app.get("/v1/items/3", params={"collection": "recipes", "include": "vector"}).json()
        assert len(item["vector"]) == dim
        text = {"recipe_id": 50, "text": f"칼국수 {name}"}
        assert app.post("/v1/upsert", {"items": [text]}).status_code == 200
        assert first(app, query=f"칼국수 {name}") == 50
        codes = [each["code"] for each in app.get("/health").json()["reasons"]]
        assert codes == (["model_change_pending"] if dim == OLD else [])


def test_vectors_are_checked_against_the_generation_they_are_for(app: HttpApp) -> None:
    job = ended(app, rebuild(app))
    old, new = (generations(app)[role]["embedding_version"] for role in ("current", "next"))
    items = [{"recipe_id": 7, "vector": vector(NEW)}, {"recipe_id": 8, "vector": vector(OLD)}]
    for version, refused in ((old, 7), (new, 8)):
        answer = app.post("/v1/upsert?partial=true", {"items": items, "embedding_version": version})
        assert answer.status_code == 200, answer.text
        (rejected,) = answer.json()["rejected"]
        assert (rejected["id"], rejected["code"]) == (refused, "invalid_dimension")
    for dim, status in ((OLD, 200), (NEW, 422), (5, 422)):
        answer = app.post("/v1/search", {"collection": "recipes", "vector": vector(dim)})
        assert answer.status_code == status, answer.text
        if status == 422:
            assert answer.json()["errors"][0]["loc"] == ["body", "vector"]
    batch = {"searches": [{"collection": "recipes", "vector": vector(dim)} for dim in (OLD, 5)]}
    refusal = app.post("/v1/search-batch", batch).json()
    assert (refusal["code"], refusal["errors"][0]["loc"][:3]) == (
        "invalid_dimension",
        ["body", "searches", 1],
    )
    batch = {"searches": [{"collection": "recipes", "vector": vector(dim)} for dim in (OLD, NEW)]}
    refusal = app.post("/v1/search-batch", batch).json()
    assert (refusal["code"], refusal["errors"][0]["loc"]) == (
        "invalid_vector",
        ["body", "searches", 1, "vector"],
    )
    step(app, "promote", embedding_version=job["embedding_version"])
    assert app.post("/v1/search", {"collection": "recipes", "vector": vector(NEW)}).status_code == 200


def test_who_named_the_former_version_is_told_of_both(app: HttpApp) -> None:
    """By vector, by text, by picture of a page: of none it is said that the vector is too short."""
    page = search(app, vector=vector(OLD), collection="recipes")["next_cursor"]
    of_text = search(app, query="국")["next_cursor"]
    new = ended(app, rebuild(app))["embedding_version"]
    old = generations(app)["current"]["embedding_version"]
    step(app, "promote")
    asked = {"collection": "recipes", "embedding_version": old}
    write = {**asked, "items": [{"recipe_id": 1, "vector": vector(OLD)}]}
    texts = {**asked, "items": [{"recipe_id": 1, "text": "국"}]}
    for body in (write, texts):
        assert app.post("/v1/upsert", body).status_code == 200, "the former generation is written to"
    unknown = {**write, "embedding_version": "model.v0"}
    for path, body in (
        ("/v1/search", {**asked, "vector": vector(OLD)}),
        ("/v1/search", {**asked, "query": "국"}),
        ("/v1/search", {**asked, "like_ids": [3]}),
        ("/v1/upsert", {**texts, "embedding_version": "model.v0"}),
        ("/v1/upsert", unknown),
    ):
        answer = app.post(path, body)
        assert (answer.status_code, answer.json()["code"]) == (409, "embedding_version_mismatch"), answer.text
        assert new in answer.json()["detail"] and str(body["embedding_version"]) in answer.json()["detail"]
    for body in ({"vector": vector(OLD), "cursor": page}, {"query": "국", "cursor": of_text}):
        answer = app.post("/v1/search", {"collection": "recipes", "top_k": 3, **body})
        assert (answer.status_code, answer.json()["code"]) == (422, "cursor_expired"), answer.text


def test_a_restart_finds_each_generation_with_its_dim(tmp_path: Path) -> None:
    """Under the new configuration, and under the old one: what serves is what was promoted."""
    with running_app(tmp_path / "data", configured(tmp_path)) as app:
        seed(app)
        job = ended(app, rebuild(app, dim=NEW))
        assert (job["state"], job["dim"]) == ("ready", NEW)
        step(app, "promote")
    for dim in (NEW, OLD):
        with running_app(tmp_path / "data", configured(tmp_path, dim)) as app:
            assert set(dims(app).values()) == {NEW}
            assert first(app, query=f"{DISHES[3]} 3") == 3
            codes = [each["code"] for each in app.get("/health").json()["reasons"]]
            assert codes == (["model_change_pending"] if dim == OLD else [])


def test_pictures_of_another_dim(tmp_path: Path) -> None:
    with running_app(tmp_path / "data", configured(tmp_path)) as app:
        seed(app)
    changed = configured(tmp_path, image_dim=64, image_model="builtin:placeholder")
    with running_app(tmp_path / "data", changed) as app:
        assert first(app, collection="products", image=picture(4)) == "p-5"
        job = ended(app, rebuild(app, collection="products"))
        assert (job["state"], job["dim"], job["done"], job["errors"]) == ("ready", 64, 11, {})
        for name, dim in (("promote", 64), ("rollback", 512), ("rollback", 64)):
            step(app, name, collection="products")
            assert first(app, collection="products", image=picture(4)) == "p-5"
            assert app.get("/health").json()["collections"]["products"]["dim"] == dim


@pytest.fixture
def shop_front() -> Iterator[str]:
    """The address of a host that serves the picture `N` at `/N.png`, but for `/3.png` once it is gone."""

    class Pictures(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            number = int(self.path.strip("/").removesuffix(".png"))
            body = b"" if number in GONE else picture_bytes(number)
            self.send_response(200 if body else 404)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    GONE.clear()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pictures)
    thread = threading.Thread(target=server.serve_forever, args=(STOP_LOOK_S,))
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


GONE: set[int] = set()


@contextmanager
def running_beside(data_dir: Path, environ: dict[str, str], host: str) -> Iterator[HttpApp]:
    """A service that may fetch from `host` though it stands in a private network, as no shop's does."""
    with running_app(data_dir, {**environ, "IMAGE_URL_HOSTS": host}) as app:
        fetch = application_of(app).pictures._pictures  # type: ignore[attr-defined]
        fetch._limits = replace(fetch._limits, networks=[ipaddress.ip_network("127.0.0.0/8")])
        yield app


def test_pictures_behind_an_address_are_fetched_anew(tmp_path: Path, shop_front: str) -> None:
    """What is kept of them is the address alone; one that is gone is told by its reason, and lost by nobody
    unasked."""
    environ = {"IMAGE_MODEL": "builtin:descriptor"}
    with running_beside(tmp_path / "data", environ, shop_front) as app:
        items = [{"product_id": f"p{n}", "image_url": f"http://{shop_front}/{n}.png"} for n in range(6)]
        written = app.post("/v1/upsert", {"items": items})
        assert written.status_code == 200, written.text
    changed = {"IMAGE_MODEL": "builtin:placeholder", "EMBED_DIM": "64"}
    with running_beside(tmp_path / "data", changed, shop_front) as app:
        assert first(app, collection="products", image=picture(4)) == "p4"
        GONE.add(3)
        job = ended(app, rebuild(app, collection="products"))
        assert (job["state"], job["dim"], job["done"], job["total"]) == ("ready", 64, 5, 6)
        assert (job["missing"], job["errors"]) == (1, {"image_url_failed": 1})
        step(app, "promote", 409, collection="products")
        step(app, "promote", collection="products", force=True)
        assert first(app, collection="products", image=picture(4)) == "p4"
        step(app, "rollback", collection="products")
        assert first(app, collection="products", image=picture(3)) == "p3"


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        ({"dim": 0}, "invalid_request", "dim"),
        ({"dim": 5000}, "invalid_request", "dim"),
        ({"collection": "products", "dim": 64}, "invalid_request", "dim"),
        ({"dim": "wide"}, "invalid_request", "dim"),
    ],
)
def test_a_dim_that_can_not_be(app: HttpApp, body: dict[str, Any], code: str, field: str) -> None:
    answer = app.post("/v1/rebuild", {"collection": "recipes", **body})
    assert (answer.status_code, answer.json()["code"]) == (422, code), answer.text
    assert answer.json()["errors"][0]["loc"] == ["body", field]
