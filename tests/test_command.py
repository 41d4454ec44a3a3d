"""Commands that translate standard input, and messages about those that fail."""

import sys
import time
from pathlib import Path

import pytest

from a2d import UserError
from a2d.runs import command as commands
from a2d.runs.command import check_command, sentences_per_second, translate_by_command

SHOUT = "import sys; [print(line.strip().upper()) for line in sys.stdin]"


def python(program):
    return f"{sys.executable} -c {program!r}"


def refused(command, sentences=("a", "b")):
    with pytest.raises(UserError) as caught:
        translate_by_command(command, sentences)
    message = str(caught.value)
    assert message.startswith("teacher.command ")
    assert "\n" not in message
    return message


def test_translates_line_by_line_in_order_with_progress():
    done = []
    sentences = [f"satz {number}" for number in range(500)]
    translations = translate_by_command(python(SHOUT), sentences, done.append)
    assert translations == [f"SATZ {number}" for number in range(500)]
    assert done == sorted(done)
    assert done[-1] == 500


def test_every_sentence_is_one_line():
    odd = ["a\nb", "a\r\nb", "a\u2028b\u0085c\x0bd", " a \t b ", "ä\u00a0ö", ""]
    assert translate_by_command("cat", odd) == ["a b", "a b", "a b c d", "a b", "ä ö", ""]


def test_large_outputs_and_errors_block_nothing():
    noisy = "import sys; [(print(l.strip() * 50), sys.stderr.write('e' * 999)) for l in sys.stdin]"
    sentences = ["x" * 100] * 2000
    assert translate_by_command(python(noisy), sentences) == ["x" * 5000] * 2000


def test_a_last_line_need_not_end_and_windows_may_end_lines():
    assert translate_by_command("printf 'one\\r\\ntwo'", ["a", "b"]) == ["one", "two"]


@pytest.mark.parametrize("child", ["sleep 60 &", "setsid sleep 60 &"])
def test_children_that_keep_the_output_open_are_not_awaited(child):
    start = time.monotonic()
    assert translate_by_command(f"sh -c 'cat; {child}'", ["a", "b"]) == ["a", "b"]
    assert time.monotonic() - start < 30


def test_no_shell_is_involved():
    assert translate_by_command("echo '$HOME' ; *", ["a"]) == ["$HOME ; *"]


class TestFaults:
    @pytest.mark.parametrize("command", ["no-such-program -x", "", "./gone"])
    def test_no_program(self, command):
        assert "there is no program" in refused(command)

    def test_output_that_ends_before_the_program(self):
        assert refused("sh -c 'exec >&-; exec sleep 60'").endswith("returns 0 lines for 2.")

    def test_open_quote(self):
        with pytest.raises(UserError, match="cannot be split"):
            check_command("cat 'x")

    def test_too_few_lines(self):
        assert refused("echo x").endswith("returns 1 lines for 2.")

    def test_too_many_lines_even_without_an_end(self):
        assert refused("yes x").endswith("returns more lines than the 2 that it got.")

    def test_a_line_without_an_end(self):
        assert refused("cat /dev/zero").endswith("a line of more than 1 MB (line 1 of 2).")

    def test_the_start_of_endless_errors_is_shown(self):
        program = "import sys; sys.stderr.write('bad\\n' + 'x' * 10_000_000); sys.exit(3)"
        assert refused(python(program)).endswith("fails with exit code 3, and says: bad")

    def test_children_end_with_the_command(self, tmp_path):
        with pytest.raises(UserError, match="more lines"):
            translate_by_command(f"sh -c 'sleep 60 & echo $! > {tmp_path}/id; yes'", ["a"])
        number = (tmp_path / "id").read_text().strip()
        stat = Path(f"/proc/{number}/stat")
        deadline = time.monotonic() + 5
        while stat.exists() and " Z " not in stat.read_text() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert time.monotonic() < deadline

    def test_exit_code_with_the_first_line_of_errors(self):
        program = (
            "import sys; print('a\\nb'); print('\\nfirst\\nlast', file=sys.stderr); sys.exit(7)"
        )
        assert refused(python(program)).endswith("fails with exit code 7, and says: first")

    def test_killed(self):
        program = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
        assert "was killed by signal 9." in refused(python(program))

    def test_other_encodings(self):
        program = "import sys; sys.stdout.buffer.write(b'a\\ncaf\\xe9\\n')"
        assert "a line that is not UTF-8 (line 2 of 2)." in refused(python(program))


class TestSpeed:
    @pytest.fixture
    def clock(self, monkeypatch):
        """Simulate a command that takes 3 seconds to start and `each` seconds per sentence."""
        sizes = []

        def seconds(command, sentences):
            sizes.append(len(sentences))
            return 3 + clock.each * len(sentences)

        clock = monkeypatch
        clock.each, clock.sizes = 0.5, sizes
        monkeypatch.setattr(commands, "_seconds", seconds)
        return clock

    def test_excludes_the_start(self, clock):
        assert sentences_per_second("x", ["a"] * 100) == pytest.approx(2.0)
        assert clock.sizes == [1, 17]

    def test_has_a_larger_sample_for_a_fast_command(self, clock):
        clock.each = 0.01
        assert sentences_per_second("x", ["a"] * 1000) == pytest.approx(100.0)
        assert clock.sizes == [1, 17, 33, 65, 129, 257]

    @pytest.mark.parametrize("count", [1, 50])
    def test_is_unknown_if_the_start_takes_most_of_the_time(self, clock, count):
        clock.each = 0.001
        assert sentences_per_second("x", ["a"] * count) is None
