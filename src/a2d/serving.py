"""A page and a JSON interface to try models side by side, by Gradio (`a2d serve`).

from a2d.serving import build_app

build_app(["me/teacher", "me/student"]).launch()   # app.py of a Hugging Face Space
"""

from __future__ import annotations

import math
import os
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from matplotlib.figure import Figure

from a2d.errors import UserError, missing_library
from a2d.families import Geometry
from a2d.method.attention import GROUPS, enable_capture
from a2d.models.translator import Translator, open_translator
from a2d.runs.attention import encode, features_of, tokens_of
from a2d.runs.plots import TITLES
from a2d.serving_gate import Gate
from a2d.text.entities import printable
from a2d.text.pairs import Pair

MAX_DRAWN = 100
"""Most tokens of a sentence whose attention is drawn: more cannot be read."""

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Limits:
    """Limits of a request, for text or for a picture, so that nobody can occupy the machine.

    Attributes:
        characters: longest text.
        lines: most lines of a text; each line is translated by itself.
        seconds: time after which a translation stops between two lines.
        requests_per_minute: most requests of one address in a minute.
        waiting: most requests that wait for their turn; one is served at a time.
    """

    characters: int = 2_000
    lines: int = 20
    seconds: float = 30.0
    requests_per_minute: int = 30
    waiting: int = 20

    def check(self, text: Any) -> list[str]:
        """Check a text of a request.

        Returns:
            Its lines.

        Raises:
            UserError: it is no text, or exceeds a limit.
        """
        if not isinstance(text, str):
            raise UserError("the input is not text: send one string.")
        lines = text.splitlines()
        if len(text) > self.characters or len(lines) > self.lines:
            raise UserError(
                f"the text has {len(text):,} characters and {len(lines):,} lines: at most "
                f"{self.characters:,} and {self.lines:,} are translated at once."
            )
        return lines

    def size(self, texts: int) -> int:
        """Largest request with some texts, in bytes: JSON may write a character in 12."""
        return 10_000 + 12 * self.characters * texts


class RateLimit:
    """Counter of the requests of each address in the last minute.

    Args:
        requests_per_minute: most requests.
    """

    def __init__(self, requests_per_minute: int) -> None:
        self._most = requests_per_minute
        self._times: defaultdict[str, deque[float]] = defaultdict(deque)

    def allows(self, address: str, now: float) -> bool:
        """Count a request, unless its address has had too many.

        Args:
            address: address of the client.
            now: time in seconds, from any start.
        """
        for known in [known for known, times in self._times.items() if times[-1] <= now - 60]:
            del self._times[known]
        times = self._times[address]
        while times and times[0] <= now - 60:
            times.popleft()
        if len(times) >= self._most:
            return False
        times.append(now)
        return True


class Service:
    """Models that translate the same text, within limits.

    Args:
        models: folders of models or exports, or hub names, each once.
        limits: limits of a request.
        threads: threads of each model; None: as the library chooses.

    Raises:
        UserError: there is no such model, or two have the same name.
    """

    def __init__(self, models: Sequence[str], limits: Limits, threads: int | None = None) -> None:
        names = [Path(model).name or model for model in models]
        self.names = names if len(set(names)) == len(names) else list(models)
        if len(set(self.names)) < len(self.names):
            raise UserError("a model is given twice: give each once.")
        self.limits = limits
        paths = dict(zip(self.names, models, strict=True))
        self._translators: dict[str, Translator] = {
            name: open_translator(model, threads=threads) for name, model in paths.items()
        }
        for translator in self._translators.values():
            if translator.network is not None:
                enable_capture(translator.network)

    def translate(self, text: Any) -> dict[str, dict[str, Any]]:
        """Translate a text with every model, line by line.

        Returns:
            Name of the model → `translations`, one for each line, and `seconds`.

        Raises:
            UserError: as `Limits.check`, or it takes too long.
        """
        lines = self.limits.check(text)
        end = time.monotonic() + self.limits.seconds
        return {
            name: self._timed(translator, lines, end)
            for name, translator in self._translators.items()
        }

    def _timed(self, translator: Translator, lines: list[str], end: float) -> dict[str, Any]:
        started, translations = time.perf_counter(), []
        for line in lines:
            if time.monotonic() > end:
                raise UserError(
                    f"the translation takes more than {self.limits.seconds:g} s: give less text."
                )
            ((best, *_),) = translator.n_best([line])
            translations.append(printable(best.text))
        return {"translations": translations, "seconds": time.perf_counter() - started}

    @property
    def drawn(self) -> list[str]:
        """Names of the models whose attention can be drawn: those in transformers."""
        return [name for name, model in self._translators.items() if model.network is not None]

    def draw(self, source: Any, targets: Sequence[Any], group: str, number: Any) -> list[Figure]:
        """Draw an attention map of each model of `drawn`, for the first line of a text.

        Args:
            source: the text.
            targets: its translation by each model.
            group: group of maps, one of `GROUPS`.
            number: number of the head from 1, counted through all layers; larger ones mean the
                last.

        Raises:
            UserError: as `Limits.check`, or a line is empty or too long to draw.
        """
        # Only lines of translations are checked, which may be longer than the text.
        starts = [text.partition("\n")[0] if isinstance(text, str) else text for text in targets]
        lines = [(self.limits.check(text) or [""])[0] for text in (source, *starts)]
        if not all(lines):
            raise UserError("translate a text first.")
        if not isinstance(number, int | float) or not math.isfinite(number):
            raise UserError("the head is not a number: choose one from 1.")
        first, channel = lines[0], max(0, int(number) - 1)
        pairs = zip(self.drawn, lines[1:], strict=True)
        return [self._figure(name, Pair(first, line), group, channel) for name, line in pairs]

    def _figure(self, name: str, pair: Pair, group: str, channel: int) -> Figure:
        translator = self._translators[name]
        assert translator.network is not None
        batch = encode(pair, translator.tokenizer)
        longest = max(batch[side].shape[1] for side in ("input_ids", "labels"))
        if longest > MAX_DRAWN:
            raise UserError(
                f"the first line has {longest} tokens: attention of at most {MAX_DRAWN} is drawn."
            )
        maps = features_of(translator.network, batch).maps[group].stacked()[0]
        channel = min(channel, len(maps) - 1)
        tokens = tokens_of(batch, translator.network, translator.tokenizer)
        rows = tokens["sourceTokens" if group == "encoder" else "targetTokens"]
        columns = tokens["inputTokens" if group == "decoder" else "sourceTokens"]
        heads = Geometry.of(translator.network.config).heads(group)
        figure = Figure((4.5, 4.5), layout="constrained")
        axis = figure.subplots()
        axis.imshow(maps[channel].float().cpu(), cmap="Blues", vmin=0, vmax=1)
        axis.set_xticks(range(len(columns)), columns, rotation=60, ha="right", parse_math=False)
        axis.set_yticks(range(len(rows)), rows, parse_math=False)
        title = f"{name}: layer {channel // heads + 1}, head {channel % heads + 1}"
        axis.set_title(title, fontsize=10, parse_math=False)
        return figure


def build_app(
    models: Sequence[str], limits: Limits | None = None, threads: int | None = None
) -> Any:
    """Build the page, a `gradio.Blocks`, with the JSON interface `/translate`.

    Args:
        models: folders of models or exports, or hub names, such as a teacher and its student.
        limits: limits of a request; None: the defaults.
        threads: threads of each model; None: as the library chooses.

    Raises:
        UserError: Gradio is not installed, or a model cannot be loaded.
    """
    gradio = require_gradio()
    service = Service(models, limits or Limits(), threads)
    rate = RateLimit(service.limits.requests_per_minute)

    def limited(request: Any, work: Callable[[], Answer]) -> Answer:
        """Do the work of a request, of any kind, unless its address has sent too many."""
        address = request.client.host if request.client else ""
        try:
            if not rate.allows(address, time.monotonic()):
                raise UserError("too many requests: wait a minute.")
            return work()
        except UserError as error:
            raise gradio.Error(str(error), print_exception=False) from error

    def answer(text, request):  # type: ignore[no-untyped-def]  # Gradio reads the types below
        return limited(request, lambda: service.translate(text))

    answer.__annotations__ = {"text": str, "request": gradio.Request, "return": dict}

    def show(text, request):  # type: ignore[no-untyped-def]
        answers = answer(text, request)  # type: ignore[no-untyped-call]
        shown = []
        for name in service.names:
            shown.append("\n".join(answers[name]["translations"]))
            shown.append(f"{1000 * answers[name]['seconds']:.0f} ms")
        return shown

    show.__annotations__ = {"text": str, "request": gradio.Request}

    def draw(request, group, number, source, *targets):  # type: ignore[no-untyped-def]
        figures = limited(request, lambda: service.draw(source, targets, group, number))
        return figures if len(figures) > 1 else figures[0]  # as Gradio wants it

    draw.__annotations__ = {"request": gradio.Request}

    one_at_a_time = {"concurrency_limit": 1, "concurrency_id": "models"}
    with _page_class(gradio, service)(title="a2d", analytics_enabled=False) as app:
        gradio.Markdown("# Translate\nEach model translates each line of the text.")
        source = gradio.Textbox(
            label="Text", lines=4, max_length=service.limits.characters, autofocus=True
        )
        button = gradio.Button("Translate", variant="primary")
        outputs, boxes = [], {}
        with gradio.Row():
            for name in service.names:
                with gradio.Column():
                    boxes[name] = gradio.Textbox(label=name, lines=4, interactive=False)
                    outputs += [boxes[name], gradio.Markdown(elem_classes="time")]
        button.click(show, source, outputs, api_visibility="private", **one_at_a_time)
        if service.drawn:
            with gradio.Accordion("Attention of the first line", open=False):
                group = gradio.Dropdown(
                    [(TITLES[name], name) for name in GROUPS], value="cross", label="Group"
                )
                channel = gradio.Number(1, label="Head, counted through all layers", minimum=1)
                look = gradio.Button("Draw")
                with gradio.Row():
                    plots = [gradio.Plot(label=name) for name in service.drawn]
            inputs = [group, channel, source, *(boxes[name] for name in service.drawn)]
            look.click(draw, inputs, plots, api_visibility="private", **one_at_a_time)
        gradio.api(answer, api_name="translate", **one_at_a_time)
    return app.queue(max_size=service.limits.waiting)


def _page_class(gradio: Any, service: Service) -> Any:
    """Make a `gradio.Blocks` with safe options that refuses bad input in one sentence."""
    from starlette.middleware import Middleware  # comes with Gradio

    # The page sends a text and its translations.
    gate = Middleware(Gate, size=service.limits.size(1 + len(service.names)))

    class Page(gradio.Blocks):
        async def preprocess_data(self, *arguments: Any, **options: Any) -> Any:
            try:
                return await super().preprocess_data(*arguments, **options)
            except Exception as error:  # Gradio would show a traceback, and nothing to the client
                problem = "the input is not what is expected: send one string."
                raise gradio.Error(problem, print_exception=False) from error

        def launch(self, *arguments: Any, **options: Any) -> Any:
            return super().launch(*arguments, **(_launch_options(gradio, gate) | options))

    return Page


def _launch_options(gradio: Any, gate: Any) -> dict[str, Any]:
    """Options of `Blocks.launch`: nothing is loaded from other hosts, nothing is shared."""
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    return {
        "theme": gradio.themes.Base(**fonts),
        "share": False,
        "footer_links": ["api"],
        "app_kwargs": {"middleware": [gate]},
        "ssr_mode": False,  # another server would stand before the gate
    }


def require_gradio() -> Any:
    """Import Gradio.

    Raises:
        UserError: it is not installed.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # no request leaves the machine
    try:
        import gradio
    except ImportError as error:
        raise missing_library("serve", error) from error
    return gradio


def serve(
    models: Sequence[str],
    host: str = "127.0.0.1",
    port: int = 7860,
    limits: Limits | None = None,
    threads: int | None = None,
    wait: bool = True,
) -> Any:
    """Serve the page until the process is interrupted.

    Args:
        models, limits, threads: as in `build_app`.
        host: address to listen at. The default one cannot be reached from other machines.
        port: port to listen at.
        wait: wait for the end; False returns at once.

    Returns:
        The running app, a `gradio.Blocks`.

    Raises:
        UserError: as in `build_app`, or the port is in use.
    """
    app = build_app(models, limits, threads)
    try:
        app.launch(server_name=host, server_port=port, prevent_thread_lock=True, quiet=True)
    except OSError as error:
        raise UserError(f"port {port} of {host} cannot be used: choose another --port.") from error
    if wait:
        print(f"Serving at {app.local_url}: open it in a browser. Ctrl-C ends.", flush=True)
        app.block_thread()
    return app
