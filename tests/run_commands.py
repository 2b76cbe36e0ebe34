"""Runs commands of `xclip-jax` in one process, one after another; test_commands.py starts it.

Its argument is a file with lists [until, word, ...]: a pattern of the line with which the command
has come far enough, and is ended; "" lets it end by itself.
"""

import contextlib
import io
import json
import re
import sys
import traceback
from pathlib import Path

from xclip_jax import cli


class Reached(BaseException):
    """Ends a command that has come as far as it is to come."""


class Said(io.StringIO):
    """What a command prints, which is ended when it prints `until`: a training's saving and
    evaluation take longer on dozens of fake devices than all before them."""

    def __init__(self, until: str):
        super().__init__()
        self.until = until

    def write(self, text: str) -> int:
        written = super().write(text)
        if self.until and re.search(self.until, text, re.MULTILINE):
            raise Reached
        return written


def verdict(until: str, words: list[str]) -> str:
    """Returns what is wrong with a command, "" for nothing."""
    said, complained = Said(until), io.StringIO()
    status: object = 0
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(complained):
        try:
            cli.main(words)
        except Reached:
            return ""
        except SystemExit as end:
            status = end.code
        except BaseException:
            traceback.print_exc()
            status = 1
    if not until and not status:
        return ""
    lines = [*said.getvalue().splitlines(), *complained.getvalue().splitlines()]
    return f"exit {status}: {lines[-1] if lines else 'nothing said'}"


def main(file: str) -> None:
    """Writes the verdicts on a file's commands beside it."""
    commands = json.loads(Path(file).read_text())
    verdicts = [verdict(until, words) for until, *words in commands]
    Path(file).with_suffix(".verdicts").write_text(json.dumps(verdicts))


if __name__ == "__main__":
    main(sys.argv[1])
