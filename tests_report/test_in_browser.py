"""The report as people use it: it draws, answers to mouse and keyboard, fits a phone, and fetches nothing."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select

from nuclr_cli.workflows.report import ReportConfig, report

if TYPE_CHECKING:
    from conftest import Browser

# Where the trace's points are on the screen, in pixels of the window.
PLACE_OF_POINT = """
const map = document.getElementById("map"), box = map.getBoundingClientRect();
const trace = map._fullData[arguments[0]];
const x = map._fullLayout.xaxis, y = map._fullLayout.yaxis, i = arguments[1];
return [box.left + x._offset + x.d2p(trace.x[i]), box.top + y._offset + y.d2p(trace.y[i])];
"""


def hover(browser: Browser, trace: int, point: int) -> dict[str, str]:
    """What the tooltip says of a point: its lines by name, the title under ''."""
    browser.js("document.getElementById('map').scrollIntoView({block: 'center', behavior: 'instant'})")

    def shown() -> bool:
        # The page hides the tooltip when it scrolls, also when that ends after the mouse came.
        x, y = browser.js(PLACE_OF_POINT, trace, point)
        for dx in (3, 0):
            moved = {"type": "mouseMoved", "x": x + dx, "y": y}
            browser.driver.execute_cdp_cmd("Input.dispatchMouseEvent", moved)
        return not browser.js("return document.getElementById('tooltip').hidden")

    browser.until(shown)
    lines: dict[str, str] = browser.js(
        "const box = document.getElementById('tooltip'), said = {'': box.querySelector('b').textContent};"
        "for (const line of box.querySelectorAll('div')) said[line.children[0].textContent] = "
        "line.children[1].textContent; return said"
    )
    return lines


def unit(browser: Browser, name: str, subject: str | None = None) -> tuple[int, int]:
    """Trace and number of the point of a unit, found by the page's own table of columns."""
    found: list[int] = browser.js(
        """
        const units = JSON.parse(document.getElementById("data").textContent).units;
        const bytes = (packed) => Uint8Array.from(atob(packed.bytes), (letter) => letter.charCodeAt(0));
        const texts = (column) => Array.from(bytes(column.codes), (code) => column.levels[code]);
        const [subjects, , , names] = units.categories.slice(0, 4).map(texts);
        const [name, subject] = arguments;
        const row = names.findIndex((one, i) => one === name && (!subject || subjects[i] === subject));
        const floats = (packed) => new Float32Array(bytes(packed).buffer);
        const x = floats(units.maps[0].x)[row], y = floats(units.maps[0].y)[row];
        const map = document.getElementById("map");
        for (let i = 0; i < map._fullData.length; i++) {
          const trace = map._fullData[i];
          for (let j = 0; j < trace.x.length; j++) if (trace.x[j] === x && trace.y[j] === y) return [i, j];
        }
        return [-1, -1];
        """,
        name,
        subject,
    )
    return found[0], found[1]


def wait_for_color(browser: Browser, name: str) -> None:
    browser.until(lambda: browser.js("return document.getElementById('map').dataset.color") == name)


def color_by(browser: Browser, name: str) -> None:
    Select(browser.find("#map-color")).select_by_visible_text(name)
    wait_for_color(browser, name)


def requests(browser: Browser) -> list[str]:
    """Addresses that the page asked for, itself and its own data apart."""
    found = []
    for entry in browser.driver.get_log("performance"):
        message: dict[str, Any] = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            found.append(message["params"]["request"]["url"])
    return [url for url in found if not url.startswith(("file:", "data:", "blob:", "about:"))]


def draw_all(browser: Browser) -> None:
    browser.js("dispatchEvent(new Event('beforeprint'))")
    browser.until(lambda: browser.js("return !document.querySelector('[data-chart]:not([data-drawn])')"))


def test_everything_is_drawn_without_errors_or_requests(browser: Browser, page: Path) -> None:
    browser.open(page)
    draw_all(browser)
    names = [place.get_attribute("data-chart") or "" for place in browser.all("[data-chart]")]
    for expected in ("training-loss", "reliability", "cloud", "precision", "result-3"):
        assert any(expected in name for name in names)
    for place in browser.all("[data-chart]"):
        assert browser.js("return arguments[0].querySelectorAll('.scatterlayer .trace').length", place) > 0
    assert browser.said() == []
    assert requests(browser) == []


def test_no_name_becomes_markup(browser: Browser, page: Path, report_run: ModuleType) -> None:
    browser.open(page)
    draw_all(browser)
    for option in [each.text for each in Select(browser.find("#map-color")).options]:
        color_by(browser, option)
    assert browser.js("return window.hacked ?? null") is None
    assert browser.js("return document.querySelectorAll('img, a[href^=javascript]').length") == 0
    color_by(browser, "cell_type")
    legend = [each.text for each in browser.all("#map-legend button span:nth-child(2)")]
    assert report_run.EVIL_IMAGE in legend
    assert hover(browser, *unit(browser, report_run.EVIL))[""] == f"unit {report_run.EVIL}"


def test_only_the_scripts_of_the_page_run(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.js(
        "const one = document.createElement('script'); one.textContent = 'window.injected = 1';"
        "document.body.append(one)"
    )
    assert browser.js("return window.injected ?? null") is None
    blocked = browser.js("return fetch('https://example.org/').then(() => 'sent', (error) => error.name)")
    assert blocked == "TypeError"
    assert requests(browser) == []


def test_hover_tells_the_unit(browser: Browser, page: Path) -> None:
    browser.open(page)
    said = hover(browser, *unit(browser, "u5", "mouse03"))  # of the test subject
    assert said[""] == "unit u5"
    assert said["session"] == "day0"
    assert said["rate"].endswith(" Hz")
    assert float(said["rate"].split()[0]) > 0
    assert said["brain_region"] in ("CA1", "CA3", "DG")
    predicted = said["predicted cell_type (subject-default-baselines-none)"]
    assert 0 < float(predicted.partition("(p = ")[2].rstrip(")")) <= 1


def test_color_follows_the_choice_and_groups_can_be_hidden(browser: Browser, page: Path) -> None:
    browser.open(page)
    wait_for_color(browser, "cell_type")
    color_by(browser, "subject")
    buttons = browser.all("#map-legend button")
    assert len(buttons) == 4
    assert (
        sum(int(each.text.split()[-1]) for each in buttons) == 4 * 39
    )  # one unit a session has no embedding
    colors = browser.js(
        "return document.getElementById('map')._fullData.slice(0, -1).map((trace) => trace.marker.color)"
    )
    assert len(set(colors)) == 4
    drawn = browser.js("return document.getElementById('map').dataset.drawn")
    buttons[0].click()
    browser.until(lambda: browser.js("return document.getElementById('map').dataset.drawn") != drawn)
    assert buttons[0].get_attribute("aria-pressed") == "false"
    assert (
        browser.js("return document.getElementById('map')._fullData.length") == 4
    )  # three groups and the ring
    color_by(browser, "rate")
    assert "Hz" in browser.find("#map-legend").text
    color_by(browser, "predicted depth_um (subject-ridge-baselines-none)")
    assert browser.said() == []


@pytest.mark.parametrize("dark", [False, True])
def test_colors_follow_the_system_and_the_switch(browser: Browser, page: Path, dark: bool) -> None:
    def lightness() -> int:
        text = browser.js("return getComputedStyle(document.body).backgroundColor")
        return sum(int(part) for part in text[4:-1].split(","))

    def ink_of_the_map() -> str:
        return str(browser.js("return document.getElementById('map')._fullLayout.font.color"))

    browser.open(page, dark=dark)
    assert (lightness() < 200) == dark
    before, ink = lightness(), ink_of_the_map()
    browser.find(f"input[name=theme][value={'light' if dark else 'dark'}]").click()
    browser.until(lambda: ink_of_the_map() != ink)
    assert (lightness() < 200) != dark
    browser.find("input[name=theme][value=auto]").click()
    browser.until(lambda: ink_of_the_map() == ink)
    assert lightness() == before
    assert browser.said() == []


def test_a_phone_needs_no_sideways_scrolling(browser: Browser, page: Path) -> None:
    browser.open(page, width=390)
    draw_all(browser)
    for summary in browser.all("details > summary"):
        browser.js("arguments[0].parentElement.open = true", summary)
    browser.until(lambda: browser.all("#units-body tr"))
    assert browser.js("return innerWidth") == 390
    assert browser.js("return document.documentElement.scrollWidth") == 390
    wide = browser.js(
        """
        return [...document.querySelectorAll("main *")]
          .filter((one) => !one.closest(".scroll, .chart, svg, .unseen, thead"))
          .filter((one) => one.getBoundingClientRect().right > 391).map((one) => one.outerHTML.slice(0, 80));
        """
    )
    assert wide == []


def test_the_keyboard_reaches_everything(browser: Browser, page: Path) -> None:
    browser.open(page)
    reached: list[str] = []
    for _ in range(200):
        ActionChains(browser.driver).send_keys(Keys.TAB).perform()
        name, outline = browser.js(
            "const one = document.activeElement; return [one.id || one.name || one.className || "
            "one.getAttribute('href') || one.tagName, getComputedStyle(one).outlineStyle]"
        )
        if name == "BODY":  # behind the last one
            break
        reached.append(name)
        assert outline != "none", name
    assert reached[0] == "skip"
    for control in (
        "theme",
        "#training",
        "map-color",
        "map-find",
        "map-in",
        "map-reset",
        "map-save",
        "scroll",
    ):
        assert control in reached
    browser.js("document.getElementById('map-color').focus()")
    ActionChains(browser.driver).send_keys(Keys.HOME).perform()
    wait_for_color(browser, Select(browser.find("#map-color")).options[0].text)
    browser.js("document.querySelector('#map-legend button').focus()")
    ActionChains(browser.driver).send_keys(Keys.SPACE).perform()
    assert browser.find("#map-legend button").get_attribute("aria-pressed") == "false"
    browser.js("document.querySelector('#units summary').focus()")
    ActionChains(browser.driver).send_keys(Keys.ENTER).perform()
    browser.until(lambda: browser.all("#units-body tr"))


def test_controls_and_plots_have_names(browser: Browser, page: Path) -> None:
    browser.open(page)
    nameless = browser.js(
        """
        const named = (one) => one.getAttribute("aria-label") || one.textContent.trim() || one.labels?.length;
        const roles = "[role=img], [role=region], [role=group]";
        return [...document.querySelectorAll(`button, select, input, summary, ${roles}`)]
          .filter((one) => !named(one)).map((one) => one.outerHTML.slice(0, 100));
        """
    )
    assert nameless == []
    headings = browser.js(
        "return [...document.querySelectorAll('h1,h2,h3,h4')].map((one) => Number(one.tagName[1]))"
    )
    assert headings.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(headings))


def test_a_unit_is_found_by_name_and_the_table_has_it(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.find("#map-find").send_keys("u7 mouse02", Keys.ENTER)
    browser.until(lambda: browser.find("#map-said").text.startswith("unit u7:"))
    assert "subject mouse02" in browser.find("#map-said").text
    assert browser.js("return document.getElementById('map')._fullData.at(-1).x.length") == 1
    browser.find("#units summary").click()
    browser.until(lambda: browser.all("#units-body tr"))
    assert browser.find("#units-place").text == "160 units, page 1 of 7"
    browser.find("#units-next").click()
    assert browser.find("#units-place").text == "160 units, page 2 of 7"
    browser.find("#units-filter").send_keys("mouse03")
    browser.until(lambda: browser.find("#units-place").text.startswith("40 units"))
    assert all("mouse03" in row.text for row in browser.all("#units-body tr"))


def test_zoom_and_back(browser: Browser, page: Path) -> None:
    def width() -> float:
        low, high = browser.js("return document.getElementById('map')._fullLayout.xaxis.range")
        return float(high - low)

    browser.open(page)
    whole = width()
    browser.find("#map-in").click()
    browser.until(lambda: width() < 0.7 * whole)
    browser.find("#map-reset").click()
    browser.until(lambda: abs(width() - whole) < 1e-6 * whole)


def test_many_units_are_drawn_by_webgl_and_answer_to_the_mouse(
    browser: Browser, report_run: ModuleType, tmp_path: Path
) -> None:
    run = report_run.make_run(tmp_path / "nuclr-runs", subjects=10, sessions=5, units=101)
    browser.open(report(ReportConfig(run.folder, umap=False)).out)
    kinds = browser.js("return document.getElementById('map')._fullData.map((trace) => trace.type)")
    assert set(kinds[:-1]) == {"scattergl"}
    said = hover(browser, 1, 0)
    assert said[""].startswith("unit u")
    assert said["subject"].startswith("mouse")
    color_by(browser, "session")
    assert browser.said() == []


def test_umap_is_a_second_map(browser: Browser, report_run: ModuleType, tmp_path: Path) -> None:
    run = report_run.make_run(tmp_path / "nuclr-runs")
    record = report(ReportConfig(run.folder))
    assert record.maps == ("pca", "umap")
    browser.open(record.out)
    before = browser.js("return Array.from(document.getElementById('map')._fullData[0].x)")
    Select(browser.find("#map-kind")).select_by_visible_text("UMAP")
    browser.until(
        lambda: browser.js("return document.getElementById('map')._fullLayout.xaxis.title.text") == "UMAP 1"
    )
    after = browser.js("return Array.from(document.getElementById('map')._fullData[0].x)")
    assert len(after) == len(before)
    assert after != before
    assert browser.said() == []
