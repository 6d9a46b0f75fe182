# SPDX-License-Identifier: Apache-2.0
"""Parses the absl flags of a command with a config file, and reports their errors in two lines."""

import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence

from absl import flags

from mrd_jax.cli import command, names


def parse(arguments: list[str], *, explain: Callable[[str], str] = lambda field: "") -> list[str]:
    """Parses flags and the config file; for `absl.app.run`.

    An error ends the process with status 2, an exception of a user's config file, too.

    Args:
      arguments: arguments of the process, with the program's name.
      explain: returns what is wrong with a config field that `--config.FIELD=VALUE` sets, "" if
        nothing is known.

    Returns:
      The program's name.
    """
    # absl prints the docstring of the main module as the help.
    program = sys.modules["__main__"]
    program.__doc__ = program.__doc__ and names.as_called(program.__doc__)
    try:
        _check_config(arguments, explain)
        rest = flags.FLAGS(arguments)
        if len(rest) > 1:
            raise flags.Error(f"unexpected arguments {rest[1:]}; every option begins with --")
        return rest
    except Exception as error:
        if command.is_debug():
            raise
        print(f"error: {_one_line(error)}", file=sys.stderr)
        print("--help lists the options, --debug shows the traceback", file=sys.stderr)
        sys.exit(command.USAGE_ERROR)


def _check_config(arguments: Sequence[str], explain: Callable[[str], str]) -> None:
    """Checks that the config file exists, and explains fields that cannot be set."""
    for position, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name == "--config":
            value = value if equals else "".join(arguments[position + 1 : position + 2])
            path, _, _ = value.partition(":")
            if not os.path.isfile(path):
                raise flags.Error(f"--config is {path!r}; expected a file such as configs/x.py")
        if name.startswith("--config.") and (fault := explain(name.removeprefix("--config."))):
            raise flags.Error(fault)


def _one_line(error: Exception) -> str:
    """Formats an exception of absl, ml_collections or a config file."""
    while error.args and isinstance(error.args[0], Exception):
        error = error.args[0]  # ml_collections wraps a KeyError in an AttributeError
    text = str(error.args[0] if error.args else error).strip()
    if isinstance(error, (AttributeError, KeyError)):
        field, _, hint = " ".join(text.split()).partition(" Did you mean ")
        close = f"; did you mean {hint.split(' ')[0]}?" if hint else ""
        return f"the config has no field {field}{close}"
    if "Traceback" in text:
        # ml_collections puts the traceback of `get_config` into the message.
        places = re.findall(r'File "(.*?)", line (\d+), in get_config', text)
        where = "{}, line {}: ".format(*places[-1]) if places else ""
        return where + text.splitlines()[-1]
    if isinstance(error, flags.Error):
        return _expected_type(" ".join(text.split()))
    frame = traceback.extract_tb(error.__traceback__)[-1]
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}: SyntaxError: {error.msg}"
    return f"{frame.filename}, line {frame.lineno}: {type(error).__name__}: {text}"


def _expected_type(message: str) -> str:
    """Replaces what Python's number parsers say by the type that a flag expects."""
    message = re.sub(
        r"invalid literal for int\(\) with base 10: .*", "expected an integer", message
    )
    return re.sub(r"could not convert string to float: .*", "expected a number", message)
