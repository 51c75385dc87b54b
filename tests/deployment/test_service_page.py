"""The page of a service in a real browser: the system's Chromium, without a window."""

from __future__ import annotations

import re

import pytest
from service_makers import Served, digit, encoded


def test_the_page_needs_nothing_from_elsewhere(people):
    status, page = people.ask(path="/", method="GET")
    assert status == 200 and people.headers["content-type"].startswith("text/html")
    assert not re.search(r"(src|href)=[\"'](?!data:)", page) and "@import" not in page and "{{" not in page
    policy = people.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-") and "unsafe" not in policy


@pytest.fixture
def tab(browser):
    """Opens the page of a server; in the end nothing was complained about."""
    heard, opened = [], []

    def open(served: Served, **options):
        tab = browser.new_page(**options)
        opened.append(tab)
        tab.on("console", lambda message: heard.append(message.text))
        tab.on("pageerror", lambda error: heard.append(str(error)))
        at = f"http://127.0.0.1:{served.port}/"
        tab.on(
            "request",
            lambda request: None if request.url.startswith((at, "blob:", "data:")) else heard.append(request.url),
        )
        tab.goto(at)
        return tab

    yield open
    for one in opened:
        one.close()
    assert [line for line in heard if not re.search("422|502", line)] == []


def test_an_image_is_tried_by_hand(at, digits, tab, tmp_path):
    for i in (3, 4):
        (tmp_path / f"{i}.png").write_bytes(encoded(digit(i)))
    page = tab(digits)
    assert page.title() == "digits \u2013 onecycle"
    page.set_input_files("input[type=file]", tmp_path / "3.png")
    page.locator(".took").wait_for()
    (expected,) = digits.predictions(encoded(digit(3)), "image/png")
    assert page.locator(".bars li").count() == 5
    assert page.locator(".said").text_content().startswith(expected["class"])
    assert page.locator(".bars li.best span").first.text_content() == expected["class"]
    wide = page.locator(".bars .track i").first.evaluate(
        "e => e.getBoundingClientRect().width / e.parentNode.clientWidth"
    )
    assert wide == pytest.approx(expected["probability"], abs=0.02)
    page.set_input_files("input[type=file]", [tmp_path / "3.png", tmp_path / "4.png"])
    page.get_by_role("heading", name="4.png").wait_for()
    assert page.locator(".said").count() == 2 and page.locator(".shown img").count() == 2
    (tmp_path / "junk.png").write_bytes(b"junk")
    page.set_input_files("input[type=file]", tmp_path / "junk.png")
    page.get_by_role("alert").wait_for()
    assert "not an image" in page.get_by_role("alert").text_content()


def test_a_row_is_tried_by_hand(people, tab):
    page = tab(people)
    page.get_by_label("age").fill("33")
    page.get_by_label("city").select_option("Zürich")
    page.get_by_label("joined").fill("")
    page.get_by_role("button", name="Predict").click()
    page.locator(".took").wait_for()
    (expected,) = people.predictions({"age": 33, "city": "Zürich", "joined": None})
    shown = page.locator(".said").text_content()
    assert shown.startswith(expected["class"]) and f"{100 * expected['probability']:.1f}" in shown
    assert page.get_by_text("18 to 89").is_visible()
    page.set_input_files(
        "#csv", {"name": "x.csv", "mimeType": "text/csv", "buffer": b"age,city,joined\n20,Oslo,\n80,Oslo,\n"}
    )
    page.locator(".one + .one").wait_for()
    assert page.locator(".said").count() == 2


def test_an_answer_that_is_none_of_the_service(people, tab):
    page = tab(people)
    page.route("**/predict", lambda route: route.fulfill(status=502, content_type="text/plain", body="Bad Gateway"))
    page.get_by_role("button", name="Predict").click()
    page.get_by_role("alert").wait_for()
    assert page.get_by_role("alert").text_content().startswith("The service answered with status 502, and nothing")


def test_a_text_and_an_array_are_tried_by_hand(service, tab):
    page = tab(service("array"))
    page.get_by_label("Array as JSON").fill("[[1, 2, 3], [4, 5, 6]]")
    page.get_by_role("button", name="Predict").click()
    page.locator(".one + .one").wait_for()
    page = tab(service("tags"))
    page.get_by_role("button", name="Predict").click()
    page.locator(".took").wait_for()
    assert page.locator(".bars li").count() == 3
    pytest.importorskip("tokenizers")
    page = tab(service("moods"))
    page.get_by_label("Text").fill("a <b>superb</b> film")
    page.keyboard.press("Control+Enter")
    page.locator(".took").wait_for()
    assert page.locator(".said").count() == 1 and page.locator("main b").count() == 0


@pytest.mark.parametrize("width", [420, 1280])
def test_wide_and_narrow_light_and_dark(people, tab, width):
    page = tab(people, viewport={"width": width, "height": 800}, color_scheme="dark")
    page.get_by_role("button", name="Predict").click()
    page.locator(".took").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") == width
    light = "getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).map(Number).reduce((a, b) => a + b) / 765"
    assert page.evaluate(light) < 0.2
    page.get_by_role("button", name="Light").click()
    assert page.evaluate(light) > 0.9
