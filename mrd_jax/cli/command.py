# SPDX-License-Identifier: Apache-2.0
"""Command lines: a user's mistake ends with its message and exit status 2, not with a traceback."""

import argparse
import contextvars
import functools
import os
import select
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn, ParamSpec, TypeVar

from mrd_jax import hub, storage
from mrd_jax.cli import logs, names

# Exit status of a command that was given something it cannot use.
USAGE_ERROR = 2
# Exit statuses, as in shells: Ctrl-C ended the command; nothing reads its output any more.
INTERRUPTED, PIPE_CLOSED = 130, 141
# Flag of every command.
DEBUG = "--debug"
DEBUG_HELP = "show the traceback of an error"

P = ParamSpec("P")
T = TypeVar("T")


class Parser(argparse.ArgumentParser):
    """Argument parser of a command: knows `--debug`, and reports errors in two lines."""

    def __init__(self, description: str | None = None, *, prog: str | None = None, **options: Any):
        """Adds `--debug`.

        Args:
          description: docstring of the command's module, shown by `--help`.
          prog: how the command is called, such as "python -m mrd_jax.tools.embed".
          **options: further arguments of `argparse.ArgumentParser`.
        """
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(prog and names.as_called(prog), description=description, **options)
        self.add_argument(DEBUG, action="store_true", help=DEBUG_HELP)

    def format_help(self) -> str:
        """Returns the help, with commands written as the user calls them."""
        return names.as_called(super().format_help())

    def parse_args(self, *arguments: Any, **options: Any) -> Any:
        """Parses the command line; raises `ParserFound` inside of `parser_of`."""
        if _is_searching.get():
            raise ParserFound(self)
        return super().parse_args(*arguments, **options)

    def error(self, message: str) -> NoReturn:
        """Prints the message, without the usage of every option, and exits with status 2."""
        self.exit(USAGE_ERROR, f"error: {message}\n{self.prog} --help lists the options\n")


class ParserFound(BaseException):
    """Passes a parser through the main function of a command to `parser_of`."""


_is_searching = contextvars.ContextVar("is_searching", default=False)


def parser_of(main: Callable[..., Any]) -> Parser:
    """Returns the parser that a main function parses its arguments with; runs nothing after it.

    Args:
      main: main function of a command that uses `Parser`.

    Raises:
      ValueError: the function returned without parsing.
    """
    token = _is_searching.set(True)
    try:
        main([])
    except ParserFound as found:
        return found.args[0]
    finally:
        _is_searching.reset(token)
    raise ValueError(f"{main.__module__}.{main.__qualname__} parses no arguments")


def argument(parse: Callable[[str], T]) -> Callable[[str], T]:
    """Returns an argparse type that keeps the messages of errors, which argparse would drop.

    Args:
      parse: converts the text of an argument.
    """

    def convert(text: str) -> T:
        try:
            return parse(text)
        except (ValueError, OSError, ImportError) as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return convert


path = argument(storage.path)
local_path = argument(storage.local_path)
# Downloads encoders of the Hub.
encoder_path = argument(hub.resolve)


def reports_errors(main: Callable[P, int | None]) -> Callable[P, int]:
    """Decorates the main function of a command: prints a user's mistake and returns status 2.

    Ctrl-C ends it without a traceback, and so does the end of what reads its output, as in
    `mrd-jax doctor | head`.

    Messages of the libraries below warnings are dropped.

    Args:
      main: returns the exit status, None for 0.
    """

    @functools.wraps(main)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> int:
        logs.quiet_libraries()
        try:
            status = main(*args, **kwargs) or 0
            sys.stdout.flush()
            return status
        except KeyboardInterrupt:
            if is_debug():
                raise
            print("interrupted", file=sys.stderr)
            return INTERRUPTED
        except Exception as error:
            if isinstance(error, BrokenPipeError) and _stdout_is_closed():
                return PIPE_CLOSED
            if is_debug() or not is_user_error(error):
                raise
            print_error(error)
            return USAGE_ERROR

    return wrapped


def _stdout_is_closed() -> bool:
    """Returns whether nothing reads stdout any more; what is left for it is then dropped."""
    poll = select.poll()
    poll.register(sys.stdout, 0)
    if not poll.poll(0):
        return False
    # Python flushes stdout once more when it exits.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def is_debug() -> bool:
    """Returns whether the command line asks for tracebacks."""
    return DEBUG in sys.argv


def is_user_error(error: BaseException) -> bool:
    """Returns whether the message of an exception says what the user has to change.

    That holds for the exceptions of this project and for the standard ones that it raises for
    input it cannot use. Anything else is a fault of the program and keeps its traceback.
    """
    return _is_own(type(error).__module__) or isinstance(error, (ValueError, OSError, ImportError))


def print_error(error: BaseException) -> None:
    """Prints the message of an exception to stderr; points to `--debug` if a library raised it."""
    print(f"error: {error}", file=sys.stderr)
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    if frames and not _is_own(frames[-1].f_globals.get("__name__", "")):
        print("--debug shows the traceback", file=sys.stderr)
    sys.stderr.flush()


def _is_own(module: str) -> bool:
    return module.partition(".")[0] in ("mrd_jax", "data_prep", "__main__")
