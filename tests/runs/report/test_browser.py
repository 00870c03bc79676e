"""The report in a real browser: it fetches nothing, and fits a phone in dark mode."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from camreid.data import Records
from camreid.runs.report.page import build_page
from tests.runs.folders import features, make_matrix, make_run

webdriver = pytest.importorskip("selenium.webdriver")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromium-driver"),
]


@pytest.fixture
def browser() -> Iterator["webdriver.Chrome"]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def test_the_page_on_a_phone_in_the_dark(
    browser: "webdriver.Chrome", tmp_path: Path, records: Records
) -> None:
    names = ("first", "a-long-name_without-a-space")
    runs = [make_run(tmp_path / name, features(records)) for name in names]
    path = tmp_path / "report.html"
    path.write_text(build_page([*runs, make_matrix(tmp_path / "matrix", records)]))
    size = {"width": 360, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
    browser.get(path.as_uri())
    sent = [json.loads(line["message"])["message"] for line in browser.get_log("performance")]
    sent = [m["params"] for m in sent if m["method"] == "Network.requestWillBeSent"]
    asked = {params["request"]["url"] for params in sent}
    assert {url for url in asked if not url.startswith("data:")} == {path.as_uri()}
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
    script = "return getComputedStyle(document.body).backgroundColor"
    assert browser.execute_script(script) == "rgb(18, 22, 27)"
    broken = "return [...document.images].filter(i => !i.naturalWidth).length"
    assert browser.execute_script(broken) == 0
