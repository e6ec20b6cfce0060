"""The page as a browser shows it: a headless Chromium, which `apt-get install chromium` brings."""

from __future__ import annotations

import os
import shutil

import pytest

from skreg.report import build_report, to_html, write_report

from .conftest import FEW

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if CHROMIUM is None and os.environ.get("SKREG_REQUIRE_CHROMIUM") != "1":
    pytest.skip("no chromium here to show the page in: apt-get install chromium", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install 'skreg[dev]'")

# The contrast of every piece of text with what is behind it (WCAG 2), smallest first.
CONTRASTS = """() => {
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => numbers(colour).slice(0, 3).map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const colour = getComputedStyle(each).backgroundColor;
      if (numbers(colour)[3] !== 0) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = [];
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || element.closest("script")) continue;
    const [a, b] = [light(getComputedStyle(element).color), light(behind(element))].sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), element.tagName, walker.currentNode.textContent.slice(0, 40)]);
  }
  return found.sort((x, y) => x[0] - y[0]);
}"""


@pytest.fixture(scope="module")
def browser():
    assert CHROMIUM, "SKREG_REQUIRE_CHROMIUM=1, but there is no chromium"
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        yield chromium
        chromium.close()


@pytest.fixture
def show(browser, page):
    """Show a report; the tab notes all requests and messages in `tab.requests` and `tab.messages`."""
    tabs = []

    def showing(report, *, width=1280, scheme="light"):
        write_report(report, page)
        tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        tabs.append(tab)
        tab.requests, tab.messages = [], []
        tab.on("request", lambda request: tab.requests.append(request.url))
        tab.on("console", lambda message: tab.messages.append(message.text))
        tab.on("pageerror", lambda error: tab.messages.append(str(error)))
        tab.goto(page.as_uri())
        return tab

    yield showing
    for tab in tabs:
        tab.close()


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_of_runs_shows_all_and_asks_for_nothing(runs, show, page, width):
    tab = show(build_report(list(runs.values()), only=FEW), width=width, scheme="dark" if width == 390 else "light")
    assert tab.messages == []
    assert [url for url in tab.requests if not url.startswith("data:")] == [page.as_uri()]
    sizes = tab.eval_on_selector_all("img", "images => images.map(i => [i.complete, i.naturalWidth, i.clientWidth])")
    assert len(sizes) == 7
    assert all(complete and natural > 300 and shown > 300 for complete, natural, shown in sizes)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.evaluate(CONTRASTS)[0][0] >= 4.5
    picture = tab.screenshot()
    assert picture.startswith(b"\x89PNG")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast_in_both_schemes(numbers, show, scheme):
    tab = show(numbers, scheme=scheme)
    contrasts = tab.evaluate(CONTRASTS)
    assert len(contrasts) > 50
    assert contrasts[0][0] >= 4.5, contrasts[0]


def background(tab):
    return tab.evaluate("getComputedStyle(document.body).backgroundColor")


def test_the_scheme_is_the_systems_until_the_button_is_pressed(numbers, show):
    tab = show(numbers, scheme="dark")
    button = tab.locator("#theme")
    dark = background(tab)
    assert button.inner_text() == "Light colours"
    button.click()
    light = background(tab)
    assert light == "rgb(255, 255, 255)" != dark
    assert button.inner_text() == "Dark colours"
    tab.emulate_media(color_scheme="light")
    button.press("Enter")
    assert background(tab) == dark


def column(tab, index):
    rows = tab.locator("table").first.locator("tbody tr").all()
    return [row.locator("th, td").nth(index).inner_text().split("\n")[0] for row in rows]


def test_tables_sort_by_mouse_and_by_keyboard(numbers, show):
    tab = show(numbers)
    headings = tab.locator("table").first.locator("thead th")
    assert tab.locator("td.best").inner_text().startswith("10.0")
    assert column(tab, 0) == ["V", "VR10", "VR9", "A"]
    headings.nth(1).locator("button").click()
    assert column(tab, 1) == ["-3.0", "9.5", "10.0", "–"]
    assert headings.nth(1).get_attribute("aria-sort") == "ascending"
    headings.nth(1).locator("button").click()
    assert column(tab, 1) == ["10.0", "9.5", "-3.0", "–"]  # what is missing stays last
    assert headings.nth(1).get_attribute("aria-sort") == "descending"

    tab.keyboard.press("Tab")  # from the button in use to the next one
    tab.keyboard.press("Enter")
    assert column(tab, 2) == ["8.0%", "76.4%", "100.0%", "–"]
    assert headings.nth(1).get_attribute("aria-sort") is None
    tab.keyboard.press("Tab")
    tab.keyboard.press("Space")
    assert column(tab, 3) == ["1e-3", "0.5", "∞", "–"]
    headings.nth(0).locator("button").click()
    assert column(tab, 0) == ["A", "V", "VR9", "VR10"]  # names with their numbers
    headings.nth(4).locator("button").click()
    assert column(tab, 4) == ["adef", "cw", "fgsm", "pgd"]
    assert tab.locator("table").nth(1).locator("thead button").count() == 0  # one row has no order


def test_wide_tables_scroll_in_their_own_box_and_names_stay(numbers, show):
    tab = show(numbers, width=390)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    box = tab.locator(".scroll").nth(1)
    assert box.evaluate("box => box.scrollWidth > 2 * box.clientWidth")
    assert box.get_attribute("tabindex") == "0"  # so that the keyboard scrolls it
    box.evaluate("box => { box.scrollLeft = 500; }")
    name = box.locator("tbody th").bounding_box()
    assert name["x"] >= 0


def test_mischief_is_shown_and_not_run(evil, show):
    tab = show(evil)
    assert tab.messages == []
    assert tab.title() == evil.title
    assert tab.locator("b").count() == 0
    assert "onclick" in tab.locator("h1").inner_text()


def test_without_scripts_all_is_readable(numbers, browser, page):
    page.write_text(to_html(numbers))
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(page.as_uri())
    assert tab.locator("tbody tr").count() == 5
    assert not tab.locator("#theme").is_visible()
    context.close()
