"""What every command line here has in common: help, ``--json``, exit codes."""

from __future__ import annotations

import argparse
import atexit
import errno
import gc
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, NoReturn

from caption_cache.errors import InputError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Answer:
    """What a command has to say, once for machines and once for people."""

    data: Any
    """A JSON value: what ``--json`` prints."""
    text: str
    """The same for people, without a newline at its end; printed without ``--json``. Empty: another
    process says it, and this one has only a code."""
    code: int = 0
    """The exit code: 0 done, 1 the check found something, 3 stopped by a signal."""


def whole_number(least: int) -> Callable[[str], int]:
    """The type of an argument: a whole number from ``least`` (0 or more) on."""
    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} on")
        return int(text)

    return parse


Command = Callable[[argparse.Namespace], Answer | None]
"""A command gets its parsed arguments; None says that another process gives the answer."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose help shows the defaults and whose errors are one sentence."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(formatter_class=_Help, allow_abbrev=False, **keywords)
        self._commands: argparse._SubParsersAction[Parser] | None = None

    def add_version(self) -> None:
        """Add ``--version``: that of this package."""
        self.add_argument("--version", action="version", version=version("kgc-seq2seq"))

    def runs(self, command: Command) -> Parser:
        """Let this parser run ``command``, and give it ``--json``."""
        self.add_argument("--json", action="store_true",
                          help="print one JSON document instead of text")
        self.set_defaults(command=command)
        return self

    def add_command(self, name: str, command: Command, description: str) -> Parser:
        """Add ``name`` as a command of its own; the caller adds its arguments."""
        if self._commands is None:
            self._commands = self.add_subparsers(metavar="COMMAND", required=True)
        return self._commands.add_parser(
            name, help=description.replace("%", "%%"), description=description).runs(command)

    def error(self, message: str) -> NoReturn:
        """Refuse the arguments.

        Raises:
            InputError: Always.
        """
        raise InputError(f"{message}; see '{self.prog} --help'.")


def run(parser: Parser, arguments: Sequence[str] | None = None) -> int:
    """Parse, run the command, print its answer on standard output.

    Args:
        parser: A parser that `Parser.runs` a command, or whose commands do.
        arguments: The words after the program's name; None takes those of the process.

    Returns:
        As `answering`.
    """
    def act() -> tuple[Answer | None, bool]:
        options = parser.parse_args(arguments)
        return options.command(options), options.json

    # Most of what a command imports and reads stays to its end. Looking for garbage among it after
    # every 700 new objects, and once more at the very end, takes a third of a prediction's time.
    gc.set_threshold(10_000)
    atexit.register(gc.freeze)
    return answering(parser.prog, act)


def answering(program: str, act: Callable[[], tuple[Answer | None, bool]]) -> int:
    """Do something and print its answer on standard output.

    Args:
        program: Its name, for error messages.
        act: Gives the answer, and whether it is wanted as JSON.

    Returns:
        The exit code: that of the answer; 2 for bad input, or settings by which numbers grow
        beyond bounds, or no room on disk or device, whose sentence goes to standard error; 130
        after an interrupt.
    """
    try:
        answer, as_json = act()
        if answer is None:
            return 0
        if not answer.text:
            return answer.code
        text = (json.dumps(answer.data, indent=2, ensure_ascii=False, allow_nan=False)
                if as_json else answer.text)
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except (InputError, FloatingPointError) as error:
        sys.stderr.write(f"{program}: {error}\n")
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader (head, less) has seen enough; keep Python from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        if (mend := _mend(error)) is None:
            raise
        sys.stderr.write(f"{program}: {mend}\n")
        return 2
    return answer.code


def _mend(error: Exception) -> str | None:
    """A sentence for what no code can foresee and its user can mend; None: it is a bug."""
    # By name: torch is not loaded here.
    if type(error).__name__ == "OutOfMemoryError":
        return ("the device is out of memory; lower training.batch_size (or raise training."
                "gradient_accumulation), input.max_tokens or --batch-size.")
    # What Rust's libraries raise tells the number in its text.
    told = re.search(r"\(os error (\d+)\)", str(error))
    number = error.errno if isinstance(error, OSError) else int(told[1]) if told else None
    if number not in _NO_ROOM:
        return None
    what = getattr(error, "filename", None) or "a file"
    return f"{what} cannot be written ({os.strerror(number)}); make room, then run it again."


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    def _get_help_string(self, action: argparse.Action) -> str | None:
        # "(default: None)" and "(default: False)" say nothing.
        if action.default is None or action.default is False:
            return action.help
        return super()._get_help_string(action)
