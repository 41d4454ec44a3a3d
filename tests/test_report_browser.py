"""The report in a real browser: it loads without errors, and its controls work."""

import base64
import shutil
from dataclasses import replace

import pytest
from test_report import HOSTILE, REFERENCES, SOURCES, damaged

from a2d.report.comparison import Comparison, System
from a2d.report.details import Details
from a2d.report.page import write_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")

GROUPS = ("encoder", "decoder", "cross")


def details():
    packed = {
        "channels": 2,
        "queries": 14,
        "keys": 14,
        "heads": 2,
        "maps": base64.b64encode(bytes(i * i % 251 for i in range(2 * 14 * 14))).decode(),
    }
    maps = {"teacher": packed, "student": packed, "aligned": packed, "strongest": [1, 0]}
    weights = [[(row * column % 7 - 3) / 3 for column in range(12)] for row in range(16)]
    alignment = {"weights": weights, "student": 2, "teacher": 4}
    log = [{"step": s, "epoch": s / 2, "seconds": 9.0 * s, "eval_chrf": 10.0 * s} for s in (1, 2)]
    return Details(
        curves={"teacher": log, "kd": log},
        alignments={"kd-seed1": dict.fromkeys(GROUPS, alignment)},
        attention=[
            {
                "source": HOSTILE[0],
                **{
                    f"{side}Tokens": ["<b>", *"abcdefghijkl", "."]
                    for side in ("source", "target", "input")
                },
                "groups": dict.fromkeys(GROUPS, maps),
            }
        ],
        funnel=[("pairs read", 100), ("kept", 90)],
        recipe="name: <b>",
        facts={"torch": "2"},
        commands=[("Again:", "a2d run <b>")],
    )


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    hostile = [*HOSTILE, *damaged(0.5, 2)[len(HOSTILE) :]]
    systems = [
        System("teacher", "teacher", damaged(0.2, 1), "teacher", "3+3×4", 2_000_000, 20.0),
        System("kd-seed1", "kd", hostile, "student", "1+1×4", 500_000, 40.0, 60.0),
        System("copy", "copy", SOURCES, "student", "1+1×4", 100_000, 50.0, 60.0),
    ]
    rarest = [index % 150 for index in range(len(SOURCES))]
    compared = Comparison("Test", ("de", "dsb"), SOURCES, REFERENCES, systems, rarest)
    write_page(path, compared, details())
    return path


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(params=[1200, 390], ids=["desktop", "phone"])
def page(browser, page_file, request):
    """Open the page; at the end nothing may have gone wrong in it."""
    page = browser.new_page(viewport={"width": request.param, "height": 900})
    errors = []
    page.on("console", lambda message: errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda each: each.url.startswith("file:") or errors.append(each.url))
    page.goto(page_file.as_uri())
    yield page
    assert errors == []
    assert page.title() == "Test"  # no hostile text has run
    page.close()


def segments(page):
    return page.locator(".segment .place").all_inner_texts()


def test_every_section_is_visible_and_fits(page):
    assert page.locator("section").count() == 9
    for section in page.locator("section").all():
        assert section.is_visible()
        assert len(section.inner_text()) > 20 or section.locator("svg").count()
    for name in ("front", "bucket-charts", "curves", "alignments", "maps"):
        assert page.locator(f"#{name} svg").count() >= 1, name
    assert page.locator("#alignments svg").count() == page.locator("#maps svg").count() == 3
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= page.viewport_size["width"]


LONG_NAMES = (
    "opus-mt-tc-big-en-pt-finetuned-on-localisation-2024-11",
    "x" * 320,
    "a name of several words " * 10,
)


def export_of(name, problem):
    scores = {"bleu": 20.0, "original_bleu": 20.1, "chrf": 50.0, "original_chrf": 50.1}
    return {"name": name, "problem": problem, "changed": 3, "sentences": 100, **scores}


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", LONG_NAMES, ids=["usual", "one word", "words"])
def test_long_names_do_not_widen_the_page(browser, tmp_path, name, width):
    problem = "its BLEU is 1.32 below the model's, and at most 0.30 is accepted"
    systems = [
        System("teacher", "teacher", damaged(0.2, 1), "teacher", "3+3×4", 2_000_000, 20.0),
        System("1", name, damaged(0.5, 2), "student", "1+1×4", 500_000, 40.0, 60.0),
        System("2", f"{name} 2", damaged(0.5, 3), "student", "1+1×4", 100_000, 50.0, 60.0),
    ]
    compared = Comparison("Test " + name, ("de", "dsb"), SOURCES, REFERENCES, systems, None)
    run = details()
    run = replace(
        run,
        alignments={name: run.alignments["kd-seed1"]},
        curves={"teacher": run.curves["teacher"], name: run.curves["kd"]},
        exports=[export_of("int8", None), export_of(name, problem)],
    )
    write_page(tmp_path / "long.html", compared, run)
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto((tmp_path / "long.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for table in ("scores", "exports", "failures"):
        box = page.locator(f"#{table} tbody tr").nth(1).locator("th").bounding_box()
        assert box["x"] + box["width"] <= 0.6 * width, table  # figures beside the name
    verdicts = page.locator("#exports td", has_text="faithful").or_(
        page.locator("#exports td", has_text="refused")
    )
    assert verdicts.count() == 2
    for verdict in verdicts.all():  # without scrolling
        box = verdict.bounding_box()
        assert box["x"] + box["width"] <= width
    page.close()


def test_tables_are_sorted_by_number(page):
    heads = page.locator("#scores thead th")
    heads.filter(has_text="parameters").click()
    column = "#scores tbody tr th"
    assert page.locator(column).all_inner_texts() == ["teacher", "kd", "copy"]
    heads.filter(has_text="parameters").click()
    assert page.locator(column).all_inner_texts() == ["copy", "kd", "teacher"]


def test_a_failure_s_number_shows_its_segments(page):
    count = page.locator("#failures tr", has_text="copy").locator("button[data-kind=copied]")
    number = int(count.inner_text())
    count.click()
    assert f"of {number} segments" in page.locator("#browser").inner_text()
    assert page.locator(".segment .tag", has_text="copied source").count() >= 10


def test_search_order_and_pages(page):
    box = page.locator("input[type=search]")
    box.fill(REFERENCES[50])
    assert "#51" in segments(page)
    box.fill("document.title")
    assert set(segments(page)) == {"#1", "#2", "#3"}
    shown = page.locator(".segment dd").all_inner_texts()
    assert any(text.startswith(HOSTILE[0]) for text in shown)
    box.fill("")
    page.locator("#browser select").nth(1).select_option("place")
    assert segments(page) == [f"#{place}" for place in range(1, 11)]
    page.get_by_role("button", name="Next").click()
    assert segments(page)[0] == "#11"
    page.get_by_role("button", name="Previous").click()
    assert segments(page)[0] == "#1"
    box.fill("xyzzy")
    assert segments(page) == []


def test_differences_are_marked_and_nothing_is_lost(page):
    page.locator("#browser select").nth(1).select_option("place")
    texts = page.locator(".segment").nth(5).locator("dd").all_inner_texts()
    assert texts[:3] == [SOURCES[5], REFERENCES[5], damaged(0.2, 1)[5]]
    assert page.locator(".segment ins").count() > 0


def test_a_pointer_shows_figures(page):
    circle = page.locator("#front svg circle").first
    circle.scroll_into_view_if_needed()
    circle.hover(force=True)
    page.wait_for_function("document.querySelector('#front [aria-label=tip]').textContent.length")
    assert "BLEU" in page.locator("#front [aria-label=tip]").text_content()


def test_charts_follow_their_choices(page):
    before = page.locator("#front svg").inner_html()
    page.locator("#front select").first.select_option("bleu")
    assert page.locator("#front svg").inner_html() != before
    page.locator("#maps select").nth(2).select_option("1")
    assert "layer 1, head 1" in page.locator("#maps figcaption").last.inner_text()


def test_it_works_in_the_dark(browser, page_file):
    colours = []
    for scheme in ("light", "dark"):
        page = browser.new_page(color_scheme=scheme)
        page.goto(page_file.as_uri())
        colours.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        page.close()
    assert colours == ["rgb(255, 255, 255)", "rgb(20, 24, 31)"]
