# SPDX-License-Identifier: Apache-2.0
"""The `mrd-jax` command: `mrd-jax COMMAND ...` runs `python -m MODULE ...`, from any folder.

mrd-jax train --config quickstart --workdir runs/mine

The arguments after the command go to the module unchanged, except that `--config NAME` also finds
the experiments that were installed with the package.
"""

import ast
import importlib.util
import pathlib
import runpy
import sys

import mrd_jax
from mrd_jax.cli import command, names


@command.reports_errors
def main() -> int:
    """Runs the command that the first argument names and returns the exit status."""
    name, arguments = (sys.argv[1] if len(sys.argv) > 1 else "--help"), sys.argv[2:]
    if name in ("-h", "--help"):
        print(describe())
        return 0
    if name == "--version":
        print(f"mrd_jax {mrd_jax.__version__}")
        return 0
    if name not in names.COMMANDS:
        raise ValueError(
            f"unknown command {name!r}; expected one of\n{', '.join(names.COMMANDS)}\n"
            "mrd-jax --help describes each"
        )
    names.call_as_console()
    sys.argv = [sys.argv[0], *with_installed_config(arguments)]
    runpy.run_module(names.COMMANDS[name], run_name="__main__", alter_sys=True)
    return 0


def describe() -> str:
    """Returns the help of `mrd-jax`: every command with the first line of its module's docstring.

    No module is imported.
    """
    lines = ["usage: mrd-jax COMMAND ...; mrd-jax COMMAND --help shows options and examples"]
    for name, module in names.COMMANDS.items():
        docstring = ast.get_docstring(ast.parse(names.source(module))) or ""
        first, *_ = docstring.split("\n\n")
        lines.append(f"  {name:<12}{' '.join(first.split())}")
    return "\n".join(lines)


def with_installed_config(arguments: list[str]) -> list[str]:
    """Replaces the name of an installed experiment by the path of its file.

    Args:
      arguments: of a command. Changed are `--config NAME` and `--config=NAME`, with an optional
        `:VARIANT` after the name; a value that ends in `.py` is a path and stays as it is.

    Raises:
      ValueError: no installed experiment has this name; the message lists them.
    """
    changed: list[str] = []
    for position, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if flag in ("--config", "-config") and equals:
            changed.append(f"{flag}={_find_config(value)}")
        elif position and arguments[position - 1] in ("--config", "-config"):
            changed.append(_find_config(argument))
        else:
            changed.append(argument)
    return changed


def _find_config(value: str) -> str:
    name, colon, variant = value.partition(":")
    if name.endswith(".py"):
        return value
    folder = installed_configs()
    path = folder / f"{name}.py"
    if not path.is_file() or name.startswith("_"):
        known = ", ".join(experiments())
        raise ValueError(f"--config is {name!r}; expected a .py file or one of {known}")
    return f"{path}{colon}{variant}"


def experiments() -> list[str]:
    """Returns the names of the installed experiments, sorted."""
    return sorted(path.stem for path in installed_configs().glob("[!_]*.py"))


def installed_configs() -> pathlib.Path:
    """Returns the folder of the experiments that belong to this installation.

    Raises:
      ImportError: the package `configs` is missing.
    """
    spec = importlib.util.find_spec("configs")
    if spec is None or spec.origin is None:
        raise ImportError("the package `configs` is missing: install mrd_jax again")
    return pathlib.Path(spec.origin).parent
