"""The page in a real browser: nothing fails, nothing leaves it, everything is seen, at every size and colour."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bottlekit.report.html import DemoReport, html_report

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, report: DemoReport) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(html_report(report), encoding="utf-8")
    return path


def opened(browser: Any, page: Path, width: int = 1280, scheme: str = "light") -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    browser.get(page.as_uri())


def requested(browser: Any) -> list[str]:
    """The address of everything the browser asked for since the page was opened."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]


def test_nothing_fails_and_nothing_leaves_the_page(browser: Any, page: Path) -> None:
    opened(browser, page)
    browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    browser.execute_script("window.scrollTo(0, document.body.scrollHeight)")
    assert browser.get_log("browser") == []
    requests = requested(browser)
    assert requests[0] == page.as_uri()
    assert [url for url in requests[1:] if not url.startswith("data:")] == []


def test_the_page_cannot_load_anything_even_if_told_to(browser: Any, page: Path, tmp_path: Path) -> None:
    told = tmp_path / "told.html"
    text = page.read_text(encoding="utf-8")
    told.write_text(text.replace("</main>", '<img src="http://127.0.0.1:9/x.png"></main>'), encoding="utf-8")
    opened(browser, told)
    assert any("Content Security Policy" in entry["message"] for entry in browser.get_log("browser"))


@pytest.mark.parametrize("width", [390, 1280])
def test_every_row_and_picture_is_rendered(browser: Any, page: Path, report: DemoReport, width: int) -> None:
    opened(browser, page, width)
    rows = browser.execute_script(
        "return [...document.querySelectorAll('#table tbody tr')].map(r => [r.cells[0].innerText, r.offsetHeight])"
    )
    assert [name for name, _ in rows] == [row[0].value for row in report.table.rows]
    assert all(height > 20 for _, height in rows)
    sizes = browser.execute_script(
        "return [...document.querySelectorAll('#pictures svg')].map(s => s.getBoundingClientRect())"
        ".map(b => [b.width, b.height])"
    )
    assert len(sizes) == len(report.pictures)
    assert all(w >= 500 and h >= 100 for w, h in sizes), sizes
    images = browser.execute_script(
        "return Promise.all([...document.querySelectorAll('svg image')].map(i => { const img = new Image();"
        " img.src = i.href.baseVal; return img.decode().then(() => img.naturalWidth); }))"
    )
    assert images
    assert all(wide > 0 for wide in images)


@pytest.mark.parametrize("width", [320, 390, 768, 1280, 1920])
def test_only_tables_and_pictures_scroll_sideways(browser: Any, page: Path, width: int) -> None:
    opened(browser, page, width)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


CONTRAST = """
const parse = c => c.match(/[\\d.]+/g).map(Number);
const light = c => c.slice(0, 3).map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
const ground = e => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor);
  if (c.length < 4 || c[3] > 0) return c; } return [255, 255, 255]; };
document.querySelectorAll('details').forEach(d => d.open = true);
const worst = [...document.querySelectorAll('body *')]
  .filter(e => !e.closest('svg') && [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()))
  .map(e => { const a = light(parse(getComputedStyle(e).color)), b = light(ground(e));
    return [(Math.max(a, b) + .05) / (Math.min(a, b) + .05), e.outerHTML.slice(0, 80)]; })
  .sort((x, y) => x[0] - y[0])[0];
const text = document.querySelector('#pictures svg text');
const drawing = (x => (Math.max(...x) + .05) / (Math.min(...x) + .05))(
  [light(parse(getComputedStyle(text).fill)), light(ground(text.closest('.picture')))]);
return [worst, drawing];
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_word_can_be_read(browser: Any, page: Path, scheme: str) -> None:
    opened(browser, page, scheme=scheme)
    background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 22, 26)"}[scheme]
    (worst, element), drawing = browser.execute_script(CONTRAST)
    assert worst >= 4.5, element
    assert drawing >= 4.5
