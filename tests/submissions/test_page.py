"""Opens the report in a real browser: in two widths, light and dark, with scripts off too."""

import base64
import itertools
import json
import shutil

import numpy as np
import pytest

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars")
PIXEL = 0.5  # positions in the SVG are rounded to hundredths of its units


@pytest.fixture(scope="session")
def browser():
    """Debian's Chromium, without a window."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install -e '.[dev]'")
    if not CHROMIUM or not DRIVER:
        pytest.skip("no chromium here: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER)) as driver:
        yield driver


@pytest.fixture(scope="module")
def report(reported):
    """(the page, the numbers beside it) of a tiny competition that has gone the whole way."""
    return reported[1].path, reported[2]


@pytest.fixture(scope="module")
def opened(browser, report):
    """The browser with the page open, and what it asked for and complained of until then; tests change the form."""
    show(browser)
    browser.get(report[0].as_uri())
    wait_until(browser, lambda one: one.execute_script("return document.readyState") == "complete")
    return browser


def wait_until(browser, is_so):
    """On a busy machine `get` may return before all of the page is read."""
    pytest.importorskip("selenium.webdriver.support.ui").WebDriverWait(browser, 60).until(is_so)


def size_of(browser):
    return browser.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]


def show(browser, *, width=1280, scheme="light", media=""):
    """As on a screen of that width, or on paper."""
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})


def picture(browser):
    size = size_of(browser)
    clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
    shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
    return base64.b64decode(shot["data"])


def test_the_page_opens_without_an_error_or_a_request_and_fits_the_screen(opened, report):
    for width, scheme in itertools.product((390, 1280), ("light", "dark")):
        show(opened, width=width, scheme=scheme)
        assert size_of(opened)["width"] == width
        wide = "return [...document.querySelectorAll('.table')].filter(one => one.scrollWidth > one.clientWidth).length"
        assert opened.execute_script(wide) == 0
    assert opened.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    asked = [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith("data:")] == [report[0].as_uri()]


def test_dark_is_dark_and_paper_is_white(opened):
    def colour(of, **screen):
        show(opened, **screen)
        return opened.execute_script(f"return getComputedStyle(document.body).{of}.match(/[0-9.]+/g).map(Number)")

    assert min(colour("backgroundColor", scheme="light")) > 200
    assert max(colour("backgroundColor", scheme="dark")) < 60
    assert max(colour("color", scheme="dark", media="print")[:3]) < 60


def test_every_picture_and_chart_has_words_and_every_id_is_there_once(opened):
    mute = "return [...document.querySelectorAll('img, svg')].filter(one => !(one.alt || one.ariaLabel)).length"
    assert opened.execute_script(mute) == 0
    ids = opened.execute_script("return [...document.querySelectorAll('[id]')].map(one => one.id)")
    assert [one for one in set(ids) if ids.count(one) > 1] == []
    assert opened.execute_script("return document.querySelectorAll('img').length") > 20


def test_the_charts_are_those_of_the_json_and_show_its_numbers(opened, report):
    said = report[1]
    show(opened)
    shown = opened.execute_script("return [...document.querySelectorAll('svg[data-chart]')].map(s => s.dataset.chart)")
    assert sorted(shown) == sorted(said["charts"])
    for chart in said["charts"].values():
        CHECKS[chart["kind"]](opened, chart)


def test_the_page_looks_the_same_with_scripts_off(opened, report):
    show(opened)
    size, seen = size_of(opened), picture(opened)
    opened.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    opened.get(report[0].as_uri())
    wait_until(opened, lambda one: size_of(one) == size)
    assert picture(opened) == seen
    assert opened.get_log("browser") == []


def check_bars(browser, chart):
    boxes = [box(browser, f"{chart['key']}-{i}") for i in range(len(chart["values"]))]
    if chart["is_log"]:
        assert_on_a_scale(np.log(chart["values"]), [one["y"] for one in boxes])
    else:
        assert_on_a_scale(chart["values"], [one["height"] for one in boxes], through_zero=True)


def check_ranges(browser, chart):
    shown = {i: value for i, value in enumerate(chart["values"]) if value <= chart["end"]}
    assert_on_a_scale(list(shown.values()), [box(browser, f"{chart['key']}-{i}")["x"] for i in shown])


def check_lines(browser, chart):
    """The places of all points of all lines."""
    drawn = "[...document.getElementById(arguments[0]).querySelector('polyline').points]"
    values, places = {"x": [], "y": []}, []
    for i, one in enumerate(chart["series"]):
        places += browser.execute_script(f"return {drawn}.map(one => [one.x, one.y])", f"{chart['key']}-{i}")
        values["x"] += one["x"]
        values["y"] += one["y"]
    assert_on_a_scale(np.log(values["x"]) if chart["is_log_x"] else values["x"], [x for x, _ in places])
    assert_on_a_scale(values["y"], [y for _, y in places])


def check_points(browser, chart):
    drawn = "[...document.getElementById(arguments[0]).querySelectorAll('circle')]"
    script = f"return {drawn}.map(one => [one.cx.baseVal.value, one.cy.baseVal.value])"
    places = np.array(browser.execute_script(script, f"{chart['key']}-points"))
    assert len(places) == len(chart["labels"])
    logs = (chart["is_log"], chart["is_log"] and chart["has_diagonal"])
    for values, is_log, centres in zip((chart["x"], chart["y"]), logs, places.T, strict=True):
        shown = np.array(values) > 0 if is_log else np.full(len(values), True)  # zeros have no place on a log axis
        assert_on_a_scale(np.log(np.array(values)[shown]) if is_log else values, centres[shown])


CHECKS = {"bars": check_bars, "ranges": check_ranges, "lines": check_lines, "points": check_points}


def box(browser, name):
    """Left edge, top and height of an element, in the units of its SVG."""
    script = "const b = document.getElementById(arguments[0]).getBBox(); return {x: b.x, y: b.y, height: b.height}"
    return browser.execute_script(script, name)


def assert_on_a_scale(values, places, *, through_zero=False):
    """Positions are a straight function of the values."""
    values, places = np.array(values, float), np.array(places, float)
    columns = [values] if through_zero else [values, np.ones(len(values))]
    fit, *_ = np.linalg.lstsq(np.stack(columns, axis=1), places, rcond=None)
    assert np.abs(np.stack(columns, axis=1) @ fit - places).max() < PIXEL
    assert np.ptp(values) == 0 or abs(fit[0]) * np.ptp(values) > 10  # and they differ to the eye
