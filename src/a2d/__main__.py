"""Entry point of the `a2d` command, which turns signals and errors into one sentence each."""

import signal
import sys
from typing import NoReturn


def main() -> None:
    """Run a command. Exit codes: 2 for bad input, 130 or 143 for signals, 1 for defects of a2d."""
    # Outside of `interruptible`, Ctrl-C ends the process without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from a2d import endings
    from a2d.errors import UserError
    from a2d.interruptions import Interrupted, interruptible, leave, message
    from a2d.plugin_errors import plugin_error

    with interruptible():
        try:
            from a2d import cli  # takes a moment, during which a signal may arrive

            endings.check_arguments(sys.argv[1:])
            cli.app()
        except Interrupted as interruption:
            print(message(), file=sys.stderr)
            leave(interruption.code)
        except BaseException as error:  # panics of Rust libraries are not an `Exception`
            plugin = plugin_error(error)
            if isinstance(error, SystemExit) and plugin is None:
                raise
            if endings.debugging and (plugin or not isinstance(error, UserError)):
                raise
            _fail(*endings.ending_of(plugin or error))


def _fail(sentence: str, code: int) -> NoReturn:
    from rich.console import Console
    from rich.markup import escape

    console = Console(stderr=True, soft_wrap=True, highlight=False, emoji=False)
    console.print(f"[red]Error:[/] {escape(sentence)}")
    sys.exit(code)


if __name__ == "__main__":
    main()
