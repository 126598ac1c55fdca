"""The page in a real browser."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from atspeed.recommender import Recommender
from tests.serving.running import RECOMMENDATIONS, ServerProcess

playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra test")
CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: apt-get install chromium)"),
]

EVIL = '<img src=x onerror="document.title=1">'
TOKENS = {"ATSPEED_TOKEN": "secret", "ATSPEED_CATALOG_TOKEN": "catalog"}


@pytest.fixture(scope="module")
def server(bundle: Path) -> Iterator[ServerProcess]:
    """A service that asks for a token, with a title that is HTML."""
    with ServerProcess(bundle, environment=TOKENS).wait_ready() as server:
        change = {"replace": [{"item": "item-3", "title": EVIL}]}
        server.client.post("/v1/catalog", json=change, headers={"Authorization": "Bearer catalog"}).raise_for_status()
        server.client.headers["Authorization"] = "Bearer secret"
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, server: ServerProcess) -> Iterator[Any]:
    """The page, opened with its token given; nothing may go to another host or wrong on the console."""
    complaints: list[str] = []
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(10_000)
    page.on("request", lambda sent: complaints.append(sent.url) if not sent.url.startswith(url) else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda line: complaints.append(line.text) if line.type == "error" else None)
    url = str(server.client.base_url)
    page.goto(url)
    page.locator("#token-form").wait_for()  # the service said 401
    page.keyboard.type("wrong")
    page.keyboard.press("Enter")
    page.locator("#token-problem", has_text="does not take this token").wait_for()
    page.locator("#token").fill("secret")
    page.keyboard.press("Enter")
    page.locator("#catalog", has_text="140 items").wait_for()
    yield page
    page.close()
    wrong = [line for line in complaints if not line.startswith("Failed to load resource: the server responded")]
    assert not wrong, wrong  # Chromium reports what the service refused, too


def pick(page: Any, text: str, number: int) -> None:
    """Search an item and take the first that is found, by keyboard."""
    page.locator("#search").press_sequentially(text)
    page.locator("#found li").first.wait_for()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.locator(f"#history li:nth-child({number})").wait_for()


def recommend(page: Any) -> list[str]:
    """Ask by keyboard, and return the text of each answer."""
    page.locator("#recommend").focus()
    page.keyboard.press("Enter")
    page.locator("#recommend[aria-disabled=false]").wait_for()
    page.locator("#answers .card:visible").first.wait_for()
    return page.locator("#answers .card:visible").all_inner_texts()


def test_a_history_is_picked_and_answered_twice(page: Any, server: ServerProcess, recommender: Recommender) -> None:
    assert page.evaluate("document.activeElement.id") == "search"
    for number, name in enumerate(("item-14", "item-99"), 1):
        pick(page, name, number)
    page.locator("#k").fill("4")
    speculative, plain = recommend(page)
    body = {"history": ["item-14", "item-99"], "k": 4}
    answer = server.client.post(RECOMMENDATIONS, json=body).json()
    assert [each.sid for each in recommender.recommend([body["history"]], k=4)[0].recommended] == [
        each["sid"] for each in answer["recommendations"]
    ]
    for text in (speculative, plain):
        positions = [text.index(each["items"][0]["title"]) for each in answer["recommendations"]]
        assert positions == sorted(positions)
        assert all(" ".join(each["sid"]) in text for each in answer["recommendations"])
        assert f"{answer['recommendations'][0]['score']:.3f}" in text.replace("−", "-")
    assert "Identical answers" in page.locator("#verdict").inner_text()
    assert page.locator("[data-figure=target_calls]").all_inner_texts() == [str(answer["target_calls"]), "4"]
    assert page.locator("[data-figure=draft_calls]").all_inner_texts() == [str(answer["draft_calls"]), "0"]


def test_the_order_is_changed_and_items_are_removed_by_keyboard(page: Any) -> None:
    for number, name in enumerate(("item-14", "item-99", "item-50"), 1):
        pick(page, name, number)

    before = page.locator("#history li").all_inner_texts()
    page.locator("#history li").nth(2).locator("button").nth(0).focus()
    page.keyboard.press("Enter")
    moved = page.locator("#history li").all_inner_texts()
    assert "item-50" in moved[1]
    assert "item-99" in moved[2]
    assert "item-14" in before[0]
    page.locator("#history li").nth(0).locator("button").last.focus()
    page.keyboard.press("Enter")
    left = page.locator("#history li").all_inner_texts()
    assert ["item-50" in left[0], "item-99" in left[1], len(left)] == [True, True, 2]
    assert "item-50" in page.evaluate("document.activeElement.closest('li').innerText")  # the focus is not lost


def test_an_item_is_picked_by_mouse(page: Any) -> None:
    page.locator("#search").click()
    name = page.locator("#found li").nth(3).inner_text()
    page.locator("#found li").nth(3).click()
    assert name in page.locator("#history li").inner_text()


def test_the_token_is_kept_in_memory_only(page: Any) -> None:
    stored = "[location.href, document.cookie, JSON.stringify([{...localStorage}, {...sessionStorage}])].join()"
    assert "secret" not in page.evaluate(stored)
    page.reload()
    page.locator("#token-form").wait_for()  # forgotten


def test_without_a_history_popular_items_are_shown_and_said_so(page: Any) -> None:
    texts = recommend(page)
    assert "opular" in "".join(texts) + page.locator("#verdict").inner_text()


def test_empty_answers_are_not_called_identical(page: Any) -> None:
    pick(page, "item-14", 1)
    page.locator(".filter input").fill("no such category")
    recommend(page)
    assert "no item passes the filter" in page.locator("#verdict").inner_text()


def test_a_title_that_is_html_stays_text(page: Any) -> None:
    pick(page, "item-3", 1)
    assert EVIL in page.locator("#history").inner_text()
    assert page.locator("#history img").count() == 0
    assert page.title() == "atspeed"


def test_what_is_wrong_is_said_where_it_was_caused(page: Any) -> None:
    page.locator("#search").fill("no such item")
    page.keyboard.press("Enter")
    page.locator("#search-problem", has_text="no such item").wait_for()
    page.locator("#search").fill("")
    pick(page, "item-14", 1)
    page.route(f"**{RECOMMENDATIONS}", lambda route: route.continue_(post_data='{"history": ["gone"]}'))
    page.locator("#recommend").click()
    page.locator("#request-problem", has_text="item 'gone' is not in the catalog").wait_for()
    page.unroute(f"**{RECOMMENDATIONS}")
    assert len(recommend(page)) == 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_is_wide_enough(browser: Any, server: ServerProcess, scheme: str) -> None:
    page = browser.new_page(viewport={"width": 360, "height": 780}, color_scheme=scheme)
    page.goto(str(server.client.base_url))
    page.locator("#token").fill("secret")
    page.keyboard.press("Enter")
    page.locator("#catalog", has_text="140 items").wait_for()
    pick(page, "item-3", 1)
    recommend(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.close()


def test_the_page_needs_no_token_but_what_it_shows_does(server: ServerProcess) -> None:
    with httpx.Client(base_url=server.client.base_url) as client:
        page = client.get("/")
        assert "default-src 'self'" in page.headers["Content-Security-Policy"]
        assert client.get("/page/page.js").status_code == 200
        assert client.get("/v1/items").status_code == 401
