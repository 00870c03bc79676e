"""The report in a real browser: offline, on a phone, in the dark, by keyboard and screen reader."""

import json
import shutil
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from camreid.data import Records
from camreid.runs.report.page import build_page, read_folder, write_page
from tests.runs.report.contrast import contrast, luminance
from tests.runs.report.matrices import write_matrix
from tests.runs.report.runs import write_run

webdriver = pytest.importorskip("selenium.webdriver")
Keys = pytest.importorskip("selenium.webdriver.common.keys").Keys
Select = pytest.importorskip("selenium.webdriver.support.select").Select
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromium-driver"),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, records: Records) -> Path:
    folder = tmp_path_factory.mktemp("report")
    names = ("first", "second-of-a-rather-long-name_without-a-space-in-it")
    runs = [write_run(folder / name, records, noise=n + 1.0) for n, name in enumerate(names)]
    matrix = write_matrix(folder / "matrix", records, leaks=True, controls=True)
    page = build_page([read_folder(path) for path in (*runs, matrix)])
    write_page(folder / "report.html", page)
    return folder / "report.html"


@pytest.fixture(scope="module")
def chromium() -> Iterator["webdriver.Chrome"]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def browser(chromium: "webdriver.Chrome", page: Path) -> "webdriver.Chrome":
    """The page, freshly opened on a wide screen."""
    screen(chromium, 1200)
    colours(chromium, "light")
    for kind in ("browser", "performance"):
        chromium.get_log(kind)
    chromium.get(page.as_uri())
    return chromium


def screen(driver: "webdriver.Chrome", width: int) -> None:
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def colours(driver: "webdriver.Chrome", scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def test_it_asks_for_nothing_and_complains_of_nothing(
    browser: "webdriver.Chrome", page: Path
) -> None:
    sent = [json.loads(line["message"])["message"] for line in browser.get_log("performance")]
    asked = {
        message["params"]["request"]["url"]
        for message in sent
        if message["method"] == "Network.requestWillBeSent"
    }
    assert {url for url in asked if not url.startswith("data:")} == {page.as_uri()}
    assert browser.get_log("browser") == []


def test_the_camera_filter(browser: "webdriver.Chrome") -> None:
    def shown() -> list[str]:
        return browser.execute_script(
            "return [...document.querySelectorAll('#run-0-lists .list')]"
            ".filter(l => l.offsetHeight > 0).map(l => l.dataset.camera)"
        )

    everything = shown()
    assert len(set(everything)) > 1
    select = Select(browser.find_element("css selector", "#run-0-camera"))
    status = browser.find_element("css selector", ".filter [role=status]")
    for camera in sorted(set(everything)):
        select.select_by_visible_text(f"camera {camera}")
        assert shown() == [c for c in everything if c == camera]
        assert status.text == f"{everything.count(camera)} queries"
    select.select_by_visible_text("all cameras")
    assert shown() == everything


@pytest.mark.parametrize("width", [320, 375, 390, 768, 1200])
def test_no_screen_scrolls_sideways(browser: "webdriver.Chrome", width: int) -> None:
    screen(browser, width)
    browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    wide = browser.execute_script("return document.documentElement.scrollWidth")
    assert wide <= width


def test_the_dark_is_dark_and_readable(browser: "webdriver.Chrome") -> None:
    def look() -> dict[str, list[float]]:
        return browser.execute_script(_LOOK)

    light = look()
    colours(browser, "dark")
    dark = look()
    assert light.keys() == dark.keys()
    for name in light:
        assert light[name] != dark[name]
    for found in (light, dark):
        for name in ("text", "quiet", "link", "hit", "miss", "axis", "line"):
            least = 3 if name == "line" else 4.5  # of graphics, and of text (WCAG 2.2)
            ground = "card" if name in ("axis", "line", "hit", "miss") else "page"
            assert contrast(found[name], found[ground]) >= least, name
    assert luminance(light["page"]) > 0.9
    assert luminance(dark["page"]) < 0.05


_LOOK = """
const of = (selector, name) => {
  const colour = getComputedStyle(document.querySelector(selector))[name];
  return colour.match(/[0-9.]+/g).slice(0, 3).map(Number);
};
return {
  page: of("body", "backgroundColor"), card: of(".card", "backgroundColor"),
  text: of("body", "color"), quiet: of(".quiet", "color"), link: of("nav a", "color"),
  hit: of(".hit b", "color"), miss: of(".miss b", "color"), axis: of(".chart text", "fill"),
  line: of(".chart [id*=line2d] > path[style*='var(--line-0)']", "stroke"),
};
"""


def test_what_a_screen_reader_is_told(browser: "webdriver.Chrome") -> None:
    found = browser.execute_script(
        """
        const all = s => [...document.querySelectorAll(s)];
        return {
          alts: all("img").map(i => i.alt), broken: all("img").filter(i => !i.naturalWidth).length,
          levels: all("h1,h2,h3,h4,h5,h6").map(h => Number(h.tagName[1])),
          bare: all("table").filter(t => !t.caption || !t.caption.textContent.trim()).length,
          unscoped: all("th").filter(h => !["row", "col", "rowgroup"].includes(h.scope)).length,
          unheaded: all("tbody tr").filter(r => !r.querySelector("th")).length,
          figures: all("figure").filter(f => !f.querySelector("figcaption")
            || !f.querySelector("details table")).length,
          charts: all("svg").filter(s => s.getAttribute("aria-hidden") !== "true").length,
          labels: all("select").filter(s => !s.labels.length).length,
          cues: all(".hit, .miss").filter(l => !/[✓✗]/.test(l.textContent)).length,
          lang: document.documentElement.lang,
        }
        """
    )
    assert len(found["alts"]) > 50
    assert all("camera" in alt for alt in found["alts"])
    levels = found["levels"]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    for fault in ("broken", "bare", "unscoped", "unheaded", "figures", "charts", "labels", "cues"):
        assert found[fault] == 0, fault
    assert found["lang"] == "en"


def test_by_keyboard(browser: "webdriver.Chrome") -> None:
    browser.find_element("css selector", "body").send_keys(Keys.TAB)
    skip = browser.switch_to.active_element
    assert skip.text == "Skip to the numbers"
    assert skip.location["x"] >= 0
    style = "return getComputedStyle(document.activeElement).outlineStyle"
    assert browser.execute_script(style) == "solid"
    skip.send_keys(Keys.ENTER)
    assert browser.switch_to.active_element.get_attribute("id") == "main"
    summary = browser.find_element("css selector", "figure summary")
    summary.send_keys(Keys.ENTER)
    assert browser.execute_script("return document.querySelector('figure details').open")


def test_heat_tables_of_a_matrix(browser: "webdriver.Chrome") -> None:
    found = browser.execute_script(
        """
        const title = "mAP of people compared by query camera";
        const heat = document.querySelector(`[aria-label='${title}'] table`);
        const share = c => c.style.getPropertyValue("--share");
        const cells = [...heat.querySelectorAll("td")].filter(c => share(c));
        return {
          columns: [...heat.querySelectorAll("thead th")].map(h => h.textContent),
          groups: [...heat.querySelectorAll("[scope=rowgroup]")].map(h => h.textContent),
          colours: new Set(cells.map(c => getComputedStyle(c).backgroundColor)).size,
          shares: new Set(cells.map(share)).size,
          small: cells.filter(c => !c.querySelector("small")).length,
          apart: getComputedStyle(heat.tBodies[1]).borderTopWidth,
          best: [...heat.querySelectorAll("b")].map(b => getComputedStyle(b).fontWeight),
          words: [...heat.querySelectorAll("b")].every(b => /★.*best expert/.test(b.textContent)),
        }
        """
    )
    assert found["columns"][0] == "row"
    assert found["columns"][-1] == "all"
    assert found["groups"] == ["Experts", "Put together", "Controls"]
    assert found["colours"] == found["shares"] > 5
    assert found["small"] == 0
    assert found["apart"] == "3px"
    assert len(found["best"]) >= len(found["columns"]) - 2
    assert {int(weight) for weight in found["best"]} == {700}
    assert found["words"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_cells_can_be_read_on_their_colour(browser: "webdriver.Chrome", scheme: str) -> None:
    colours(browser, scheme)
    browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    pairs = browser.execute_script(
        """
        const canvas = document.createElement("canvas").getContext("2d", {colorSpace: "srgb"});
        const parts = colour => {
          canvas.fillStyle = colour;
          canvas.fillRect(0, 0, 1, 1);
          return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
        };
        const cells = [...document.querySelectorAll(".heat td[style], .heat td[style] small")];
        return cells.map(c => [
          parts(getComputedStyle(c).color),
          parts(getComputedStyle(c.closest("td")).backgroundColor),
        ]);
        """
    )
    assert len(pairs) > 50
    assert min(contrast(ink, ground) for ink, ground in pairs) >= 4.5
    assert len({tuple(ground) for _, ground in pairs}) > 10


def test_wide_tables_are_reached_and_scrolled_by_keyboard(browser: "webdriver.Chrome") -> None:
    screen(browser, 390)
    regions = browser.execute_script(
        """
        document.querySelectorAll("details").forEach(d => d.open = true);
        return [...document.querySelectorAll("table")].map(t => t.closest("[role=region]"))
          .map(r => r && [r.tabIndex, r.getAttribute("aria-label"), r.scrollWidth > r.clientWidth]);
        """
    )
    assert all(regions)
    assert all(order == 0 and label for order, label, _ in regions)
    assert any(label == "mAP by query camera" for _, label, _ in regions)
    assert len({label for _, label, _ in regions if "of matrix" in label}) == 1
    name = "[aria-label='Headline numbers of matrix']"
    wide = browser.find_element("css selector", name)
    assert browser.execute_script(
        "return arguments[0].scrollWidth > arguments[0].clientWidth", wide
    )
    left = "return document.querySelector(arguments[0]).scrollLeft"
    assert browser.execute_script(left, name) == 0
    browser.execute_script("arguments[0].focus()", wide)
    assert browser.execute_script("return document.activeElement === arguments[0]", wide)
    wide.send_keys(*[Keys.ARROW_RIGHT] * 3)
    deadline = time.monotonic() + 5  # scrolling is smooth
    while time.monotonic() < deadline and not browser.execute_script(left, name):
        time.sleep(0.05)
    assert browser.execute_script(left, name) > 0
    first = wide.find_element("css selector", "tbody th[scope=row]")
    assert first.rect["x"] == pytest.approx(wide.rect["x"], abs=1)  # the name stays in sight
