"""The console's search in a real browser: every way to ask, what the answer offers, and hostile content."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.http_app import picture_bytes
from tests.integration.browser import Visits, serious_barriers, visits_of
from tests.integration.console_items import HOSTILE, PICTURE, seed, wait_for_counts, write_collections
from tests.integration.console_question import asked, choose, ids_shown, run_snippet
from tests.integration.service_process import Connection, ServiceProcess


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    folder = tmp_path_factory.mktemp("console")
    environ = {"PROBE_S": "1", "COLLECTIONS_FILE": write_collections(folder)}
    process = ServiceProcess(folder / "data", environ).start()
    try:
        seed(process.port)
        wait_for_counts(process.port)
        yield process
    finally:
        process.stop()


@pytest.fixture
def visits(service: ServiceProcess, browser: Browser) -> Iterator[Visits]:
    with visits_of(browser, service.port) as begin:
        yield begin


def ask_text(page: Page, text: str) -> None:
    choose(page, "recipes", "text")
    page.fill("#query", text)
    with page.expect_response("**/v1/search"):
        page.press("#query", "Enter")
    expect(page.locator(".results")).not_to_have_attribute("aria-busy", "true")


def test_pictures_are_there_at_once_and_the_first_load_is_small(visits: Visits) -> None:
    visit = visits()
    sizes: list[int] = []
    visit.page.on("requestfinished", lambda request: sizes.append(request.sizes()["responseBodySize"]))
    page = visit.open("/")
    assert page.url == f"{visit.origin}/console"
    page.wait_for_selector(".card img")
    page.wait_for_function(f"[...document.images].some(i => i.src.endsWith({PICTURE!r}) && i.naturalWidth)")
    assert page.locator(".card").count() == 24
    assert 10_000 < sum(sizes) < 150_000


def test_a_text_finds_its_dish_as_the_route_does(visits: Visits, service: ServiceProcess) -> None:
    page = visits(language="ko-KR").open()
    ask_text(page, "갈비탕 10")
    expect(page.locator(".card h3").first).to_have_text("갈비탕 10")
    wanted = asked(service.port, {"query": "갈비탕 10", "collection": "recipes", "top_k": 24})
    assert ids_shown(page) == [str(id) for id in wanted]
    assert "갈비탕" not in page.url


def test_a_picture_is_asked_by_file_by_paste_and_by_drop(visits: Visits, tmp_path: Path) -> None:
    page = visits().open()
    file = tmp_path / "cup.png"
    file.write_bytes(picture_bytes(7))
    choose(page, "products", "image")
    page.set_input_files("#file", file)
    expect(page.locator(".card .id").first).to_have_text("p-7")
    for kind, place in (("paste", 9), ("drop", 12)):
        page.evaluate(
            """([kind, bytes]) => {
                const moved = new DataTransfer();
                moved.items.add(new File([new Uint8Array(bytes)], "a.png", { type: "image/png" }));
                const made = kind === "paste"
                    ? new ClipboardEvent("paste", { clipboardData: moved, bubbles: true })
                    : new DragEvent("drop", { dataTransfer: moved, bubbles: true, cancelable: true });
                document.body.dispatchEvent(made);
            }""",
            [kind, list(picture_bytes(place))],
        )
        expect(page.locator(".card .id").first).to_have_text(f"p-{place}")
    page.set_input_files("#file", {"name": "a.txt", "mimeType": "text/plain", "buffer": b"no picture"})
    expect(page.locator("#notice")).to_contain_text("a.txt")


def test_ids_and_vectors_are_asked_as_typed(visits: Visits, service: ServiceProcess) -> None:
    page = visits().open()
    choose(page, "recipes", "ids")
    page.fill("#ids", "1, 11")
    page.fill("#unlike-ids", "2")
    page.press("#unlike-ids", "Enter")
    wanted = asked(
        service.port, {"like_ids": [1, 11], "unlike_ids": [2], "collection": "recipes", "top_k": 24}
    )
    expect(page.locator(".card .id").first).to_have_text(str(wanted[0]))
    assert ids_shown(page) == [str(id) for id in wanted]
    choose(page, "recipes", "vector")
    page.fill("#vector", "1, 2, three")
    page.click(".question button[type=submit]")
    expect(page.locator(".results .problem")).to_be_visible()
    _, stored = Connection(service.port).ask("GET", "/v1/items/5?collection=recipes&include=vector")
    page.fill("#vector", json.dumps(stored["vector"]))
    page.click(".question button[type=submit]")
    expect(page.locator(".card .id").first).to_have_text("5")


def test_a_hit_is_hidden_brought_back_and_followed(visits: Visits) -> None:
    page = visits().open()
    ask_text(page, "갈비탕")
    first, second = ids_shown(page)[:2]
    page.locator(".card-acts button[title^=Hide]").first.click()
    expect(page.locator(".card .id").first).to_have_text(second)
    assert first not in ids_shown(page)
    page.get_by_role("button", name=f"Show {first} again").click()
    expect(page.locator(".card .id").first).to_have_text(first)
    page.get_by_role("button", name="More like this").first.click()
    expect(page.locator(".chip")).to_contain_text(f"Like {first}")
    expect(page.locator(".card .id", has_text=f"^{first}$")).to_have_count(0)
    page.locator("[title='Less like this']").first.click()
    expect(page.locator(".chip")).to_have_count(2)


def test_the_filter_offers_the_collections_own_keys_and_values(visits: Visits) -> None:
    page = visits().open()
    choose(page, "recipes", "look")
    page.get_by_text("Filter", exact=True).click()
    expect(page.locator(".filter")).to_contain_text("41 items pass")
    page.locator(".facets .fact", has_text="국 13").click()
    expect(page.locator(".filter")).to_contain_text("13 items pass")
    page.get_by_role("button", name="Remove the condition").click()
    page.get_by_role("button", name="Add a condition").click()
    offered = page.locator("#filter-keys-0 option").evaluate_all("all => all.map(each => each.value)")
    assert {"title", "category", "minutes"} <= set(offered)
    page.get_by_label("Key", exact=True).fill("category")
    page.get_by_label("Key", exact=True).press("Tab")
    assert set(
        page.locator("#filter-values-0 option").evaluate_all("all => all.map(each => each.value)")
    ) == {
        "국",
        "찌개",
        "밥",
    }
    page.get_by_label("Value", exact=True).fill("국")
    page.get_by_label("Value", exact=True).press("Tab")
    expect(page.locator(".summary h2")).to_have_text("13 results")
    page.get_by_role("button", name="Add a condition").click()
    page.get_by_label("Key", exact=True).nth(1).fill("minutes")
    page.get_by_label("Condition", exact=True).nth(1).select_option("gte")
    page.get_by_label("Value", exact=True).nth(1).fill("30")
    page.get_by_label("Value", exact=True).nth(1).press("Tab")
    expect(page.locator(".summary h2")).to_have_text("4 results")
    expect(page.locator(".filter")).to_contain_text("4 items pass")


def test_pages_follow_without_a_repeat_until_all_are_shown(visits: Visits) -> None:
    page = visits().open()
    ask_text(page, "찌개")
    page.get_by_role("button", name="More results").click()
    expect(page.locator(".card")).to_have_count(41)
    shown = ids_shown(page)
    assert len(set(shown)) == 41
    assert "9007199254740993" in shown  # beyond 2^53, digit for digit
    expect(page.locator(".more")).to_have_text("These are all.")


@pytest.mark.parametrize("language", ["curl", "python", "java"])
def test_the_code_asks_exactly_the_question(visits: Visits, tmp_path: Path, language: str) -> None:
    if language == "java" and shutil.which("java") is None:
        pytest.skip("no JDK")
    page = visits().open()
    ask_text(page, '갈비\'탕 "둘" \\ $HOME `x` %s')
    page.locator(".fact", has_text="category").first.click()
    page.locator(".card-acts button[title^=Hide]").first.click()
    expect(page.locator(".chip")).to_have_count(1)
    expect(page.locator(".results")).not_to_have_attribute("aria-busy", "true")
    page.get_by_text("This question as code").click()
    code = page.locator(f"#code-{language}").inner_text()
    printed = run_snippet(language, code, tmp_path)
    shown = ids_shown(page)
    if language == "python":
        assert [line.split()[0] for line in printed.splitlines()] == shown
    else:
        assert [str(row["recipe_id"]) for row in json.loads(printed)["results"]] == shown


def test_curl_asks_every_kind_of_question(visits: Visits, service: ServiceProcess, tmp_path: Path) -> None:
    page = visits().open()
    _, stored = Connection(service.port).ask("GET", "/v1/items/5?collection=recipes&include=vector")
    (tmp_path / "it's a cup.png").write_bytes(picture_bytes(7))

    def check(id_field: str) -> None:
        expect(page.locator(".results")).not_to_have_attribute("aria-busy", "true")
        expect(page.locator(".card").first).to_be_visible()
        printed = run_snippet("curl", page.locator("#code-curl").inner_text(), tmp_path)
        assert [str(row[id_field]) for row in json.loads(printed)["results"]] == ids_shown(page)

    page.get_by_text("This question as code").click()
    choose(page, "recipes", "ids")
    page.fill("#ids", "1, 9007199254740993")
    page.fill("#unlike-ids", "2")
    page.press("#unlike-ids", "Enter")
    expect(page.locator(".chip")).to_have_count(3)
    check("recipe_id")
    choose(page, "recipes", "vector")
    page.fill("#vector", json.dumps(stored["vector"]))
    page.click(".question button[type=submit]")
    expect(page.locator(".card .id").first).to_have_text("5")
    check("recipe_id")
    choose(page, "products", "image")
    page.set_input_files("#file", tmp_path / "it's a cup.png")
    expect(page.locator(".card .id").first).to_have_text("p-7")
    check("product_id")


def test_a_text_is_searched_in_the_modes_that_its_collection_has(
    visits: Visits, service: ServiceProcess, tmp_path: Path
) -> None:
    page = visits().open()
    choose(page, "recipes", "text")
    expect(page.locator("#mode")).to_have_count(0)
    choose(page, "goods", "text")
    page.select_option("#mode", "hybrid")
    page.fill("#query", "아이폰 충전기")
    page.press("#query", "Enter")
    expect(page.locator(".results")).to_contain_text("Probably nothing here is what you asked for")
    page.fill("#query", "rlaclWlro")
    page.press("#query", "Enter")
    expect(page.locator(".results")).to_contain_text("Read as “김치찌개”.")
    expect(page.locator(".results .warning")).to_have_count(0)
    expect(page.locator(".card .confidence").first).to_contain_text("%")
    expect(page.locator(".card .why").first).to_contain_text("+ words")
    expect(page.locator(".card .why").nth(1)).to_have_text("Words in common: “김치찌개”")
    page.get_by_text("Options", exact=True).click()
    page.select_option("#group-key", "seller")
    expect(page.locator(".card")).to_have_count(3)
    page.press("#diversity", "ArrowRight")
    expect(page.locator(".summary")).to_contain_text("meaning and words")
    expect(page.locator("output")).to_have_text("0.1")
    assert page.evaluate("document.activeElement.id") == "diversity"
    expect(page.locator(".results")).not_to_have_attribute("aria-busy", "true")
    group_by = {"key": "seller", "max": 1}
    body = {"query": "rlaclWlro", "collection": "goods", "mode": "hybrid", "top_k": 24, "group_by": group_by}
    wanted = [str(id) for id in asked(service.port, {**body, "diversity": 0.1})]
    assert ids_shown(page) == wanted
    page.get_by_text("This question as code").click()
    printed = run_snippet("python", page.locator("#code-python").inner_text(), tmp_path)
    assert [line.split()[0] for line in printed.splitlines()] == wanted
    printed = run_snippet("curl", page.locator("#code-curl").inner_text(), tmp_path)
    assert [str(row["id"]) for row in json.loads(printed)["results"]] == wanted
    page.select_option("#beside", "unranked")
    expect(page.locator(".column").nth(1).locator("li")).to_have_count(20)
    page.select_option("#beside", "mode_lexical")
    expect(page.locator(".column").nth(1)).to_contain_text("by words")
    expect(page.locator(".moved")).to_be_visible()
    assert serious_barriers(page) == []


def test_several_liked_items_are_weighed_as_chosen(visits: Visits, service: ServiceProcess) -> None:
    page = visits().open()
    choose(page, "goods", "ids")
    page.fill("#ids", "1, 2")
    page.press("#ids", "Enter")
    page.get_by_text("Options", exact=True).click()
    page.select_option("#recommend", "each")
    expect(page.locator(".card .why").first).to_have_text("Like “김치찌개 1호”")
    expect(page.locator(".card .why").nth(1)).to_have_text("Like “된장찌개 2호”")
    body = {"like_ids": [1, 2], "collection": "goods", "top_k": 24, "recommend": "each"}
    assert ids_shown(page) == [str(id) for id in asked(service.port, body)]
    page.select_option("#beside", "recommend_mean")
    expect(page.locator(".column").nth(1)).to_contain_text("liked: their middle")
    expect(page.locator(".moved")).to_contain_text("are in both")


def test_near_duplicates_are_put_together_and_shown_again(visits: Visits, service: ServiceProcess) -> None:
    page = visits().open()
    choose(page, "products", "ids")
    page.fill("#ids", "p-2")
    page.press("#ids", "Enter")
    page.get_by_text("Options", exact=True).click()
    page.select_option("#alike", "0.94")
    expect(page.locator(".options")).to_contain_text("the cosine of their vectors is at least 0.94")
    expect(page.locator(".summary")).to_contain_text("near-duplicates put together")
    leaders = ids_shown(page)
    assert 0 < len(leaders) < 24
    body = {"like_ids": ["p-2"], "collection": "products", "top_k": 24, "include": ["vector"]}
    _, answer = Connection(service.port).post("/v1/search", body)
    vectors = {hit["product_id"]: np.array(hit["vector"]) for hit in answer["results"]}
    assert leaders == leaders_of(vectors, 0.94)
    page.locator(".twins").first.click()
    expect(page.locator(".card.twin").first).to_be_visible()
    assert page.evaluate("document.activeElement.className.includes('twins')")
    assert '"vector"' not in page.locator("#code-curl").inner_text()


def leaders_of(vectors: dict[str, Any], alike: float) -> list[str]:
    leaders: list[str] = []
    for id, vector in vectors.items():
        unit = vector / np.linalg.norm(vector)
        if all(unit @ vectors[each] / np.linalg.norm(vectors[each]) < alike for each in leaders):
            leaders.append(id)
    return leaders


def test_two_settings_stand_side_by_side_with_their_moves(visits: Visits, service: ServiceProcess) -> None:
    page = visits().open()
    ask_text(page, "갈비탕 10")
    page.get_by_text("Options", exact=True).click()
    page.select_option("#beside", "exact")
    expect(page.locator(".moved")).to_have_text("Both answers are the same.")
    page.select_option("#beside", "text")
    page.fill("#other-text", HOSTILE.format("other") + " 김치찌개")
    page.press("#other-text", "Tab")
    expect(page.locator(".moved")).to_contain_text("are in both")
    columns = page.locator(".column")
    wanted = [
        asked(service.port, {"query": text, "collection": "recipes", "top_k": 24})
        for text in ("갈비탕 10", HOSTILE.format("other") + " 김치찌개")
    ]
    for column, ids in zip(columns.all(), wanted, strict=True):
        shown = column.locator(".row-text .quiet").evaluate_all("all => all.map(e => e.firstChild.data)")
        assert shown == [str(id) for id in ids]
    assert columns.nth(0).locator(".mark").count() == len(set(wanted[0]) - set(wanted[1]))
    fresh = columns.nth(1).get_by_text("new", exact=True).count()
    assert fresh == len(set(wanted[1]) - set(wanted[0]))
    page.select_option("#beside", "next")
    expect(columns.nth(1)).to_contain_text("There is no such generation now.")
    expect(columns.nth(1)).to_contain_text("unknown_generation")
    assert columns.nth(0).locator("li").count() == 24
    assert page.evaluate("window.broken") is None


def test_a_hit_tells_what_it_has_in_common_with_the_question(visits: Visits) -> None:
    page = visits().open()
    ask_text(page, "갈비탕 10")
    expect(page.locator(".card .why").first).to_contain_text("“갈비탕” (title)")
    choose(page, "recipes", "ids")
    page.fill("#ids", "1")
    page.press("#ids", "Enter")
    expect(page.locator(".fact.shared").first).to_contain_text("category")
    choose(page, "products", "text")
    page.fill("#query", "컵 2")
    page.press("#query", "Enter")
    expect(page.locator(".named")).to_contain_text("reads no text")
    page.locator(".named .chip", has_text="컵 21").click()
    expect(page.locator(".chip")).to_contain_text("Like p-21")


def test_an_id_is_explained_whether_it_is_in_the_answer_or_not(visits: Visits) -> None:
    page = visits().open()
    ask_text(page, "갈비탕 10")
    page.locator(".card .picture").first.click()
    expect(page.locator("dialog .explained")).to_contain_text("in the answer")
    page.locator("dialog").get_by_title("Close").click()
    page.locator(".card-acts button[title^=Hide]").first.click()
    page.get_by_text("Explain an id", exact=True).click()
    page.fill("#explain-id", "10")
    page.press("#explain-id", "Enter")
    expect(page.locator(".explainer .explained")).to_contain_text("excluded by the question")
    expect(page.locator(".explainer .explained")).to_contain_text("rank 1")
    page.fill("#explain-id", "123456789")
    page.get_by_role("button", name="Explain", exact=True).click()
    expect(page.locator(".explainer .explained")).to_contain_text("unknown id")


def test_hostile_metadata_and_errors_are_text(visits: Visits) -> None:
    page = visits().open()
    ask_text(page, "위험한 요리")
    expect(page.locator(".card h3").first).to_have_text(HOSTILE.format("title"))
    page.locator(".card .picture").first.click()
    expect(page.locator("dialog pre")).to_contain_text("onerror")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="More like this").first.click()
    page.get_by_text("This question as code").click()
    page.get_by_text("Filter", exact=True).click()
    choose(page, "recipes", "ids")
    page.fill("#ids", HOSTILE.format("error"))
    page.press("#ids", "Enter")
    expect(page.locator(".results .problem")).to_be_visible()
    assert page.evaluate("window.broken") is None
    assert page.locator("#content script, #content img[src=x]").count() == 0


def test_a_picture_of_another_host_is_not_loaded_and_the_setting_is_named(visits: Visits) -> None:
    page = visits().open()
    choose(page, "products", "ids")
    page.fill("#ids", "p-30")
    page.get_by_label("Results a page").evaluate(
        "e => { e.value = 40; e.dispatchEvent(new Event('change')) }"
    )
    page.press("#ids", "Enter")
    expect(page.locator(".blocked")).to_contain_text("CONSOLE_IMAGE_HOSTS=img.example")
    assert page.evaluate("window.broken") is None
