"""onecycle watch --web: a page that follows runs, over HTTP and in a real browser: the system's Chromium."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest
from page_makers import HOSTILE, write_run
from service_makers import Served

from onecycle.records.files import RUN

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
WORDS = ["-m", "onecycle", "watch", "runs", "--web", "--port", "0"]
EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    at = tmp_path_factory.mktemp("watched")
    write_run(at / "runs" / "one", updates=40, per_epoch=10, model=HOSTILE)
    write_run(at / "runs" / EVIL, updates=40, per_epoch=10, status="failed", error=HOSTILE)
    (at / "runs" / "bad").mkdir()
    (at / "runs" / "bad" / "run.json").write_text("{")
    return at


@pytest.fixture(scope="module")
def watched(root, tmp_path_factory):
    served = Served(WORDS, root, tmp_path_factory.mktemp("log") / "log")
    yield served
    served.stop()


def test_what_is_asked_is_answered_and_nothing_else(watched, root):
    status, answer = watched.ask(path="/standing", method="GET")
    by_name = {one["name"]: one for one in answer["standing"]}
    assert status == 200 and set(by_name) == {"one", EVIL, "bad"}
    assert by_name["bad"]["state"] == "unreadable" and by_name[EVIL]["state"] == "failed"
    status, page = watched.ask(path="/run?name=one", method="GET")
    assert status == 200 and "plotly.js" in page and len(page) < 2_000_000
    status, page = watched.ask(path="/run?name=bad", method="GET")
    assert status == 200 and "cannot be read" in page
    for name in ("nowhere", "../runs/one", "/etc", ""):
        assert watched.ask(path=f"/run?name={name}", method="GET")[0] == 404
    assert watched.ask(path="/standing", method="POST")[0] == 405
    assert watched.ask(path="/standing", method="GET", Host="evil.example")[0] == 403


def test_the_page_needs_nothing_from_elsewhere(watched):
    status, page = watched.ask(path="/", method="GET")
    assert status == 200 and not re.search(r"(src|href)=[\"'](?!data:)", page) and "{{" not in page
    policy = watched.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-") and "unsafe" not in policy


def test_a_stop_is_a_good_end(root, tmp_path):
    served = Served(WORDS, root, tmp_path / "log")
    status, _ = served.stop(signal.SIGINT)
    assert status == 0 and (tmp_path / "log").read_text() == ""


@pytest.fixture
def tab(browser, watched):
    """Opens the page; in the end nothing was complained about, and nothing was asked of others."""
    heard, opened, at = [], [], f"http://127.0.0.1:{watched.port}/"

    def open(**options):
        tab = browser.new_page(**options)
        opened.append(tab)
        tab.on("console", lambda message: heard.append(message.text))
        tab.on("pageerror", lambda error: heard.append(str(error)))
        tab.on("dialog", lambda dialog: (heard.append(dialog.message), dialog.dismiss()))
        ours = (at, "data:", "blob:")
        tab.on("request", lambda asked: None if asked.url.startswith(ours) else heard.append(asked.url))
        tab.goto(at)
        return tab

    yield open
    for one in opened:
        one.close()
    assert heard == []


def test_a_run_is_followed_as_it_grows(tab, root):
    page, folder = tab(viewport={"width": 1280, "height": 900}), root / "runs" / "one"
    RUN.update(folder, status="running")
    page.get_by_role("button", name="one", exact=True).click()
    row = page.locator("#rows tr", has=page.get_by_role("button", name="one", exact=True))
    row.get_by_text("running", exact=True).wait_for(timeout=60_000)
    frame = page.locator("iframe:not(.coming)")
    frame.content_frame.locator("h1").first.wait_for(timeout=240_000)
    before = frame.get_attribute("src")
    steps = (folder / "steps.jsonl").read_text().splitlines()
    more = json.dumps({**json.loads(steps[-1]), "step": len(steps)})
    with (folder / "steps.jsonl").open("a") as file:
        file.write(f'{more}\n{{"step": 9')
    row.get_by_text(re.compile(rf"^{len(steps) + 1}\b")).wait_for(timeout=60_000)
    page.locator(f"iframe:not(.coming):not([src='{before}'])").wait_for(timeout=240_000)
    assert page.locator("iframe").count() <= 2, "one that is shown, and one that is coming"


def test_it_is_narrow_and_dark_too_and_names_are_text(tab):
    page = tab(viewport={"width": 420, "height": 900}, color_scheme="dark")
    page.get_by_role("button", name=EVIL).wait_for(timeout=60_000)
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(17, 20, 24)"
    page.get_by_role("button", name="bad", exact=True).click()
    page.locator("#said").get_by_text("run.json").wait_for(timeout=60_000)


def test_a_page_whose_server_has_stopped_says_so(browser, root, tmp_path):
    served = Served(WORDS, root, tmp_path / "log")
    tab = browser.new_page()
    tab.goto(f"http://127.0.0.1:{served.port}/")
    tab.locator("#rows tr").first.wait_for()
    served.stop()
    tab.get_by_text("onecycle watch does not answer").wait_for(timeout=60_000)
    tab.close()
