"""The report in a real browser: a filter hides the other studies, a hover shows the design, nothing is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest
from test_reports_page import NASTY, put
from test_reports_roundtrip import made_up

from senet_lab.__main__ import main
from senet_lab.reports.render import csv_text, latex
from senet_lab.reports.tables import make_table, read_trials

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = Path("/usr/bin/chromium")
pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"there is no Chromium at {CHROMIUM}")

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
STUDIES = "article.study:not([hidden]) h3"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four studies of two data sets and two backbones, one with text that tries to be HTML, one of many rows."""
    root = tmp_path_factory.mktemp("report")
    put(root / "a" / "ratio", made_up(failed=(("r = 4", 1),)))
    put(root / "b" / "ratio", made_up(seeds=2, backbone="resnet20", title="Ratio on twenty", margin=2.0), learn=False)
    nasty = made_up({NASTY: "", "base": ""}, baseline="base", paper_table="", data=NASTY, study="odd", title=NASTY)
    put(root / "c" / "odd", nasty)
    many = made_up(
        {f"design {i}": "" for i in range(90)}, 2, "design 0", "", data="cifar10", study="many", title="Many rows"
    )
    number = many["row"].str.removeprefix("design ").astype(int)
    best = number % 9 == 0  # are the front of a search
    fixed = dict.fromkeys(("sampler", "spent", "reference", "words"), "") | {"objectives": "val_error params"}
    fixed |= {"part": "search", "asked": number + 1, "classes": 10, "channels": 1, "val_images": 100}
    fixed |= {"val_error": (60 - number / 2).where(best, 61.0), "params": (1000 + number).where(best, 2000)}
    put(root / "d" / "many", many.assign(**fixed))
    page = root / "report.html"
    assert main(["report", str(root), "--to", str(page)]) == 0
    return page


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sync_api.Browser]:
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def tab(request: pytest.FixtureRequest, browser: sync_api.Browser, report: Path) -> Iterator[sync_api.Page]:
    """The page, opened as the test's `param` says; in the end nothing was said on the console and nothing asked for."""
    how = {"viewport": {"width": 1280, "height": 900}, **getattr(request, "param", {})}
    context = browser.new_context(**how)
    page = context.new_page()
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(report.as_uri())
    yield page
    assert said == []
    assert {url for url in asked if not url.startswith(("data:", "blob:"))} == {report.as_uri()}
    context.close()


def box_of(locator: sync_api.Locator) -> tuple[float, float, float, float]:
    locator.scroll_into_view_if_needed()
    box = locator.bounding_box()
    assert box
    return box["x"], box["y"], box["width"], box["height"]


def plot(tab: sync_api.Page, title: str, kind: str = "rows") -> sync_api.Locator:
    """The drawn plot of the study with this title."""
    article = tab.locator("article.study", has=tab.locator("h3", has_text=title)).first
    found = article.locator(f'.plot[data-kind="{kind}"]')
    found.scroll_into_view_if_needed()
    found.locator(".canvas svg text").first.wait_for()
    return found


def test_a_filter_hides_the_others(tab: sync_api.Page) -> None:
    titles = tab.locator(STUDIES)
    assert titles.count() == 4
    chip = tab.get_by_role("button", name="resnet20", exact=True)
    chip.click()
    assert chip.get_attribute("aria-pressed") == "true"
    assert titles.all_inner_texts() == ["Ratio on twenty table 10 of the paper"]
    assert tab.locator("#studies tbody tr:visible").count() == 1
    assert tab.locator("section.setting:visible").count() == 1
    assert tab.locator("#shown").inner_text() == "1 of 4 studies, 6 rows"
    chip.click()
    assert titles.count() == 4
    tab.get_by_role("button", name="odd", exact=True).click()
    tab.get_by_role("button", name="many", exact=True).click()  # either of the two
    assert titles.count() == 2
    tab.get_by_role("button", name="resnet20", exact=True).click()  # and of this backbone: none
    assert titles.count() == 0
    tab.get_by_role("button", name="Clear the filters").click()
    assert titles.count() == 4
    assert tab.locator('.chip[aria-pressed="true"]').count() == 0


def test_rows_are_searched_by_their_names(tab: sync_api.Page) -> None:
    tab.get_by_role("searchbox").fill("R = 1")
    tab.locator("#shown", has_text="2 of 4 studies, 2 rows").wait_for()
    assert tab.locator("article.study tbody tr:visible th").all_inner_texts() == ["r = 16", "r = 16"]
    sync_api.expect(plot(tab, "Reduction ratio").locator(".canvas .mark")).to_have_count(1)
    tab.get_by_role("button", name="Clear", exact=True).click()
    assert tab.locator(STUDIES).count() == 4
    sync_api.expect(plot(tab, "Reduction ratio").locator(".canvas .mark")).to_have_count(6)


def test_a_hover_shows_the_design(tab: sync_api.Page, report: Path) -> None:
    drawn = plot(tab, "Reduction ratio")
    mark = drawn.locator(".canvas .mark .shape").nth(1)
    x, y, width, height = box_of(mark)
    tab.mouse.move(x + width / 2, y + height / 2)
    tip = tab.locator("#tip")
    tip.wait_for()
    trials = pd.read_csv(report.parent / "a" / "ratio" / "trials.csv")
    errors = trials[(trials["row"] == "r = 4") & (trials["status"] == "done")]["test_error"]
    said = tip.inner_text()
    assert said.startswith("r = 4")
    for words in (f"{errors.mean():.2f} ± ", "(2)", "78,000", "1,234,568", "2:1 3:2 4:4", "seed 1", "22.25"):
        assert words in said
    assert tab.locator("tr.lit th").inner_text() == "r = 4"
    tab.mouse.move(5, 5)
    assert not tip.is_visible()
    assert tab.locator("tr.lit").count() == 0


def test_arrow_keys_do_what_a_hover_does(tab: sync_api.Page) -> None:
    svg = plot(tab, "Reduction ratio").locator(".canvas svg")
    svg.focus()
    for label in ("r = 2", "r = 4"):
        tab.keyboard.press("ArrowDown")
        assert tab.locator("#tip strong").inner_text() == label
    tab.keyboard.press("Escape")
    assert not tab.locator("#tip").is_visible()


def test_curves_by_epoch(tab: sync_api.Page, report: Path) -> None:
    drawn = plot(tab, "Reduction ratio", "curves")
    assert drawn.locator(".canvas .curve").count() == 6
    svg = drawn.locator(".canvas svg")
    svg.focus()
    tab.keyboard.press("ArrowRight")
    file = pd.read_csv(report.parent / "a" / "ratio" / "curves.csv")
    values = file[(file["row"] == "r = 2") & (file["epoch"] == 1)]["val_error"]
    said = tab.locator("#tip").inner_text()
    assert said.startswith("r = 2")
    assert f"{values.mean():.4g} ({values.min():.4g} to {values.max():.4g}, n = 3)" in said
    drawn.get_by_role("button", name="r = 8").click()
    assert drawn.locator(".canvas .curve").count() == 5
    drawn.get_by_role("button", name="train loss").click()
    assert "training loss" in str(svg.get_attribute("aria-label"))
    drawn.get_by_role("button", name="log").click()
    assert drawn.locator(".canvas .curve").count() == 5


def test_zoom_and_back(tab: sync_api.Page) -> None:
    drawn = plot(tab, "Reduction ratio")
    drawn.get_by_role("button", name="by parameters").click()
    x, y, width, height = box_of(drawn.locator(".canvas svg"))

    def ticks() -> list[str]:
        return drawn.locator(".canvas .tick").all_inner_texts()

    before = ticks()
    tab.mouse.move(x + width * 0.3, y + height * 0.3)
    tab.mouse.down()
    tab.mouse.move(x + width * 0.5, y + height * 0.6, steps=4)
    tab.mouse.up()
    assert ticks() != before
    drawn.get_by_role("button", name="Reset zoom").click()
    assert ticks() == before
    drawn.locator(".canvas svg").focus()
    tab.keyboard.press("+")
    assert ticks() != before
    tab.keyboard.press("0")
    assert ticks() == before


def test_the_margin_is_a_band_around_the_baseline(tab: sync_api.Page) -> None:
    drawn = plot(tab, "Ratio on twenty")
    x, _, width, _ = box_of(drawn.locator(".canvas rect.margin"))
    at, _, size, _ = box_of(drawn.locator(".canvas .mark.ink .shape"))
    assert x + width / 2 == pytest.approx(at + size / 2, abs=0.6)
    assert drawn.locator(".canvas .seeds").count() == 5
    shown = drawn.locator(".legend").first.inner_text().split("\n")
    assert shown == ["baseline", "open", "margin, ±2 points", "95% over seeds"]


def test_a_plot_is_saved_with_its_colours(tab: sync_api.Page) -> None:
    with tab.expect_download() as download:
        plot(tab, "window.ran").get_by_role("button", name="Save SVG").click()
    assert download.value.suggested_filename == "study-c-odd.svg"
    root = ElementTree.fromstring(download.value.path().read_text())
    shapes = [node for node in root.iter("{http://www.w3.org/2000/svg}path") if node.get("class") == "shape"]
    assert len(shapes) == 2
    assert all("fill: rgb(" in node.get("style", "") for node in shapes)


def test_text_of_users_does_nothing(tab: sync_api.Page) -> None:
    drawn = plot(tab, "window.ran")
    drawn.locator(".canvas svg").focus()
    tab.keyboard.press("ArrowDown")
    assert tab.locator("#tip strong").inner_text() == NASTY
    assert tab.locator("article.study th", has_text="window.ran").first.inner_text() == NASTY
    assert tab.evaluate("window.ran") is None
    assert tab.locator("img").count() == 0


def test_many_rows_are_drawn_against_their_cost(tab: sync_api.Page) -> None:
    drawn = plot(tab, "Many rows")
    assert drawn.get_by_role("button", name="error").count() == 0
    assert drawn.locator(".canvas .mark").count() == 90
    assert drawn.locator(".canvas .mark.ink").count() == 1
    assert drawn.locator(".canvas .mark.design").count() == 9  # the others of the front
    assert drawn.locator(".canvas path.front").count() == 1


@pytest.mark.parametrize("tab", [{"permissions": ["clipboard-read", "clipboard-write"]}], indirect=True)
def test_a_table_is_copied(tab: sync_api.Page, report: Path) -> None:
    """As the file of its study has it."""
    study = tab.locator("article.study", has=tab.locator("h3", has_text="Ratio on twenty"))
    table = make_table(read_trials(report.parent / "b" / "ratio" / "trials.csv"))
    for name, text in (("CSV", csv_text(table)), ("LaTeX", latex(table))):
        study.get_by_role("button", name=name, exact=True).click()
        study.get_by_text(f"{name} copied").wait_for()
        assert tab.evaluate("navigator.clipboard.readText()") == text


def test_columns_sort(tab: sync_api.Page, report: Path) -> None:
    article = tab.locator("article.study", has=tab.locator("h3", has_text="Ratio on twenty"))
    errors = pd.read_csv(report.parent / "b" / "ratio" / "trials.csv").groupby("row", sort=False)["test_error"].mean()

    def rows() -> list[str]:
        return article.locator("tbody th").all_inner_texts()

    head = article.get_by_role("columnheader", name="our error %")
    for direction, expected in (("ascending", sorted(errors)), ("descending", sorted(errors, reverse=True))):
        head.get_by_role("button").click()
        assert head.get_attribute("aria-sort") == direction
        assert [errors[row] for row in rows()] == pytest.approx(expected)
    article.get_by_role("columnheader", name="our params").get_by_role("button").click()
    assert rows() == list(errors.index)  # which are made up so
    article.get_by_role("columnheader", name="Δ [95%]").get_by_role("button").click()
    assert rows()[-1] == "r = 16"  # it has no difference
    article.get_by_role("columnheader", name="Δ [95%]").get_by_role("button").click()
    assert rows()[-1] == "r = 16"
    article.get_by_role("columnheader", name="Δ [95%]").get_by_role("button").click()
    assert rows() == list(errors.index)


def light(tab: sync_api.Page) -> float:
    """How light the page is, 0 to 255."""
    colour = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    channels = [float(part) for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    return sum(channels) / 3


@pytest.mark.parametrize(
    ("tab", "dark"), [({"color_scheme": "light"}, 0), ({"color_scheme": "dark"}, 1)], indirect=["tab"]
)
def test_light_and_dark(tab: sync_api.Page, dark: int) -> None:
    button = tab.get_by_role("button", name="Dark")
    for is_dark in (dark, 1 - dark, dark):
        assert (light(tab) < 60) == bool(is_dark)
        assert button.get_attribute("aria-pressed") == ("true" if is_dark else "false")
        button.click()
    tab.reload()  # what was chosen stays
    assert (light(tab) < 60) == (not dark)


@pytest.mark.parametrize("tab", [{"viewport": {"width": 390, "height": 844}, "has_touch": True}], indirect=True)
def test_a_phone_scrolls_tables_only(tab: sync_api.Page) -> None:
    tab.get_by_role("button", name="All columns").click()
    for title in ("Reduction ratio", "Many rows", "window.ran"):
        plot(tab, title)
    assert tab.evaluate("document.documentElement.scrollWidth") == 390
    box = tab.locator("article.study .scroll").first
    assert box.evaluate("box => box.scrollWidth > box.clientWidth && box.clientWidth <= 390")
    mark = plot(tab, "Reduction ratio").locator(".canvas .mark .shape").nth(2)
    x, y, width, height = box_of(mark)
    tab.touchscreen.tap(x + width / 2, y + height / 2)
    assert tab.locator("#tip strong").inner_text() == "r = 8"
    tip = tab.locator("#tip").bounding_box()
    assert tip
    assert tip["x"] >= 0
    assert tip["x"] + tip["width"] <= 390


@pytest.mark.parametrize("tab", [{"color_scheme": scheme} for scheme in ("light", "dark")], indirect=True)
def test_axe_finds_nothing(tab: sync_api.Page) -> None:
    """axe-core, with every column, explanation and plot shown."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    tab.get_by_role("button", name="All columns").click()
    tab.evaluate("document.querySelectorAll('details').forEach((each) => (each.open = true))")
    for moment in ("beforeprint", "afterprint"):
        tab.evaluate(f"dispatchEvent(new Event('{moment}'))")  # so that all plots are drawn
    found = axe.Axe().run(tab).response
    assert len(found["passes"]) > 20
    broken = [(each["id"], each["impact"], node["html"]) for each in found["violations"] for node in each["nodes"]]
    assert broken == []


@pytest.mark.parametrize("tab", [{"java_script_enabled": False}], indirect=True)
def test_tables_need_no_script(tab: sync_api.Page) -> None:
    assert tab.locator("article.study table").count() == 4
    assert tab.locator("article.study table").first.is_visible()


def test_print_has_every_plot(tab: sync_api.Page) -> None:
    tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    plots = tab.locator(".plot")
    assert plots.count() == 4 + 4 + 3  # settings, studies, and curves where they are known
    assert tab.locator(".plot .canvas svg .tick").count() > 0
    assert tab.locator(".plot:has(.canvas svg .grid)").count() == plots.count()
    tab.evaluate("dispatchEvent(new Event('afterprint'))")
    assert tab.evaluate("document.documentElement.className") == ""


NAMELESS = """() =>
  [...document.querySelectorAll("button, input, svg[role=img], [role=region], [role=group]")]
    .filter((each) => !each.textContent.trim() && !each.ariaLabel && !each.labels?.length)
    .filter((each) => !each.getAttribute("aria-labelledby"))
    .map((each) => each.outerHTML.slice(0, 80))"""

# Texts whose contrast to the colour behind them is below 4.5 to 1, by the formula of WCAG 2.
FAINT = """() => {
  const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const linear = (v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const shine = (colour) => {
    const [r, g, b] = parts(colour).slice(0, 3).map((v) => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if ((parts(colour)[3] ?? 1) > 0.99) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const found = [];
  for (const node of document.querySelectorAll("body *")) {
    const text = [...node.childNodes].filter((child) => child.nodeType === 3 && child.data.trim());
    if (!text.length || node.disabled || !node.checkVisibility()) continue;
    const style = getComputedStyle(node);
    const a = shine(node instanceof SVGElement ? style.fill : style.color), b = shine(behind(node));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) found.push(`${node.tagName} ${ratio.toFixed(2)} ${text[0].data.slice(0, 30)}`);
  }
  return found;
}"""


def test_everything_has_a_name_and_text_can_be_read(tab: sync_api.Page) -> None:
    plot(tab, "Reduction ratio", "curves")
    assert tab.evaluate(NAMELESS) == []
    assert tab.evaluate(FAINT) == []
    tab.get_by_role("button", name="Dark").click()
    assert tab.evaluate(FAINT) == []
    tab.evaluate("document.body.style.color = 'rgb(200, 200, 200)'; document.documentElement.dataset.theme = 'light'")
    assert tab.evaluate(FAINT) != []  # the check can fail
