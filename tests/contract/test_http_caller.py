"""The deployed backend's calls, word for word: it must not notice that the service behind them changed."""

from __future__ import annotations

import unicodedata

import pytest

from tests.contract.searches import pages
from tests.http_app import HttpApp, picture_bytes


@pytest.mark.parametrize("path", ["/api/v1/search", "/v1/search", "/api/v1/search/", "/v1/search/"])
def test_search(app: HttpApp, path: str) -> None:
    answer = app.post(path, {"query": "갈비탕", "top_k": 25, "exclude_ids": []})
    results = answer.json()["results"]
    assert answer.status_code == 200 and len(results) == 25
    for row in results:
        assert type(row["recipe_id"]) is int and type(row["distance"]) is float
    distances = [row["distance"] for row in results]
    assert distances == sorted(distances) and all(0 <= each <= 2 for each in distances)


def test_distance_of_the_same_text_is_zero(app: HttpApp) -> None:
    top = app.post("/v1/search", {"query": "갈비탕 10", "top_k": 1}).json()["results"][0]
    assert top["recipe_id"] == 10 and top["distance"] < 1e-6


def test_exclude_ids_grow_with_infinite_scroll_and_pages_never_repeat(app: HttpApp) -> None:
    seen: list[int] = []
    for _ in range(7):
        answer = app.post("/api/v1/search", {"query": "찌개", "top_k": 5, "exclude_ids": seen})
        seen += [row["recipe_id"] for row in answer.json()["results"]]
    assert sorted(seen) == list(range(1, 31))
    whole = app.post("/api/v1/search", {"query": "찌개", "top_k": 151}).json()["results"]
    assert seen == [row["recipe_id"] for row in whole]
    for offset in (0, 7, 14, 28, 35):
        page = app.post("/v1/search", {"query": "찌개", "top_k": 7, "offset": offset}).json()
        assert page["results"] == whole[offset : offset + 7]


def test_more_ids_than_sql_has_parameters(app: HttpApp) -> None:
    answer = app.post(
        "/api/v1/search", {"query": "국", "top_k": 25, "exclude_ids": list(range(100_000, 200_000))}
    )
    assert len(answer.json()["results"]) == 25


def test_cursor_pages_are_the_whole_answer(app: HttpApp) -> None:
    whole = app.post("/v1/search", {"query": "밥", "top_k": 30}).json()
    assert whole["exhausted"] and "next_cursor" not in whole
    rows = [row for page in pages(app, query="밥", top_k=8) for row in page["results"]]
    assert rows == whole["results"]


def test_a_cursor_is_checked(app: HttpApp) -> None:
    cursor = app.post("/v1/search", {"query": "밥", "top_k": 8}).json()["next_cursor"]
    flipped = ("B" if cursor[9] == "A" else "A").join((cursor[:9], cursor[10:]))
    for wrong in ("", "x", flipped, cursor[:-4], "가" * 9, "A" * 3000):
        problem = app.post("/v1/search", {"query": "밥", "cursor": wrong}).json()
        assert (problem["status"], problem["code"]) == (422, "invalid_cursor")
    both = app.post("/v1/search", {"query": "밥", "cursor": cursor, "offset": 3})
    assert both.status_code == 422


def test_composed_and_decomposed_hangul_get_the_same_answer(app: HttpApp) -> None:
    texts = ["김치찌개", unicodedata.normalize("NFD", "김치찌개"), "  김치찌개 \n"]
    answers = [app.post("/v1/search", {"query": text, "top_k": 10}).json()["results"] for text in texts]
    assert answers[0] == answers[1] == answers[2]


def test_embed(app: HttpApp) -> None:
    answer = app.post("/api/v1/embed", {"text": "갈비탕", "normalize": True}).json()
    assert answer["dim"] == 384 == len(answer["embedding"]) and answer["version"]
    assert abs(sum(each * each for each in answer["embedding"]) - 1) < 1e-5
    found = app.post(
        "/v1/search", {"vector": answer["embedding"], "embedding_version": answer["version"]}
    ).json()
    by_text = app.post("/v1/search", {"query": "갈비탕"}).json()
    assert [r["recipe_id"] for r in found["results"]] == [r["recipe_id"] for r in by_text["results"]]


def test_embed_batch_keeps_the_order(app: HttpApp) -> None:
    texts = [f"요리 {number}" for number in range(100)]
    answer = app.post("/v1/embed-batch", {"texts": texts, "normalize": True}).json()
    assert (answer["count"], answer["dim"], len(answer["embeddings"])) == (100, 384, 100)
    assert answer["version"]
    for place in (0, 41, 99):
        alone = app.post("/v1/embed", {"text": texts[place]}).json()["embedding"]
        assert sum(a * b for a, b in zip(alone, answer["embeddings"][place], strict=True)) > 0.9999


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        ("/v1/embed", {"text": ""}, "text"),
        ("/v1/embed", {"text": "가" * 1001}, "text"),
        ("/v1/embed", {}, "text"),
        ("/v1/embed", {"text": "가", "normalize": False}, "normalize"),
        ("/v1/embed", {"text": "가", "model": "other"}, "model"),
        ("/v1/embed", {"text": "가", "collection": "products"}, "collection"),
        ("/v1/embed-batch", {"texts": []}, "texts"),
        ("/v1/embed-batch", {"texts": ["가"] * 101}, "texts"),
        ("/v1/embed-batch", {"texts": ["가", " "]}, "texts"),
        ("/v1/embed-batch", {"texts": ["가", 5]}, "texts"),
    ],
)
def test_embed_refuses(app: HttpApp, path: str, body: dict[str, object], named: str) -> None:
    problem = app.post(path, body).json()
    assert problem["status"] == 422 and problem["errors"][0]["loc"][1] == named


def test_model_info_and_health(app: HttpApp) -> None:
    info = app.get("/api/v1/model-info").json()
    assert info["dim"] == 384 and set(info["collections"]) == {"recipes", "products"}
    health = app.get("/health").json()
    assert (health["status"], health["dim"], health["version"]) == ("ok", 384, info["version"])
    assert health["model"] == info["model"] and health["ready"] is True
    assert health["collections"]["recipes"]["count"] == 30
    assert health["collections"]["products"]["count"] == 11


def test_search_similar(app: HttpApp) -> None:
    files = {"file": ("photo.bin", picture_bytes(9), "application/octet-stream")}
    rows = app.post("/search_similar", files=files).json()
    assert isinstance(rows, list) and len(rows) == 5
    assert rows[0]["product_id"] == "007" and rows[0]["score"] > 0.999999
    assert rows[0]["image_url"] == "https://img.example/007.jpg"
    assert [row["rank"] for row in rows] == [1, 2, 3, 4, 5]
    scores = [row["score"] for row in rows]
    assert scores == sorted(scores, reverse=True) and all(0 <= score <= 1 for score in scores)
    assert set(rows[0]) == {"product_id", "image_url", "score", "rank"}


@pytest.mark.parametrize(
    ("query", "form", "count"),
    [("?top_k=3", {}, 3), ("", {"top_k": "4"}, 4), ("?top_k=2", {"top_k": "4"}, 2)],
)
def test_search_similar_reads_top_k_from_query_or_form(
    app: HttpApp, query: str, form: dict[str, str], count: int
) -> None:
    answer = app.post(f"/search_similar{query}", files={"file": ("a.png", picture_bytes(2))}, data=form)
    assert len(answer.json()) == count


def test_search_similar_refuses(app: HttpApp) -> None:
    def ask(data: bytes, query: str = "") -> tuple[int, str]:
        answer = app.post(f"/search_similar{query}", files={"file": ("a.jpg", data, "image/jpeg")})
        return answer.status_code, answer.json()["code"]

    jpeg = picture_bytes(4, side=256, kind="JPEG")
    assert ask(b"I am a text file named .jpg") == (422, "invalid_image")
    assert ask(jpeg[: len(jpeg) // 2]) == (422, "invalid_image")
    assert ask(b"") == (422, "invalid_image")
    assert ask(jpeg, "?top_k=0") == (422, "invalid_request")
    assert ask(jpeg, "?top_k=-1") == (422, "invalid_request")
    assert ask(jpeg, f"?top_k={10**18}") == (422, "invalid_request")
    assert ask(jpeg, "?top_k=abc") == (422, "invalid_request")
    assert ask(b"\xff\xd8\xff" + bytes(20_100_000)) == (413, "body_too_large")
    assert app.post("/search_similar", data={"top_k": "3"}).status_code == 415
    missing = app.post("/search_similar", files={"other": ("a.jpg", jpeg)}).json()
    assert (missing["status"], missing["errors"][0]["loc"]) == (422, ["body", "file"])
    broken = app.post(
        "/search_similar", content=b"--x", headers={"content-type": "multipart/form-data; boundary=y"}
    )
    assert 400 <= broken.status_code < 500


def test_search_similar_never_shows_an_inactive_product(app: HttpApp) -> None:
    def ids() -> list[str]:
        answer = app.post("/search_similar?top_k=11", files={"file": ("a.png", picture_bytes(9))})
        return [row["product_id"] for row in answer.json()]

    assert ids()[0] == "007" and len(ids()) == 11
    assert app.post("/v1/deactivate", {"collection": "products", "ids": ["007"]}).status_code == 200
    assert "007" not in ids() and len(ids()) == 10
    assert app.post("/v1/activate", {"collection": "products", "ids": ["007"]}).status_code == 200
    assert ids()[0] == "007"


def test_search_similar_by_url_is_off_without_an_allow_list(app: HttpApp) -> None:
    problem = app.post(
        "/search_similar_by_url", {"image_url": "https://img.example/1.png", "top_k": 3}
    ).json()
    assert (problem["status"], problem["code"]) == (422, "image_url_refused")
