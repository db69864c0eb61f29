"""What a shop has is told from what it has not by the shipped text model's confidence, on a small shop of our
own: 74 names (CC0), 36 queries for what is there and as many for what no food shop has.

The floors lie below what was measured: one hit that crosses a line, as another processor's rounding may make
it, breaks none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from benchmarks.calibration_math import Numbers, area
from tests.fixtures.models import built_models
from tests.http_app import HttpApp, running_app, with_collections

NAMES = (Path(__file__).parents[1] / "fixtures" / "shop_names.txt").read_text("utf-8").splitlines()[1:]
THERE = """
갈비, 한우 등심, 삼겹살, 고등어, 순살 고등어, 오징어, 전복, 간장게장, 포기김치, 깍두기, 열무 김치, 김치찌개
떡볶이, 만두, 물냉면, 고추장, 된장, 참기름, 천일염, 쿠키, 초콜릿 선물, 우유, 치즈, 녹차 티백, 콜드브루, 레몬즙
안동소주, 아몬드, 홍삼, 콜라겐, 사과 선물세트, 꿀고구마, 찹쌀떡, 전복죽, 육개장, 명란젓
"""
NOT_THERE = """
아이폰, 노트북, 세탁기, 공기청정기, 블루투스 스피커, 휴대폰 충전기, 자동차 타이어, 엔진오일, 블랙박스, 청바지
운동화, 겨울 패딩, 넥타이, 가죽 지갑, 손목시계, 두통약, 반창고, 체온계, 볼펜, 지우개, 복사용지, 전동드릴, 망치
페인트, 사다리, 침대 매트리스, 사무용 의자, 커튼, 샴푸, 기저귀, 립스틱, 축구공, 배드민턴 라켓, 영어사전
laptop, running shoes
"""
COLLECTIONS = """
[collections.goods]
lexical = ["name"]
[collections.wordless]
"""


def goods(text: str) -> list[str]:
    return [each.strip() for line in text.strip().splitlines() for each in line.split(",")]


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpApp]:
    folder = tmp_path_factory.mktemp("goods")
    environ = {
        **with_collections(folder, COLLECTIONS),
        "TEXT_MODEL": "builtin:multilingual-e5-small",
        "MODELS_DIR": str(built_models()),
    }
    with running_app(folder / "data", environ) as app:
        vectors = app.post("/v1/embed-batch", {"texts": NAMES, "role": "document"}).json()
        for collection in ("goods", "wordless"):
            items = [
                {"id": place, "vector": vector, "metadata": {"name": name}}
                for place, (name, vector) in enumerate(zip(NAMES, vectors["embeddings"], strict=True))
            ]
            batch = {"collection": collection, "items": items, "embedding_version": vectors["version"]}
            assert app.post("/v1/upsert", batch).json()["upserted"] == len(NAMES)
        yield app


def first_hits(app: HttpApp, texts: Sequence[str], **more: str) -> Numbers:
    """Return the confidence of each."""
    searches = [{"query": text, "include": ["confidence"], "top_k": 1, **more} for text in texts]
    answers = app.post("/v1/search-batch", {"searches": searches}).json()["responses"]
    values = np.array([each["results"][0]["confidence"] for each in answers])
    print(*more.values(), *(f"{value:.2f} {text}" for value, text in sorted(zip(values, texts, strict=True))))
    assert [("no_good_match" in each) for each in answers] == (values < 0.5).tolist()
    return values


@pytest.mark.long
@pytest.mark.parametrize(
    ("collection", "mode", "likely_min"),
    [("goods", "hybrid", 34), ("goods", "dense", 34), ("wordless", "dense", 30)],
)
def test_goods_that_are_there_look_unlike_those_that_are_not(
    app: HttpApp, collection: str, mode: str, likely_min: int
) -> None:
    """likely_min: of the 36 that are there, so many are likely at least."""
    there, absent = (
        first_hits(app, goods(each), collection=collection, mode=mode) for each in (THERE, NOT_THERE)
    )
    is_there = np.arange(len(there) + len(absent)) < len(there)
    assert area(np.concatenate([there, absent]), is_there) >= 0.95
    assert np.count_nonzero(there >= 0.5) >= likely_min
    assert np.count_nonzero(absent >= 0.5) <= 2
