"""The page in a real browser: the system's Chromium, without a window."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from page_makers import HOSTILE, write_check, write_comparison, write_run

from onecycle.report.page import page

pytest.importorskip("jinja2")
pytest.importorskip("plotly")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install playwright)")
# Nothing here waits by `wait_for_function`: it asks again through `eval`, which the page's own policy forbids.
expect = playwright.expect
ANY = re.compile(".")


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    """A page with everything on it, its words hostile."""
    at = tmp_path_factory.mktemp("page")
    folders = [
        write_comparison(at / "comparison", policies=("one_cycle", HOSTILE), epochs=(1, 2), fractions=(0.5, 1.0)),
        write_check(at / "check", title=HOSTILE),
        write_run(at / "sgd0", updates=40, per_epoch=10, model=HOSTILE, notes=[HOSTILE]),
        write_run(
            at / "sgd1", updates=40, per_epoch=10, model=HOSTILE, seed=1, shift=3.0, command=["onecycle", HOSTILE]
        ),
        write_run(at / HOSTILE, updates=40, per_epoch=10, optimizer=HOSTILE, status="failed", error=HOSTILE),
    ]
    return page(folders, at / "page.html")


@pytest.fixture(scope="module")
def heard() -> list[str]:
    """What the page complained about, asked for or popped up."""
    return []


@pytest.fixture(scope="module")
def opened(browser, file, heard):
    """Opens the page in a new tab; a script takes a second to read, so most tests share one."""

    def open(**options):
        tab = browser.new_page(**options)
        tab.on("console", lambda message: heard.append(message.text))
        tab.on("pageerror", lambda error: heard.append(str(error)))
        tab.on("dialog", lambda dialog: (heard.append(dialog.message), dialog.dismiss()))
        tab.on("request", lambda request: heard.append(request.url) if request.url != file.as_uri() else None)
        tab.goto(file.as_uri())
        return tab

    return open


@pytest.fixture(scope="module")
def shared(opened):
    return opened()


@pytest.fixture
def tab(shared, heard) -> Iterator:
    """The shared tab, wide and light; in the end nothing was heard of it."""
    shared.set_viewport_size({"width": 1200, "height": 800})
    shared.emulate_media(color_scheme="light")
    yield shared
    assert heard == []


def scrolled(tab):
    """Each figure, brought into view and drawn."""
    plots = tab.locator(".plot")
    for i in range(plots.count()):
        plots.nth(i).scroll_into_view_if_needed()
        plots.nth(i).locator(".trace path, .trace .js-line").first.wait_for(state="attached")
    return plots


def plot_named(tab, title):
    """A figure by its heading, drawn."""
    plot = tab.locator("figure", has=tab.get_by_role("heading", name=title, exact=True)).last.locator(".plot")
    plot.scroll_into_view_if_needed()
    plot.locator(".nsewdrag").first.wait_for(state="attached")
    tab.mouse.move(0, 0)
    return plot


def xs(plot):
    """The horizontal positions of the line with the most points."""
    return plot.evaluate(
        "p => p.data.filter(t => t.hovertemplate).map(t => t.x).reduce((a, b) => b.length > a.length ? b : a)"
    )


def test_every_figure_is_drawn(tab):
    plots = scrolled(tab)
    titles = tab.locator("figure h3").all_text_contents()
    assert plots.count() == len(titles)
    assert {"Limited data: test accuracy against the share of the training data", "Speed-up at equal accuracy",
            "Loss against the learning rate", "Validation loss", "Learning rate"} <= set(titles)  # fmt: skip
    assert all(plots.nth(i).locator(".main-svg").count() for i in range(len(titles)))
    shaded = plot_named(tab, "Loss against the learning rate").evaluate("p => p.layout.shapes[0]")
    assert (shaded["type"], shaded["x0"], shaded["x1"]) == ("rect", 0.01, 0.5)


def test_what_is_far_below_is_drawn_later(opened, heard):
    tab = opened(viewport={"width": 1200, "height": 600})
    plots = tab.locator(".plot")
    expect(plots.first).to_have_attribute("data-drawn", ANY)
    assert plots.last.get_attribute("data-drawn") is None
    plots.last.scroll_into_view_if_needed()
    expect(plots.last).to_have_attribute("data-drawn", ANY)
    assert heard == []
    tab.close()


def test_hovering_shows_the_values(tab):
    plot = plot_named(tab, "Validation loss")
    plot.hover()
    label = plot.locator(".hoverlayer")
    label.get_by_text("sgd").first.wait_for(state="attached")
    assert " to " in label.text_content()  # the band


def test_a_speed_up_without_an_end_has_an_arrow(tab):
    plot = plot_named(tab, "Speed-up at equal accuracy")
    plot.locator(".annotation-arrow-g").first.wait_for(state="attached")
    drawn = "p => p.data.map(t => [t.marker.symbol, t.error_y.array, t.text])"
    (symbols, above, texts) = plot.evaluate(drawn)[0]
    assert [symbol.endswith("-open") for symbol in symbols] == [False, True]
    assert above == pytest.approx([0.4, 0.0])
    assert texts[1] == "more than 2 (from 1.5)"
    assert plot.locator(".annotation-arrow-g").count() == 1
    below = plot.evaluate("p => p.querySelector('.annotation-arrow-g').getBoundingClientRect().top")
    assert below >= plot.bounding_box()["y"]  # within the frame


def test_the_lines_decide_what_is_in_the_frame(tab):
    plot = plot_named(tab, "Validation accuracy")
    (low, high), ys = plot.evaluate("p => [p.layout.yaxis.range, p.data.flatMap(t => t.y)]")
    assert all(low <= y <= high for y in ys)
    plot = plot_named(tab, "Budget: test accuracy against epochs")
    low, high = plot.evaluate("p => p.layout.yaxis.range")
    drawn, band = plot.evaluate(
        "p => [p.data.filter(t => !t.fill).flatMap(t => t.y), p.data.filter(t => t.fill).flatMap(t => t.y)]"
    )
    room = max(drawn) - min(drawn)
    assert min(drawn) - room < low < min(drawn) and max(drawn) < high < max(drawn) + room
    assert max(band) > max(drawn)


def test_a_run_of_a_comparison_is_a_link_to_its_page(browser, tmp_path):
    folder = write_comparison(tmp_path / "a b", policies=(HOSTILE,))
    page([folder / "runs/0"], folder / "runs/0/report.html")
    tab = browser.new_page()
    tab.goto(page([folder], folder / "report.html").as_uri())
    tab.get_by_role("link", name="0", exact=True).click()
    expect(tab).to_have_title("mlp on digits, 4 epochs \u2013 onecycle")
    tab.close()


def test_a_page_of_a_folder_of_runs_finds_its_plotly_and_says_so_where_it_does_not(browser, tmp_path):
    folder = write_run(tmp_path / "my runs" / "a b")
    path = page([folder], folder / "report.html")
    tab, heard = browser.new_page(), []
    tab.on("console", lambda message: heard.append(message.text))
    tab.on("pageerror", lambda error: heard.append(str(error)))
    tab.goto(path.as_uri())
    tab.wait_for_selector(".plot .trace", state="attached")
    assert tab.locator("#missing").is_hidden() and heard == []
    (tmp_path / "sent").mkdir()
    alone = path.rename(tmp_path / "sent" / "report.html")
    tab.goto(alone.as_uri())
    assert tab.get_by_text("The figures are missing").is_visible()
    assert "plotly-" in tab.locator("#missing code").first.text_content()
    assert tab.locator("figure").count() == 0
    table = tab.get_by_role("region", name="Epochs of a b").locator("table")
    table.get_by_role("button", name="epoch").click()
    table.get_by_role("button", name="epoch").click()
    assert table.locator("tbody td").first.text_content() == "2"
    tab.locator("#theme").click()
    assert [line for line in heard if "ERR_FILE_NOT_FOUND" not in line] == []
    tab.close()


def test_a_table_shows_that_there_is_more_of_it(tab):
    tab.set_viewport_size({"width": 400, "height": 800})
    region = tab.get_by_role("region", name="Runs of comparison")
    wide, height, shadows = region.evaluate(
        "e => [e.scrollWidth > e.clientWidth, getComputedStyle(e, '::-webkit-scrollbar').height,"
        " getComputedStyle(e).backgroundImage.split('linear-gradient').length - 1]"
    )
    assert (wide, height, shadows) == (True, "10px", 6)


def test_arrow_keys_read_the_values(tab):
    plot = plot_named(tab, "Learning rate")
    plot.focus()
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowRight")
    spoken = tab.locator("#spoken").text_content()
    assert spoken.startswith("updates 1: ")
    assert HOSTILE[:20] in spoken
    tab.keyboard.press("ArrowLeft")
    assert tab.locator("#spoken").text_content().startswith("updates 0: ")


def test_a_forecast_follows_its_run(browser, tmp_path):
    ahead = [{"factor": f, "updates": 44 * f, "value": 0.8, "low": 0.7, "high": 0.95} for f in (1, 2)]
    record = {"forecast": {"measure": "accuracy", "expected": ahead}, "needed": {"target": 0.9}}
    folder = write_run(tmp_path / "a", updates=40, per_epoch=10, **record)
    pilots = [
        {"lr_max": lr, "updates": 5, "valid": {"accuracy": a}, "lost": None} for lr, a in ((0.1, 0.6), (0.3, 0.5))
    ]
    (folder / "pilots.jsonl").write_text("".join(json.dumps(pilot) + "\n" for pilot in pilots))
    tab = browser.new_page(viewport={"width": 420, "height": 800})
    tab.goto(page([folder], tmp_path / "page.html").as_uri())
    plot = plot_named(tab, "Forecast: validation accuracy against updates")
    levels = plot.evaluate("p => p.layout.shapes.map(s => [s.y0, s.y1])")
    assert levels == [[90, 90]] and plot.evaluate("p => p.layout.annotations.map(a => a.text)") == ["1x", "2x"]
    one, first = plot.evaluate("p => [p.layout.annotations[0].x, Math.log10(p.data.at(-1).x[0])]")
    assert one == pytest.approx(first), "the first is above the beginning of the forecast"
    plot.focus()
    said = []
    for _ in range(7):
        tab.keyboard.press("ArrowRight")
        said.append(tab.locator("#spoken").text_content())
    assert said == [
        "updates 5: pilots, held-out 60.00 %, peak 0.1 and 50.00 %, peak 0.3",
        *(f"updates {x}: this run, validation 80.00 %" for x in (10, 20, 30, 40)),
        *(f"updates {x}: forecast 80.00 % (70.00 % to 95.00 %)" for x in (44, 88)),
    ]
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    tab.set_viewport_size({"width": 1280, "height": 500})
    plot.evaluate("p => p.scrollIntoView()")
    controls = "document.querySelector('.controls').getBoundingClientRect().bottom"
    assert tab.evaluate(controls) <= 0, "the controls of the figures over time stay with these"
    tab.close()


def test_a_target_of_0_is_a_level(browser, tmp_path):
    ahead = [{"factor": f, "updates": 44 * f, "value": -0.1 * f, "low": -0.4, "high": 0.2} for f in (1, 2)]
    record = {"forecast": {"measure": "r2", "expected": ahead}, "needed": {"target": 0.0}}
    folder = write_run(tmp_path / "a", updates=40, per_epoch=10, **record)
    tab = browser.new_page()
    tab.goto(page([folder], tmp_path / "page.html").as_uri())
    plot = plot_named(tab, "Forecast: validation r2 against updates")
    assert plot.evaluate("p => p.layout.shapes.map(s => [s.y0, s.y1])") == [[0, 0]]
    tab.close()


def test_the_horizontal_axis_is_updates_epochs_or_seconds(tab):
    plot = plot_named(tab, "Training loss")
    section = tab.locator("section", has=tab.locator("#runs"))
    assert xs(plot)[-1] == 39
    section.get_by_label("epochs", exact=True).check()
    assert xs(plot)[-1] == 4
    section.get_by_label("seconds", exact=True).check()
    assert xs(plot)[-1] == pytest.approx(3.9)
    assert plot.evaluate("p => p.layout.xaxis.title.text") == "seconds"


def test_a_line_can_be_hidden(tab):
    plot = plot_named(tab, "Validation loss")
    key = tab.locator("section", has=tab.locator("#runs")).locator(".key").first
    visible = "p => p.data.filter(t => t.visible && t.hovertemplate).length"
    before = plot.evaluate(visible)
    key.focus()
    tab.keyboard.press("Enter")
    assert (plot.evaluate(visible), key.get_attribute("aria-pressed")) == (before - 1, "false")
    key.click()
    assert (plot.evaluate(visible), key.get_attribute("aria-pressed")) == (before, "true")


def test_a_table_sorts_by_mouse_and_keyboard(tab):
    table = tab.get_by_role("region", name="Runs of comparison").locator("table")
    head = table.get_by_role("columnheader", name="test accuracy")
    cells = "t => [...t.tBodies[0].rows].map(r => parseFloat(r.cells[t.dataset.column].dataset.value))"
    column = head.evaluate("h => { h.closest('table').dataset.column = h.cellIndex; return h.cellIndex; }")
    head.get_by_role("button").click()
    found = table.evaluate(cells)
    assert head.get_attribute("aria-sort") == "ascending"
    assert found == sorted(found) and len(set(found)) > 4
    head.get_by_role("button").focus()
    tab.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert table.evaluate(cells) == sorted(found, reverse=True)
    names = table.get_by_role("columnheader", name="policy")
    names.get_by_role("button").click()
    assert head.get_attribute("aria-sort") is None
    assert column != 0 and names.get_attribute("aria-sort") == "ascending"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark(tab, scheme):
    tab.emulate_media(color_scheme=scheme)
    luminance = """() => {
        const light = (c) => c.match(/[0-9.]+/g).slice(0, 3).map(Number).reduce((a, b) => a + b) / 765;
        const text = document.querySelector('.plot .xtick text');
        return [light(getComputedStyle(document.body).backgroundColor), light(getComputedStyle(text).fill)];
    }"""
    tab.wait_for_selector(".plot .xtick text", state="attached")
    back, text = tab.evaluate(luminance)
    assert (back < 0.2 and text > 0.7) if scheme == "dark" else (back > 0.9 and text < 0.3)
    tab.locator("#theme").click()
    assert tab.evaluate(luminance)[0] > 0.9 if scheme == "dark" else tab.evaluate(luminance)[0] < 0.2
    assert tab.locator("#theme").text_content() == scheme.capitalize()
    tab.evaluate("delete document.documentElement.dataset.theme")


@pytest.mark.parametrize("width", [400, 1300])
def test_nothing_scrolls_sideways(tab, width):
    tab.set_viewport_size({"width": width, "height": 800})
    scrolled(tab)
    edge = "Math.max(...[...document.querySelectorAll('.main-svg')].map(s => s.getBoundingClientRect().right))"
    for _ in range(500):  # a figure follows a little later
        if tab.evaluate(edge) <= width:
            break
        tab.wait_for_timeout(20)
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    assert tab.evaluate(edge) <= width


def test_hostile_words_are_words(tab):
    scrolled(tab)
    assert tab.locator("main img, main b, main script").count() == 0
    assert tab.get_by_role("heading", name=HOSTILE).count() or tab.get_by_text(HOSTILE).count() > 5
    assert tab.title().startswith("1 comparison, 1 range test, 3 runs")
    plot = plot_named(tab, "Budget: test accuracy against epochs")
    plot.hover()
    plot.locator(".hoverlayer").get_by_text("<script>alert(1)</script>").first.wait_for(state="attached")


def test_the_keyboard_reaches_everything(opened, heard):
    tab = opened()
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.textContent") == "Skip to the contents"
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.activeElement.id") == "main"
    reached = "e => [...document.querySelectorAll(e)].every(x => x.tabIndex >= 0)"
    assert tab.evaluate(reached, "button, .plot, .wide, input, summary")
    assert heard == []
    tab.close()


def test_on_paper_everything_is_drawn(tab, tmp_path):
    tab.emulate_media(color_scheme="dark")
    assert len(tab.pdf(path=tmp_path / "page.pdf", format="A4")) > 20_000
    assert tab.evaluate(
        "[...document.querySelectorAll('.plot')].every(p => p.dataset.drawn && p.querySelector('.trace'))"
    )
    assert tab.evaluate("document.querySelectorAll('details:not([open])').length") > 0  # as before


def test_on_paper_headers_are_repeated_and_tables_are_whole(tab):
    tab.emulate_media(media="print")
    style = "(selector, name) => getComputedStyle(document.querySelector(selector))[name]"
    try:
        assert tab.evaluate(f"({style})('thead', 'display')") == "table-header-group"
        assert tab.evaluate(f"({style})('th', 'position')") == "static"
        # Chromium repeats no header that holds a button.
        shown = tab.evaluate(
            "[...document.querySelectorAll('th *')].map(e => [e.tagName, getComputedStyle(e).display])"
        )
        assert {tag for tag, display in shown if display != "none"} == {"SPAN"}
        assert tab.evaluate(f"({style})('.wide', 'overflow')") == "visible"
        assert tab.evaluate(f"({style})('.wide', 'maxHeight')") == "none"
    finally:
        tab.emulate_media(media="screen")


def test_without_scripts_the_words_are_there(browser, file):
    tab = browser.new_page(java_script_enabled=False)
    tab.goto(file.as_uri())
    assert tab.get_by_text("1cycle reaches 80 %.").is_visible()
    assert tab.get_by_text("onecycle train digits --seed 0").count() == 2
    tab.close()
