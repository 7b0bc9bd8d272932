"""The page in a real browser: its tables sort, its plots are drawn, and nothing leaves it.

Where there is no Chromium this is skipped, but not where HARNESS_CI is set.
"""

import functools
import os
import re

import pytest

from harness.report import html, summarise
from harness.report.plots import COLORS, INK
from harness.report.speeds import gather
from harness.results import Divergence, Kind, Verdict
from tests.report import chromium
from tests.report.speeds_by_hand import bench, everything, row

HOSTILE = """<script>document.title = "run"</script><img src=x onerror="document.title='run'">&amp;'"`${1}"""


@pytest.fixture(scope="module")
def browser():
    if chromium.find() is None:
        missing = f"needs {chromium.NAMES[0]} (Debian: apt-get install chromium)"
        if os.environ.get("HARNESS_CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    with chromium.Chromium() as found:
        yield found


@functools.cache
def page():
    return html.render(None, everything())


def opened(browser, tmp_path, content):
    path = tmp_path / "page.html"
    path.write_text(content, "utf-8")
    browser.open(path)
    return path.resolve().as_uri()


def column(browser, label, number):
    """The texts of a column of the table with a label."""
    rows = f"""[...document.querySelector('table[aria-label="{label}"]').tBodies[0].rows]"""
    return browser.value(f"{rows}.map(row => row.cells[{number}].textContent)")


def heading(label, number):
    return f"""document.querySelectorAll('table[aria-label="{label}"] thead button')[{number}]"""


def test_a_request_that_a_page_makes_is_seen(browser, tmp_path):
    url = "http://example.invalid/x.png"
    own = opened(browser, tmp_path, f'<!doctype html><title>x</title><img src="{url}">')
    assert browser.requests == [own, url]


def test_nothing_leaves_the_page_and_the_browser_has_no_complaint(browser, tmp_path):
    verdict = Verdict("once", "c", "gqa", Kind.MISMATCH, divergence=Divergence(1, 2, 3, 4, 1.0, 0.1, "a", "b", "c"))
    own = opened(browser, tmp_path, html.render(summarise([verdict]), everything()))
    assert [url for url in browser.requests if url != "data:,"] == [own]
    assert browser.complaints == []
    assert browser.value("document.title") == "Conformance: fail; Speed"


def test_the_policy_of_the_page_forbids_what_is_not_in_it(browser, tmp_path):
    opened(browser, tmp_path, page())
    tried = (
        "new Promise(done => { document.addEventListener('securitypolicyviolation', e => done(e.blockedURI)); %s })"
    )
    assert browser.value(tried % "new Image().src = 'http://example.invalid/x.png'") == "http://example.invalid/x.png"
    assert browser.value(tried % "fetch('http://example.invalid/y').catch(() => 0)") == "http://example.invalid/y"
    inline = "document.body.append(Object.assign(document.createElement('script'), {text: 'document.title = 1'}))"
    assert browser.value(tried % inline) == "inline"
    assert browser.value("document.title") == "Speed"


def test_a_table_sorts_by_the_column_that_is_pressed(browser, tmp_path):
    opened(browser, tmp_path, page())
    assert column(browser, "In detail", 2) == ["100", "250", "", "180", "300"]
    browser.press(heading("In detail", 2))  # numbers: the largest first, and what is empty last
    assert column(browser, "In detail", 2) == ["300", "250", "180", "100", ""]
    browser.press(heading("In detail", 2))
    assert column(browser, "In detail", 2) == ["100", "180", "250", "300", ""]
    browser.press(heading("In detail", 1))  # names: in alphabetical order
    assert column(browser, "In detail", 1) == ["c", "c", "c-q8", "ts", "zig"]
    sorts = "[...document.querySelectorAll('table[aria-label=\"In detail\"] th')].map(th => th.ariaSort)"
    assert browser.value(sorts)[:3] == ["none", "ascending", "none"]


def test_numbers_sort_as_numbers_whatever_they_look_like(browser, tmp_path):
    rows = [row(f"p{n}", tps) for n, tps in enumerate((9.5, 1234.5, 0.003, 87.0))]
    opened(browser, tmp_path, html.render(None, gather([bench(*rows)])))
    browser.press(heading("In detail", 2))
    assert column(browser, "In detail", 2) == ["1,234", "87.0", "9.50", "0.003"]


def test_a_heading_can_be_pressed_by_the_keyboard(browser, tmp_path):
    opened(browser, tmp_path, page())
    browser.value(f"{heading('In detail', 2)}.focus()")
    for kind in ("keyDown", "keyUp"):
        browser.ask(
            "Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13, text="\r"
        )
    assert column(browser, "In detail", 2)[0] == "300"


def test_every_plot_is_drawn(browser, tmp_path):
    found = everything()
    opened(browser, tmp_path, html.render(None, found))
    titles = browser.value("[...document.querySelectorAll('figcaption')].map(e => e.textContent)")
    groups = ["15M fp32, 1 thread", "15M fp32, 2 threads", "15M int8, 1 thread"]
    assert titles == [*groups, groups[0], *groups]  # speeds, shares of limits, contexts
    # The topmost thing in the middle of each bar is the bar, in the colour of its program.
    drawn = browser.value(
        f"const ink = '{INK}';"
        + """
        [...document.querySelectorAll('figure')].map(figure => {
          figure.scrollIntoView({block: 'center', behavior: 'instant'});
          const marks = [...figure.querySelectorAll('.mark-rect path')];  // bars, and the ticks of single rounds
          return marks.filter(mark => mark.getAttribute('fill') !== ink).map(bar => {
            const box = bar.getBoundingClientRect();
            const top = document.elementFromPoint(box.x + box.width / 4, box.y + 3);
            return top === bar && box.width > 20 ? bar.getAttribute('fill') : null;
          });
        })"""
    )
    assert drawn[:4] == [[COLORS[0], COLORS[1]], [COLORS[0]], [COLORS[0]], [COLORS[0], COLORS[1]]]
    lines = browser.value(
        "[...document.querySelectorAll('figure')[4].querySelectorAll('.mark-line path')].map(e => e.getTotalLength())"
    )
    assert lines[0] > 50  # the program with two stretches of the context
    words = browser.value("[...document.querySelectorAll('figure [role=img]')].map(e => e.ariaLabel)")
    assert words[0] == "c 100 tok/s; zig 250 tok/s"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_on_either_background(browser, tmp_path, scheme):
    opened(browser, tmp_path, page())
    browser.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    background = browser.value("getComputedStyle(document.body).backgroundColor")
    inks = browser.value("""
        [...document.querySelectorAll('p, td, th, dt, dd, figcaption, a, summary, footer')]
          .map(e => getComputedStyle(e).color)
          .concat([...document.querySelectorAll('figure svg text')].map(e => getComputedStyle(e).fill))""")
    assert (luminance(background) > 0.5) == (scheme == "light")
    assert min(contrast(ink, background) for ink in set(inks)) >= 4.5
    assert min(contrast(rgb(color), background) for color in COLORS) >= 3


def test_nothing_is_wider_than_the_window(browser, tmp_path):
    opened(browser, tmp_path, page())
    for width in (1280, 390):
        browser.ask("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)
        assert browser.value("document.documentElement.scrollWidth") <= width
    browser.ask("Emulation.clearDeviceMetricsOverride")


def test_names_of_programs_are_text_and_nothing_else(browser, tmp_path):
    opened(browser, tmp_path, html.render(None, gather([bench(row(HOSTILE), row("c"))])))
    assert browser.value("document.title") == "Speed"
    assert browser.value("document.scripts.length") == 1
    assert browser.value("document.images.length") == 0
    assert browser.complaints == []
    assert column(browser, "In detail", 1) == [HOSTILE, "c"]


# ---- contrast, as the Web Content Accessibility Guidelines define it


def rgb(color):
    return f"rgb({int(color[1:3], 16)}, {int(color[3:5], 16)}, {int(color[5:7], 16)})"


def luminance(color):
    parts = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(a, b):
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)
