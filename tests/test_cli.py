"""The command line: quick help, mistakes told in one line, exit codes."""

import signal
import subprocess
import sys

import pytest

from a2d import __version__, cli
from a2d.errors import UserError
from a2d.interruptions import Interrupted


@pytest.fixture
def a2d(monkeypatch, capsys):
    """Runs the command in this process; gives exit code, stdout and stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["a2d", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return caught.value.code or 0, *capsys.readouterr()

    return run


@pytest.fixture
def failing(monkeypatch):
    """Makes a run end in a given exception."""

    def fail(error):
        def run(*_):
            raise error

        monkeypatch.setattr("a2d.runs.pipeline.run", run)

    return fail


def test_version(a2d):
    assert a2d("--version") == (0, f"a2d {__version__}\n", "")


def python(*arguments, **options):
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, **options
    )


class TestHelp:
    @pytest.mark.parametrize(
        "command", [[], ["run"], ["distill"], ["plot"], ["translate"], ["export"]]
    )
    def test_says_what_the_command_does(self, a2d, command):
        code, out, _ = a2d(*command, "--help")
        assert code == 0
        assert " ".join(["a2d", *command, "[OPTIONS]"]) in out
        if not command:
            assert all(name in out for name in ("run", "distill", "plot", "translate", "export"))

    def test_loads_no_heavy_library(self):
        program = (
            "import sys; from a2d.cli import main\n"
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
        done = python("-m", "a2d", "run", "dmo", cwd=tmp_path)
        assert done.returncode == 2
        assert done.stdout == ""
        assert done.stderr.startswith("Error: no recipe 'dmo': ")
        assert done.stderr.count("\n") == 1
        assert list(tmp_path.iterdir()) == []

    def test_unknown_key(self, a2d, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        code, _, err = a2d("run", "demo", "training.epocs=3")
        assert code == 2
        assert "training.epocs': did you mean 'epochs'?" in err
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
    def test_are_told_as_they_are_in_one_line(self, a2d, failing, message):
        failing(UserError(message))
        assert a2d("run", "demo") == (2, "", f"Error: {message}\n")

    def test_interruption(self, a2d, failing, monkeypatch):
        monkeypatch.setattr(cli, "leave", sys.exit)
        failing(Interrupted(signal.SIGTERM))
        code, _, err = a2d("run", "demo")
        assert code == 143
        assert err == "Interrupted: the same command continues a run.\n"

    def test_places_that_cannot_be_used(self, a2d, tmp_path):
        (tmp_path / "file").write_text("mine")
        code, _, err = a2d("run", "demo", "corpus.limit=100", "--output", tmp_path / "file/run")
        assert code == 2
        assert f"{tmp_path}/file/run cannot be used (Not a directory): choose another" in err
        assert (tmp_path / "file").read_text() == "mine"

    def test_other_errors_keep_their_traceback(self, monkeypatch, failing):
        failing(RuntimeError("a bug"))
        monkeypatch.setattr(sys, "argv", ["a2d", "run", "demo"])
        with pytest.raises(RuntimeError, match="a bug"):
            cli.main()

    @pytest.mark.parametrize(
        "arguments",
        [["rn"], ["run"], ["run", "demo", "--outpt", "x"], ["translate", "m", "--beams=0"]],
    )
    def test_usage(self, a2d, arguments):
        code, out, err = a2d(*arguments)
        assert code == 2
        assert out == ""
        assert "Usage: " in err


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
        assert "is no alignment written by a2d" in err

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

        code, out, _ = a2d("export", model, "--output", model / "fast")
        assert (code, out) == (0, f"wrote {model / 'fast'}\n")
        found = []
        for folder in (model, model / "fast"):
            monkeypatch.setattr(sys, "stdin", io.StringIO("ein Text\n\nzum Lernen\n"))
            code, out, _ = a2d("translate", folder, "--beams", 1)
            assert code == 0
            found.append(out)
        assert found[0] == found[1]
        assert found[0].count("\n") == 3

    @pytest.mark.parametrize(("option", "beams"), [([], 3), (["--beams", 2], 2)])
    def test_beams_are_the_models_unless_given(self, a2d, model, monkeypatch, option, beams):
        import io

        from transformers import GenerationConfig, MarianMTModel

        settings = GenerationConfig.from_pretrained(model)
        settings.num_beams = 3
        settings.save_pretrained(model)
        generate, used = MarianMTModel.generate, []
        monkeypatch.setattr(
            MarianMTModel,
            "generate",
            lambda self, **k: used.append(k["num_beams"]) or generate(self, **k),
        )
        monkeypatch.setattr(sys, "stdin", io.StringIO("ein Text\n"))
        assert a2d("translate", model, *option)[0] == 0
        assert set(used) == {beams}

    @pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
    def test_another_encoding_is_told(self, a2d, model, monkeypatch, errors):
        import io

        text = io.TextIOWrapper(io.BytesIO(b"ja\nn\xf6\n"), "utf-8", errors)
        monkeypatch.setattr(sys, "stdin", text)
        code, out, err = a2d("translate", model)
        assert (code, out) == (2, "")
        assert "standard input, line" in err
        assert "is not UTF-8: convert it" in err

    @pytest.mark.parametrize("text", ["ein Text\n\nzum Lernen\n", "ein Text\n\nzum Lernen", ""])
    def test_one_line_for_each(self, a2d, model, monkeypatch, text):
        import io

        monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        monkeypatch.setattr(
            "a2d.models.decoding.translate",
            lambda _model, _tokenizer, sentences, **_: [f"<{s}>\nx\ry" for s in sentences],
        )
        code, out, _ = a2d("translate", model, "--beams", 1)
        assert code == 0
        want = [f"<{line}> x y" for line in text.split("\n")] if text else []
        if text.endswith("\n"):
            want.pop()
        assert out == "".join(f"{line}\n" for line in want)
