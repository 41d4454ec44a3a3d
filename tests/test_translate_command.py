"""`a2d translate`: streaming, formats of the output, endings; compared with the engines' own."""

import io
import os
import re
import signal
import subprocess
import sys
import time
from functools import cache
from itertools import chain

import pytest
import torch

from a2d.__main__ import main
from a2d.models.export import export
from a2d.models.loading import load_model
from a2d.models.tokenizer import load_tokenizer
from a2d.text import streams
from a2d.text.corpus import read_corpus

SOURCES = [
    pair.source
    for pair in read_corpus("builtin:en-pt/test")
    if re.fullmatch(r"[A-Z][a-z ]{9,25}", pair.source) and " " in pair.source
]
SOURCES = tuple(SOURCES[:10])
LIMIT = 24
"""`max_length` of the models, which keeps tests fast."""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A real, small model: its translations are text, and depend on the source."""
    folder = tmp_path_factory.mktemp("model")
    network, tokenizer = load_model("builtin:en-pt"), load_tokenizer("builtin:en-pt")
    network.generation_config.update(max_length=LIMIT, num_beams=3)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "fast"
    export(model, folder)
    return folder


@pytest.fixture
def a2d(monkeypatch, capsys):
    """Function that translates in this process; returns exit code, stdout and stderr."""

    def run(*arguments, text=None):
        data = text.encode() if isinstance(text, str) else text
        stdin = None if data is None else io.TextIOWrapper(io.BytesIO(data))
        monkeypatch.setattr(sys, "stdin", stdin)
        monkeypatch.setattr(sys, "argv", ["a2d", "translate", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        return caught.value.code or 0, *capsys.readouterr()

    return run


@cache
def plain_generate(model, sources, beams, count=1):
    """Texts and scores of plain transformers, one sentence at a time.

    Scores are sums over a pass of the decoder, as mean log-probabilities of allowed tokens.
    """
    network, tokenizer = load_model(model), load_tokenizer(model)
    lists = []
    for source in sources:
        inputs = tokenizer([source], return_tensors="pt")
        rows = network.generate(
            **inputs, num_beams=beams, num_return_sequences=count, max_length=LIMIT
        )
        lists.append([])
        for row in rows:
            ids = row[1:].tolist()
            end = tokenizer.eos_token_id
            ids = ids[: ids.index(end) + 1] if end in ids else ids
            decoder = torch.tensor([[network.config.decoder_start_token_id, *ids[:-1]]])
            with torch.no_grad():
                logits = network(**inputs, decoder_input_ids=decoder).logits[0].double()
            logits[:, tokenizer.pad_token_id] = -torch.inf
            values = [logits[place].log_softmax(-1)[token] for place, token in enumerate(ids)]
            text = tokenizer.decode(ids, skip_special_tokens=True)
            lists[-1].append((" ".join(text.split()), float(sum(values)) / len(ids)))
    return lists


class TestOutput:
    @pytest.mark.parametrize("beams", [1, 3])
    def test_scores_are_those_of_both_engines(self, a2d, model, exported, beams):
        expected = [lists[0] for lists in plain_generate(model, SOURCES, beams)]
        assert len({text for text, _ in expected}) == 10
        for folder in (model, exported):
            code, out, err = a2d(folder, "--scores", "--beams", beams, text="\n".join(SOURCES))
            assert (code, err) == (0, "")
            rows = [line.split("\t") for line in out.splitlines()]
            same = [
                (float(score), mean)
                for (score, text), (best, mean) in zip(rows, expected, strict=True)
                if text == best
            ]
            assert len(same) >= 9  # CTranslate2 may choose another one of almost equal beams
            for score, mean in same:
                assert score == pytest.approx(mean, abs=1e-3)

    def test_scores_are_those_that_ctranslate2_gives(self, a2d, exported):
        """With its own normalisation, by a length penalty of 1."""
        import ctranslate2

        tokenizer = load_tokenizer(exported)
        encoded = tokenizer(list(SOURCES))["input_ids"]
        tokens = [tokenizer.convert_ids_to_tokens(ids) for ids in encoded]
        results = ctranslate2.Translator(str(exported)).translate_batch(
            tokens,
            beam_size=4,
            num_hypotheses=2,
            patience=2,
            min_decoding_length=0,
            max_decoding_length=LIMIT - 1,
            return_scores=True,
        )
        _, out, _ = a2d(exported, "--n-best", 2, "--beams", 4, text="\n".join(SOURCES))
        rows = [line.rsplit(" ||| ", 2) for line in out.splitlines()]
        for number, result in enumerate(results):
            for rank, (tokens, score) in enumerate(
                zip(result.hypotheses, result.scores, strict=True)
            ):
                start, _, mean = rows[2 * number + rank]
                text = tokenizer.decode(tokenizer.convert_tokens_to_ids(tokens))
                assert start == f"{number} ||| {' '.join(text.split())}"
                assert float(mean) == pytest.approx(score, abs=1e-5)

    def test_n_best_lists_are_those_of_transformers(self, a2d, model):
        code, out, _ = a2d(model, "--n-best", 3, text=f"{SOURCES[0]}\n\n{SOURCES[1]}\n")
        assert code == 0
        first, second = plain_generate(model, SOURCES[:2], 3, 3)
        rows = [line.split(" ||| ") for line in out.splitlines()]
        assert [row[:2] for row in rows] == [
            *(["0", text] for text, _ in first),
            *[["1", ""]] * 3,
            *(["2", text] for text, _ in second),
        ]
        for row, (_, mean) in zip(rows[:3], first, strict=True):
            assert float(row[3]) == pytest.approx(mean, abs=1e-4)
            total = float(row[2].removeprefix("F0= "))
            assert 1 <= round(total / mean) < LIMIT
            assert total / mean == pytest.approx(round(total / mean), abs=1e-3)

    def test_more_hypotheses_than_beams_are_refused(self, a2d, model):
        code, out, err = a2d(model, "--n-best", 4, text="a\n")
        assert (code, out) == (2, "")
        assert "--n-best 4 needs a beam of that width, and it is 3: add --beams 4." in err

    def test_sacrebleu_reads_what_it_writes(self, a2d, model, tmp_path):
        (tmp_path / "in").write_text("".join(f"{source}\r\n" for source in SOURCES), newline="")
        arguments = ["--input", tmp_path / "in", "--output", tmp_path / "out", "--beams", 1]
        assert a2d(model, *arguments) == (0, "", "")
        command = [
            sys.executable,
            "-m",
            "sacrebleu",
            tmp_path / "out",
            "-i",
            tmp_path / "out",
            "-b",
        ]
        output = subprocess.check_output(command, stdin=subprocess.DEVNULL, text=True)
        assert float(output) == 100
        lines = (tmp_path / "out").read_text("utf-8").splitlines()
        assert lines == [lists[0][0] for lists in plain_generate(model, SOURCES, 1)]

    def test_batches_change_nothing(self, a2d, exported):
        text = "\n".join(SOURCES)
        small = a2d(exported, "--batch-tokens", 1, "--threads", 1, "--device", "cpu", text=text)
        assert small == a2d(exported, text=text)
        assert small[0] == 0


def test_lines_are_counted_on_a_terminal_only(a2d, exported, tmp_path, monkeypatch, capsys):
    output = ["-o", tmp_path / "out", "--overwrite", "--beams", 1]
    assert a2d(exported, *output, text="ja\nnein\n") == (0, "", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    code, _, err = a2d(exported, *output, text="ja\nnein\n")
    assert code == 0
    assert re.fullmatch(r"(\r\d lines, [\d.,]+ per second\x1b\[K)+\n", err)
    assert err.split("\r")[-1].startswith("2 lines, ")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert a2d(exported, "--beams", 1, text="ja\n")[2] == ""


class TestFiles:
    def test_a_file_needs_permission_to_be_replaced(self, a2d, exported, tmp_path):
        output = tmp_path / "out"
        output.write_text("precious")
        code, _, err = a2d(exported, "-o", output, text="a\n")
        assert code == 2
        assert f"{output} exists already: choose another name, or add --overwrite." in err
        assert output.read_text() == "precious"
        assert a2d(exported, "-o", output, "--overwrite", text="a\n") == (0, "", "")
        assert output.read_text("utf-8").count("\n") == 1

    def test_the_input_is_never_overwritten(self, a2d, exported, tmp_path):
        (tmp_path / "in").write_text("ein Text\n")
        (tmp_path / "link").symlink_to(tmp_path / "in")
        arguments = ["-i", tmp_path / "in", "-o", tmp_path / "link", "--overwrite"]
        code, _, err = a2d(exported, *arguments)
        assert code == 2
        assert "link is the input, too: write another file." in err
        assert (tmp_path / "in").read_text() == "ein Text\n"

    def test_input_that_is_not_text_leaves_the_output_as_it_was(self, a2d, exported, tmp_path):
        (tmp_path / "in").write_bytes(b"\xff\n")
        (tmp_path / "out").write_text("precious")
        files = ["-i", tmp_path / "in", "-o", tmp_path / "out", "--overwrite"]
        code, _, err = a2d(exported, *files)
        assert code == 2
        assert "line 1 is not UTF-8" in err
        assert (tmp_path / "out").read_text() == "precious"
        (tmp_path / "in").write_bytes(b"")
        assert a2d(exported, *files) == (0, "", "")
        assert (tmp_path / "out").read_text() == ""

    def test_a_missing_model_leaves_the_output_as_it_was(self, a2d, tmp_path):
        (tmp_path / "out").write_text("precious")
        code, _, err = a2d(tmp_path / "no", "-o", tmp_path / "out", "--overwrite", text="a\n")
        assert code == 2
        assert "no model at" in err
        assert (tmp_path / "out").read_text() == "precious"

    @pytest.mark.parametrize(
        ("option", "name", "message"),
        [
            ("-i", "no", "there is no "),
            ("-i", ".", "cannot be read (Is a directory): give a text file"),
            ("-o", ".", "is a folder: give the path of a file."),
            ("-o", "no/out", "there is no folder "),
            ("-o", "/dev/full", "/dev/full cannot be written (No space left on device): choose"),
        ],
    )
    def test_places_that_cannot_be_used(self, a2d, exported, tmp_path, option, name, message):
        code, out, err = a2d(exported, option, tmp_path / name, text="a\n")
        assert (code, out) == (2, "")
        assert message in err
        assert err.count("\n") == 1

    @pytest.mark.parametrize("device", ["tpu", "cuda:9999"])
    def test_devices_that_do_not_exist(self, a2d, model, device):
        code, out, err = a2d(model, "--device", device, text="a\n")
        assert (code, out) == (2, "")
        assert "give " in err.lower()
        assert repr(device) in err


class TestInput:
    def test_a_closed_input_is_reported(self, a2d, exported):
        code, out, err = a2d(exported, text=None)
        assert (code, out) == (2, "")
        assert "standard input is closed: give it sentences, one per line." in err

    @pytest.mark.parametrize("text", ["ein Text\n\nzum Lernen\n", "ein Text\n \nzum Lernen", ""])
    def test_one_line_for_each(self, a2d, exported, text):
        code, out, _ = a2d(exported, text=text)
        assert (code, out.count("\n")) == (0, len(text.splitlines()))
        if text:
            first, empty, last = out.splitlines()
            assert first
            assert last
            assert not empty

    def test_a_carriage_return_does_not_end_a_line(self, a2d, exported):
        code, out, _ = a2d(exported, text="ja\r\nn\rein\u2028so\x0b\r\n")
        assert (code, out.count("\n")) == (0, 2)
        assert out.splitlines()[0] == a2d(exported, text="\ufeffja")[1].rstrip("\n")

    def test_control_characters_are_removed(self, a2d, exported, monkeypatch):
        from a2d.models.hypotheses import Hypothesis
        from a2d.models.translator import Translator

        monkeypatch.setattr(
            Translator,
            "n_best",
            lambda self, texts, **_: [[Hypothesis(f"<{t}>\nx\r\x1b\x07y", 1)] for t in texts],
        )
        assert a2d(exported, text="ja\nnein\n")[1] == "<ja> x y\n<nein> x y\n"

    def test_lines_before_one_in_another_encoding_are_translated(self, a2d, exported):
        code, out, err = a2d(exported, text=b"ja\nnein\nn\xf6\nja\n")
        assert (code, out.count("\n")) == (2, 2)
        assert "standard input, line 3 is not UTF-8: convert it" in err

    def test_lines_before_an_endless_one_are_translated(self, a2d, exported):
        code, out, err = a2d(exported, text=b"ja\nnein\n" + b"x" * (2**20 + 1) + b"\nja\n")
        assert (code, out.count("\n")) == (2, 2)
        assert "standard input, line 3 is longer than 1 MB: split it" in err

    def test_long_lines_are_split_at_sentence_ends(self, a2d, exported):
        sentences = [f"{source.rstrip('.!?')}." for source in SOURCES]
        assert len(load_tokenizer(exported)(" ".join(sentences * 12))["input_ids"]) > 512
        text = " ".join(sentences * 12)
        code, out, _ = a2d(exported, "--scores", text=f"ja\n{text}\nnein\n")
        assert (code, out.count("\n")) == (0, 3)
        single = a2d(exported, "--scores", text="\n".join(sentences))[1].splitlines()
        translations = [line.split("\t")[1] for line in single]
        score, translation = out.splitlines()[1].split("\t")
        assert translation == " ".join(filter(None, translations * 12))
        scores = [float(line.split("\t")[0]) for line in single]
        assert min(scores) < float(score) < max(scores)

    def test_a_sentence_that_is_too_long_is_refused_with_its_line(self, a2d, model, exported):
        for folder in (model, exported):
            code, out, err = a2d(folder, text=f"ja\nso\n{'viele Worte, ' * 300}\nnein\n")
            assert (code, out.count("\n")) == (2, 2)
            assert "standard input, line 3 has a sentence of " in err
            assert "and the model reads at most 512: split it into shorter ones." in err


class TestStreams:
    def chunks(self, data, size=7):
        class Slow(io.RawIOBase):
            def readable(self):
                return True

            def readinto(self, buffer):
                part = data[self.place : self.place + size]
                self.place += size
                buffer[: len(part)] = part
                return len(part)

        stream = Slow()
        stream.place = 0
        return list(streams.LineStream(stream, "it").chunks())

    @pytest.mark.parametrize("size", [1, 7, 10_000])
    @pytest.mark.parametrize(
        "text", ["", "a", "a\n", "\n\na\r\n\r\nüß\x85\u2028b", "\ufeff", "\ufeffa\nb"]
    )
    def test_lines_are_those_of_python(self, text, size):
        expected = text.removeprefix("\ufeff").replace("\r\n", "\n").split("\n")
        expected = expected if expected[-1] else expected[:-1]
        assert list(chain.from_iterable(self.chunks(text.encode(), size))) == expected

    def test_chunks_grow(self, monkeypatch):
        monkeypatch.setattr(streams, "_PAUSE", 60)
        sizes = list(map(len, self.chunks(b"a\n" * 20_000, 2**16)))
        assert sizes[:5] == [16, 64, 256, 1024, 4096]
        assert max(sizes) == 4096

    def test_chunks_stay_where_they_take_long(self, monkeypatch):
        monkeypatch.setattr(streams, "_PAUSE", 60)
        monkeypatch.setattr(streams, "_LONGEST_CHUNK_SECONDS", 0)
        assert set(map(len, self.chunks(b"a\n" * 160, 2**16))) == {16}

    def test_little_is_read_ahead(self, monkeypatch):
        monkeypatch.setattr(streams, "_MAX_WAITING", 1000)
        reads = []

        class Endless:
            def read(self, size):
                reads.append(size)
                return b"0123456\n" * 20

        chunks = streams.LineStream(Endless(), "it").chunks()
        assert len(next(chunks)) == 16
        time.sleep(0.1)
        assert len(reads) < 20


def start(*arguments, **options):
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    command = [sys.executable, "-m", "a2d", "translate", *map(str, arguments)]
    return subprocess.Popen(command, text=True, start_new_session=True, **(pipes | options))


@pytest.mark.slow
class TestProcesses:
    def test_a_line_is_answered_before_the_next_one_comes(self, model, a2d):
        process = start(model)
        answers = []
        for source in SOURCES[:3]:
            process.stdin.write(f"{source}\n")
            process.stdin.flush()
            answers.append(process.stdout.readline())
        out, err = process.communicate("".join(f"{source}\n" for source in SOURCES[3:]))
        assert (process.returncode, err) == (0, "")
        expected = [lists[0][0] for lists in plain_generate(model, SOURCES, 3)]
        assert ("".join(answers) + out).splitlines() == expected

    def test_a_reader_that_leaves_ends_it_quietly(self, exported):
        process = start(exported)
        process.stdin.write("ja\n")
        process.stdin.flush()
        assert process.stdout.readline()
        process.stdout.close()  # as `head -1` does; standard input stays open
        process.stdin.write("nein\n")
        process.stdin.flush()
        assert process.wait(60) == 141
        assert process.stderr.read() == ""

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_ends_it_while_it_waits(self, exported, number):
        process = start(exported)
        process.stdin.write("ja\n")
        process.stdin.flush()
        assert process.stdout.readline()
        os.kill(process.pid, number)
        assert process.wait(60) == 128 + number
        assert process.stderr.read() == "Interrupted.\n"

    def test_an_error_ends_it_while_the_input_is_open(self, exported):
        with open("/dev/full", "w") as full:
            process = start(exported, stdout=full)
            process.stdin.write("ja\n")
            process.stdin.flush()
            assert process.wait(60) == 2
        errors = process.stderr.read()
        assert "standard output cannot be written (No space left on device): choose" in errors
        assert errors.count("\n") == 1
