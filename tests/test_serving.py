"""The page and the JSON interface of `a2d serve`: answers, limits, a real browser."""

import json
import re
import shutil
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a2d import UserError
from a2d.models.export import export
from a2d.models.translator import open_translator
from a2d.serving import Limits, RateLimit, Service, serve

pytest.importorskip("gradio", reason="Gradio is not installed")
gradio_client = pytest.importorskip("gradio_client")
sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
TEXT = "Restart the browser.\nSave the file."
HOSTILE = "<img src=x onerror=\"document.title = 'owned'\">"


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 30)), max_size=40))
def test_requests_are_counted_as_by_a_naive_count(requests):
    limit, now, accepted = RateLimit(3), 0.0, []
    for address, pause in requests:
        now += pause
        recent = [time for other, time in accepted if other == address and time > now - 60]
        allowed = limit.allows(address, now)
        assert allowed == (len(recent) < 3)
        if allowed:
            accepted.append((address, now))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "fast"
    export("builtin:en-pt", folder, "int8")
    return ["builtin:en-pt", str(folder)]


@pytest.fixture(scope="module")
def service(models):
    return Service(models, Limits(characters=100, lines=3))


def test_every_model_translates_every_line(service, models):
    answers = service.translate(TEXT)
    assert list(answers) == ["builtin:en-pt", "fast"]
    for model, answer in zip(models, answers.values(), strict=True):
        best = [lists[0].text for lists in open_translator(model).n_best(TEXT.split("\n"))]
        assert answer["translations"] == best
        assert answer["seconds"] > 0


@pytest.mark.parametrize("text", ["x" * 101, "a\nb\nc\nd"])
def test_large_texts_are_refused(service, text):
    with pytest.raises(UserError, match="at most 100 and 3 are translated at once"):
        service.translate(text)


def test_slow_translations_end(models):
    with pytest.raises(UserError, match="takes more than 0 s: give less text"):
        Service(models[:1], Limits(seconds=0)).translate(TEXT)


def test_models_that_cannot_be_told_apart_are_refused():
    with pytest.raises(UserError, match="given twice"):
        Service(["builtin:en-pt"] * 2, Limits())


@pytest.fixture(scope="module")
def address(models):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    limits = Limits(characters=200, lines=3, requests_per_minute=25)
    app = serve(models, port=port, limits=limits, wait=False)
    yield f"http://127.0.0.1:{port}"
    app.close()


def test_the_interface_answers_in_json(address, service):
    client = gradio_client.Client(address, verbose=False)
    answer = client.predict(TEXT, api_name="/translate")
    assert json.loads(json.dumps(answer)) == answer
    expected = service.translate(TEXT)
    assert {name: each["translations"] for name, each in answer.items()} == {
        name: each["translations"] for name, each in expected.items()
    }
    with pytest.raises(Exception, match="are translated at once"):
        client.predict("x" * 201, api_name="/translate")
    assert list(client.view_api(return_format="dict")["named_endpoints"]) == ["/translate"]


@pytest.fixture(params=[1200, 390], ids=["desktop", "phone"])
def page(address, request):
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": request.param, "height": 900})
        elsewhere = []
        page.on(
            "request", lambda r: r.url.startswith((address, "data:")) or elsewhere.append(r.url)
        )
        page.goto(address)
        yield page
        assert elsewhere == []
        assert "owned" not in page.title()
        browser.close()


def test_in_a_browser(page, service):
    page.get_by_label("Text", exact=True).fill(f"{TEXT}\n{HOSTILE}")
    page.get_by_role("button", name="Translate").click()
    for name in service.names:
        box = page.get_by_label(name, exact=True).first
        first, second = map(re.escape, service.translate(TEXT)[name]["translations"])
        sync_api.expect(box).to_have_value(re.compile(f"^{first}\n{second}\n"), timeout=30_000)
    sync_api.expect(page.get_by_text(re.compile(r"^\d+ ms$"))).to_have_count(2)
    page.get_by_text("Attention of the first line").click()
    page.get_by_role("button", name="Draw").click()
    # An export has no attention to show.
    sync_api.expect(page.get_by_test_id("matplotlib")).to_have_count(1, timeout=30_000)


def test_too_many_requests_wait(address):
    client = gradio_client.Client(address, verbose=False)

    def ask_often():
        for _ in range(30):
            client.predict("a", api_name="/translate")

    with pytest.raises(Exception, match="too many requests: wait a minute"):
        ask_often()
