"""The command line: quick help, one-line errors, exit codes."""

import errno
import inspect
import re
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import typer

from a2d import __version__
from a2d.__main__ import main
from a2d.cli import app
from a2d.errors import UserError
from a2d.interruptions import Interrupted
from a2d.progress import log_file, log_to
from a2d.runs.workers import Workers


class Panic(BaseException):
    """Like the panic of a Rust extension, a BaseException but no Exception."""


class Unsendable(Exception):
    """Exception that cannot be unpickled."""

    def __init__(self, one, two):
        super().__init__(one)


def broken(message, report):
    raise RuntimeError(message)


def refuse(message, report):
    raise UserError(message)


def unsendable(report):
    raise Unsendable("a bug", 2)


@pytest.fixture
def a2d(monkeypatch, capsys):
    """Function that runs the command in this process; returns exit code, stdout and stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["a2d", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        return caught.value.code or 0, *capsys.readouterr()

    return run


@pytest.fixture
def failing(monkeypatch):
    """Function that makes a run raise an exception."""

    def fail(error):
        def run(*_):
            raise error

        monkeypatch.setattr("a2d.runs.execution.carry_out", run)

    return fail


def test_version(a2d):
    assert a2d("--version") == (0, f"a2d {__version__}\n", "")


def python(*arguments, **options):
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, **options
    )


def _commands(group, prefix=""):
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


COMMANDS = dict(_commands(typer.main.get_command(app)))


class TestHelp:
    @pytest.mark.parametrize(
        "command", [[], ["run"], ["distill"], ["plot"], ["translate"], ["export"], ["bench"]]
    )
    def test_says_what_the_command_does(self, a2d, command):
        code, out, _ = a2d(*command, "--help")
        assert code == 0
        assert " ".join(["a2d", *command, "[OPTIONS]"]) in out
        if not command:
            assert all(name in out for name in ("run", "distill", "plot", "translate", "export"))

    @pytest.mark.parametrize("name", sorted(COMMANDS))
    def test_shows_every_character_of_its_texts(self, a2d, monkeypatch, name):
        monkeypatch.setenv("COLUMNS", "4000")
        _, out, _ = a2d(*name.split(), "--help")
        command, shown = COMMANDS[name], "".join(out.split())
        written = [inspect.getdoc(command.callback)]
        written += [getattr(parameter, "help", None) or "" for parameter in command.params]
        for text in written:
            for paragraph in text.split("\n\n"):
                assert "".join(paragraph.split()) in shown

    def test_loads_no_heavy_library(self):
        program = (
            "import sys; from a2d.__main__ import main\n"
            "sys.argv = ['a2d', 'run', '--help']\n"
            "try: main()\n"
            "except SystemExit as end: print('code', end.code)\n"
            "heavy = {'torch', 'transformers', 'datasets', 'matplotlib', 'numpy', 'sacrebleu'}\n"
            "print('loaded', sorted(heavy & sys.modules.keys()))"
        )
        out = python("-c", program).stdout
        assert "a2d run [OPTIONS]" in out
        assert out.endswith("code 0\nloaded []\n")


class TestMistakes:
    def test_end_to_end(self, tmp_path):
        process = python("-m", "a2d", "run", "dmo", cwd=tmp_path)
        assert process.returncode == 2
        assert process.stdout == ""
        assert process.stderr.startswith("Error: no recipe 'dmo': ")
        assert process.stderr.count("\n") == 1
        assert list(tmp_path.iterdir()) == []

    def test_unknown_key(self, a2d, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        code, _, err = a2d("run", "methods", "training.max_step=3")
        assert code == 2
        assert "training.max_step': did you mean 'max_steps'?" in err
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        "message",
        [
            "no recipe '[bold]x[/bold]': give one.",
            "'[/nothing]' is wrong.",
            "[red]",
            r"a\[b] and c\\",
            "the key :warning: of C:/x is wrong.",
            "long " * 100 + "end.",
        ],
    )
    def test_are_printed_unchanged_in_one_line(self, a2d, failing, message):
        failing(UserError(message))
        assert a2d("run", "methods") == (2, "", f"Error: {message}\n")

    def test_interruption(self, a2d, failing, monkeypatch):
        monkeypatch.setattr("a2d.interruptions.leave", sys.exit)
        failing(Interrupted(signal.SIGTERM))
        code, _, err = a2d("run", "methods")
        assert code == 143
        assert err == "Interrupted: repeat the command to continue a run.\n"

    def test_places_that_cannot_be_used(self, a2d, tmp_path):
        (tmp_path / "file").write_text("mine")
        code, _, err = a2d("run", "methods", "corpus.limit=100", "--output", tmp_path / "file/run")
        assert code == 2
        assert f"{tmp_path}/file is not a folder, and the run needs one there: move it away" in err
        assert (tmp_path / "file").read_text() == "mine"

    def test_arguments_that_are_no_text(self, a2d):
        for argument in ("corpus.train=\udcff", "\0"):
            code, _, err = a2d("run", "methods", argument)
            assert code == 2
            assert err.startswith("Error: the argument ")
            assert err.count("\n") == 1

    @pytest.mark.parametrize(
        "arguments",
        [
            ["rn"],
            ["run"],
            ["run", "methods", "--outpt", "x"],
            ["translate", "m", "--beams=0"],
        ],
    )
    def test_usage(self, a2d, arguments):
        code, out, err = a2d(*arguments)
        assert code == 2
        assert out == ""
        assert "Usage: " in err


class TestDefects:
    """Unexpected errors."""

    def test_are_reported_with_the_place_of_the_traceback(self, a2d, failing, tmp_path):
        failing(RuntimeError("a bug\nwith details"))
        code, out, err = a2d("run", "methods")
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert err.startswith("Error: this is a defect of a2d (RuntimeError: a bug).")
        log = Path(re.search(r"The traceback is in (\S+\.log): please report", err)[1])
        text = log.read_text("utf-8")
        log.unlink()
        assert "Traceback" in text
        assert "with details" in text
        assert "run methods" in text

    def test_whose_message_fails(self, a2d, failing):
        class Silent(Exception):
            def __str__(self):
                raise ValueError

        failing(Silent())
        code, _, err = a2d("run", "methods")
        assert code == 1
        assert err.startswith("Error: this is a defect of a2d (Silent).")

    def test_show_their_traceback_if_asked(self, failing, monkeypatch):
        failing(RuntimeError("a bug"))
        monkeypatch.setattr(sys, "argv", ["a2d", "--debug", "run", "methods"])
        with pytest.raises(RuntimeError, match="a bug"):
            main()

    def test_mistakes_show_none_even_then(self, a2d, failing):
        failing(UserError("yours"))
        assert a2d("--debug", "run", "methods") == (2, "", "Error: yours\n")

    def test_a_folder_for_tracebacks_may_be_missing(self, a2d, failing, monkeypatch, tmp_path):
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
        failing(KeyError("x"))
        code, _, err = a2d("run", "methods")
        assert code == 1
        assert "`a2d --debug …` shows the traceback" in err

    @pytest.mark.parametrize("count", [1, 2])
    def test_of_a_run_are_in_its_log(self, count, a2d, monkeypatch, tmp_path):
        def run(*_):
            log = tmp_path / "run.log"
            with log_to(log_file(log)), Workers(count, log, print) as workers:
                workers.submit(broken, "deep inside").result()

        monkeypatch.setattr("a2d.runs.execution.carry_out", run)
        code, _, err = a2d("run", "methods")
        assert code == 1
        assert f"The traceback is in {tmp_path}/run.log: please" in err
        text = (tmp_path / "run.log").read_text("utf-8")
        assert text.count("Traceback") >= 1
        assert "deep inside" in text

    def test_of_a_run_whose_log_is_temporary_have_a_file_of_their_own(self, a2d, monkeypatch):
        def run(*_):
            with TemporaryDirectory() as folder, log_to(log_file(Path(folder) / "run.log")):
                broken("deep inside")

        monkeypatch.setattr("a2d.runs.execution.carry_out", run)
        _, _, err = a2d("run", "methods")
        log = Path(re.search(r"The traceback is in (\S+\.log): please", err)[1])
        assert "deep inside" in log.read_text("utf-8")
        log.unlink()

    @pytest.mark.parametrize("count", [1, 2])
    def test_mistakes_are_in_the_log_of_a_run(self, count, a2d, monkeypatch, tmp_path):
        def run(*_):
            log = tmp_path / "run.log"
            with log_to(log_file(log)), Workers(count, log, print) as workers:
                workers.submit(refuse, "yours").result()

        monkeypatch.setattr("a2d.runs.execution.carry_out", run)
        assert a2d("run", "methods") == (2, "", "Error: yours\n")
        (line,) = (tmp_path / "run.log").read_text("utf-8").splitlines()
        assert line.endswith(" ERROR yours")

    def test_a_worker_passes_on_what_cannot_be_sent(self, tmp_path):
        with (
            pytest.raises(RuntimeError, match="Unsendable: a bug"),
            Workers(2, tmp_path / "run.log", print) as workers,
        ):
            workers.submit(unsendable).result()

    @pytest.mark.parametrize(
        ("error", "text"),
        [
            (MemoryError(), "memory ran out: lower training.max_tokens"),
            (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "memory ran out"),
            (
                OSError(errno.ENAMETOOLONG, "File name too long", "xx"),
                "xx cannot be used (File",
            ),
            (
                OSError(errno.EACCES, "Permission denied", b"x\n"),
                "cannot be used (Permission",
            ),
        ],
    )
    def test_are_not_missing_memory_or_unusable_paths(self, error, text, a2d, failing):
        failing(error)
        code, _, err = a2d("run", "methods")
        assert (code, err.count("\n")) == (2, 1)
        assert text in err

    @pytest.mark.parametrize(
        ("error", "text"),
        [
            (RecursionError("maximum"), "an input is nested too deeply, or this is a defect"),
            (
                OSError(errno.EMFILE, "Too many open files"),
                "the operating system refused a request of a2d (",
            ),
            (Panic("rust"), "a defect of a2d (Panic: rust)"),
            (KeyError(), "a defect of a2d (KeyError)."),
        ],
    )
    def test_of_other_types(self, error, text, a2d, failing):
        failing(error)
        code, _, err = a2d("run", "methods")
        assert (code, err.count("\n")) == (1, 1)
        assert text in err
        Path(re.search(r"\S+\.log", err)[0]).unlink()


class TestPlot:
    def test_folder_without_alignment(self, a2d, tmp_path):
        code, _, err = a2d("plot", tmp_path, "--output", tmp_path / "x.png")
        assert code == 2
        assert err.startswith(f"Error: {tmp_path / 'alignment.safetensors'} does not exist: ")
        assert err.count("\n") == 1
        assert list(tmp_path.iterdir()) == []

    def test_damaged_alignment(self, a2d, tmp_path):
        (tmp_path / "alignment.safetensors").write_bytes(b"x" * 100)
        code, _, err = a2d("plot", tmp_path)
        assert code == 2
        assert "is not an alignment written by a2d" in err

    def test_draws(self, a2d, tmp_path):
        from a2d.method.alignment import AttentionAlignment
        from a2d.method.attention import Geometry

        shape = Geometry(1, 1, 2, 2)
        AttentionAlignment(shape, shape).save(tmp_path / "alignment.safetensors")
        picture = tmp_path / "[new]" / "picture.png"
        code, out, _ = a2d("plot", tmp_path, "--output", picture)
        assert (code, out) == (0, f"wrote {picture}\n")
        assert picture.stat().st_size > 1000

    @pytest.mark.parametrize("name", ["picture.foo", "picture", "picture.mp4"])
    def test_pictures_of_another_kind(self, a2d, tmp_path, name):
        from a2d.method.alignment import AttentionAlignment
        from a2d.method.attention import Geometry

        shape = Geometry(1, 1, 2, 2)
        AttentionAlignment(shape, shape).save(tmp_path / "alignment.safetensors")
        code, _, err = a2d("plot", tmp_path, "--output", tmp_path / name)
        assert code == 2
        assert str(tmp_path / name) in err
        assert ".png" in err


class TestTranslate:
    def test_missing_model(self, a2d, tmp_path):
        code, out, err = a2d("translate", tmp_path)
        assert (code, out) == (2, "")
        assert f"no model at {str(tmp_path)!r}" in err

    @pytest.fixture
    def model(self, tmp_path):
        from a2d.models.loading import new_model
        from a2d.models.tokenizer import train_tokenizer

        tokenizer = train_tokenizer(["ein Text zum Lernen"] * 3, 262)
        model = new_model(
            tokenizer, encoder_layers=1, decoder_layers=1, heads=2, width=8, feed_forward=8
        )
        model.save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        return tmp_path

    def test_an_exported_model_translates_the_same(self, a2d, model, monkeypatch):
        import io

        code, out, _ = a2d("export", model, "--output", model / "fast", "--unchecked")
        assert (code, out) == (0, f"wrote {model / 'fast'} (float32)\n")
        outputs = []
        for folder in (model, model / "fast"):
            text = io.BytesIO(b"ein Text\n\nzum Lernen\n")
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(text))
            code, out, _ = a2d("translate", folder, "--beams", 1)
            assert code == 0
            outputs.append(out)
        assert outputs[0] == outputs[1]
        assert outputs[0].count("\n") == 3

    @pytest.mark.parametrize(("option", "beams"), [([], 3), (["--beams", 2], 2)])
    def test_beams_default_to_the_models(self, a2d, model, monkeypatch, option, beams):
        import io

        from transformers import GenerationConfig, MarianMTModel

        settings = GenerationConfig.from_pretrained(model)
        settings.num_beams = 3
        settings.save_pretrained(model)
        generate, beams_used = MarianMTModel.generate, []
        monkeypatch.setattr(
            MarianMTModel,
            "generate",
            lambda self, **k: beams_used.append(k.get("num_beams")) or generate(self, **k),
        )
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"ein Text\n")))
        assert a2d("translate", model, *option)[0] == 0
        assert beams_used[-1] == beams
