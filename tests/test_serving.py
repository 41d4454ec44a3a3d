"""The page and the JSON interface of `a2d serve`: answers, limits, a real browser."""

import json
import re
import secrets
import shutil
import socket
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a2d import UserError
from a2d.models.export import export
from a2d.models.translator import open_translator
from a2d.serving import Limits, RateLimit, Service, build_app, serve

pytest.importorskip("gradio", reason="Gradio is not installed")
gradio_client = pytest.importorskip("gradio_client")
get_upload_folder = pytest.importorskip("gradio.utils").get_upload_folder
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
    limits = Limits(characters=200, lines=3, requests_per_minute=70)
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


@pytest.fixture
def post(address, capfd):
    """Function that posts JSON; returns status and text. No traceback may be logged."""

    def post(path, content, kind="application/json"):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        place = f"{address}/gradio_api/{path}"
        request = urllib.request.Request(place, body, {"Content-Type": kind})
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    yield post
    assert "Traceback" not in "".join(capfd.readouterr())


def last_event(address, path):
    """Last data of a stream of events."""
    with urllib.request.urlopen(f"{address}/gradio_api/{path}", timeout=60) as stream:
        return json.loads([line for line in stream if line.startswith(b"data:")][-1][5:])


@pytest.mark.parametrize(
    "data", [[123], [None], [["x"]], [{"a": 1}], [], [True], [{"path": "/etc/passwd"}]]
)
def test_input_that_is_no_text_ends_in_one_sentence(address, post, data):
    status, text = post("call/translate", {"data": data})
    assert status == 200
    event = last_event(address, f"call/translate/{json.loads(text)['event_id']}")
    assert re.fullmatch(r"the input is not .*: send one string\.", event["error"])
    status, text = post("run/translate", {"data": data})
    assert status == 500
    assert json.loads(text)["error"] == event["error"]


@pytest.mark.parametrize(
    ("path", "content", "sentence"),
    [
        ("call/translate", {"data": ["a\ud800"]}, "the request is not JSON with valid Unicode."),
        ("run/translate", b'{"data": [', "the request is not JSON with valid Unicode."),
        ("queue/join", b'{"data": [NaN]}', "the request is not JSON with valid Unicode."),
        ("queue/join", b"[" * 5000, "the request is not JSON with valid Unicode."),
        ("queue/join", b'{"data": ["a"], "fn_index": 1e400}', "is not JSON with valid Unicode."),
        ("queue/join", b'{"data": [1' + b"0" * 400 + b"]}", "is not JSON with valid Unicode."),
        ("call/translate", ["a"], "the request is not a JSON object."),
        ("call/v2/translate", {"x": 1}, 'other keys than "text"'),
        ("call/v2/translate", {}, 'other keys than "text"'),
    ],
)
def test_requests_that_are_no_json_end_in_one_sentence(post, path, content, sentence):
    status, text = post(path, content)
    assert status == 400
    assert sentence in json.loads(text)["error"]


@pytest.mark.parametrize("number", [-1, 3, 99, 10**30, "x", None])
def test_unknown_functions_end_in_one_sentence(post, number):
    content = {"data": ["a"], "fn_index": number, "session_hash": "x"}
    status, text = post("queue/join", content)
    assert 400 <= status < 500
    assert list(json.loads(text)) in (["error"], ["detail"])


@pytest.mark.parametrize(
    "path", ["call/translate/nosuch", "call/v2/translate/nosuch2", "queue/data?session_hash=nosuch"]
)
def test_unknown_results_end(address, post, path):
    with urllib.request.urlopen(f"{address}/gradio_api/{path}", timeout=60) as stream:
        assert b"404" in stream.read()


def test_a_result_is_fetched_once(address, post):
    _, text = post("call/translate", {"data": ["Save the file."]})
    place = f"{address}/gradio_api/call/translate/{json.loads(text)['event_id']}"
    with urllib.request.urlopen(place, timeout=60) as stream:
        assert b"event: complete" in stream.read()
    with pytest.raises(urllib.error.HTTPError) as refusal:
        urllib.request.urlopen(place, timeout=60)
    assert json.loads(refusal.value.read())["error"].startswith("this result was fetched before")


def test_nothing_can_be_uploaded(post):
    name = secrets.token_hex(8)
    head = f'Content-Disposition: form-data; name="files"; filename="{name}"'
    part = f"--x\r\n{head}\r\n\r\na\r\n--x--\r\n".encode()
    for path in ("upload", "upload/", "process_recording", "component_server", "vibe-edit"):
        status, text = post(path, part, "multipart/form-data; boundary=x")
        assert (status, json.loads(text)["error"]) == (404, "nothing can be sent to this address.")
    assert list(Path(get_upload_folder()).rglob(name)) == []


def test_large_requests_are_refused_before_they_are_read(post):
    for path in ("queue/join", "call/translate"):
        status, text = post(path, {"data": ["x" * 50_000]})
        assert status == 413
        assert "more than 17,200 bytes: send less text" in json.loads(text)["error"]


def test_attention_has_the_limits_of_translation(address, post, service):
    with urllib.request.urlopen(f"{address}/config", timeout=60) as reply:
        functions = json.load(reply)["dependencies"]
    (place,) = [each["id"] for each in functions if len(each["inputs"]) == 4]

    def draw(*data):
        session = secrets.token_hex(8)
        status, text = post(
            "queue/join", {"data": data, "fn_index": place, "session_hash": session}
        )
        assert status == 200, text
        event = last_event_of_queue(address, session)
        return None if event["success"] else event["output"]["error"]

    assert draw("cross", 1, "Save the file.", "Salvar o ficheiro.") is None
    long = "the text has 201 characters and 1 lines: at most 200 and 3"
    assert long in draw("cross", 1, "x" * 201, "y")
    assert long in draw("cross", 1, "x", "y" * 201)
    assert "has 7 characters and 4 lines" in draw("cross", 1, "a\nb\nc\nd", "y")
    assert "tokens: attention of at most 100 is drawn" in draw("cross", 1, "; " * 100, "y")
    assert draw("cross", 1, "x", 5) == draw("cross", 1, "x", "5")  # a text box holds text
    assert "translate a text first" in draw("cross", 1, "", "")
    for data in (["x", 1, "a", "b"], ["cross", "x", "a", "b"], ["cross", -5, "a", "b"], []):
        assert "the input is not what is expected" in draw(*data)
    assert "the head is not a number" in draw("cross", None, "a", "b")


def last_event_of_queue(address, session):
    place = f"{address}/gradio_api/queue/data?session_hash={session}"
    with urllib.request.urlopen(place, timeout=60) as stream:
        for line in stream:
            if b"process_completed" in line:
                return json.loads(line[5:])
    raise AssertionError("the stream ended")


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
        for _ in range(80):
            client.predict("a", api_name="/translate")

    with pytest.raises(Exception, match="too many requests: wait a minute"):
        ask_often()


def test_pictures_are_counted_with_translations(models):
    """A picture is a request: after one, an address with one request a minute gets nothing."""
    app = build_app(models[:1], Limits(requests_per_minute=1))
    draw, answer = (
        next(f.fn for f in app.fns.values() if f.fn.__name__ == name) for name in ("draw", "answer")
    )
    request = SimpleNamespace(client=SimpleNamespace(host="a"))
    draw(request, "cross", 1, "a", "b")
    for again in (lambda: draw(request, "cross", 1, "a", "b"), lambda: answer("a", request)):
        with pytest.raises(Exception, match="too many requests"):
            again()
