# SPDX-License-Identifier: Apache-2.0
"""The `mrd-jax` command: `mrd-jax COMMAND ...` runs `python -m MODULE ...`, from any folder.

mrd-jax train --config quickstart --workdir runs/mine

The arguments after the command go to the module unchanged, except that `--config NAME` also finds
the experiments that were installed with the package.
"""

import importlib.util
import pathlib
import runpy
import sys

from mrd_jax.cli import command

# Module by command; the names of modules, so that only one of them is imported.
COMMANDS = {
    "train": "mrd_jax.main",
    "prepare": "data_prep.build",
    "inspect": "mrd_jax.tools.inspect",
    "embed": "mrd_jax.tools.embed",
    "index": "mrd_jax.tools.index",
    "search": "mrd_jax.tools.search",
    "demo": "mrd_jax.demo",
    "classify": "mrd_jax.tools.classify",
    "duplicates": "mrd_jax.tools.duplicates",
    "cluster": "mrd_jax.tools.cluster",
    "coverage": "mrd_jax.tools.coverage",
    "convert": "mrd_jax.tools.convert",
    "export": "mrd_jax.tools.export",
    "average": "mrd_jax.tools.average",
    "reproduce": "mrd_jax.tools.reproduce",
    "calibrate": "mrd_jax.tools.calibrate",
    "neighbours": "mrd_jax.tools.neighbours",
    "compare": "mrd_jax.tools.compare",
    "verify": "mrd_jax.tools.verify",
    "compile": "mrd_jax.tools.compile",
    "selfcheck": "mrd_jax.tools.selfcheck",
    "compile_tpu": "mrd_jax.tools.compile_tpu",
}


@command.reports_errors
def main() -> int:
    """Runs the command that the first argument names and returns the exit status."""
    name, arguments = (sys.argv[1] if len(sys.argv) > 1 else "--help"), sys.argv[2:]
    if name in ("-h", "--help"):
        print("usage: mrd-jax COMMAND ...; every command takes --help")
        for key, module in COMMANDS.items():
            print(f"  {key:<12}python -m {module}")
        return 0
    if name not in COMMANDS:
        raise ValueError(
            f"unknown command {name!r}; expected one of\n{', '.join(COMMANDS)}\n"
            "mrd-jax --help lists the module of each"
        )
    sys.argv = [sys.argv[0], *with_installed_config(arguments)]
    runpy.run_module(COMMANDS[name], run_name="__main__", alter_sys=True)
    return 0


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
        names = ", ".join(sorted(path.stem for path in folder.glob("[!_]*.py")))
        raise ValueError(f"--config is {name!r}; expected a .py file or one of {names}")
    return f"{path}{colon}{variant}"


def installed_configs() -> pathlib.Path:
    """Returns the folder of the experiments that belong to this installation.

    Raises:
      ImportError: the package `configs` is missing.
    """
    spec = importlib.util.find_spec("configs")
    if spec is None or spec.origin is None:
        raise ImportError("the package `configs` is missing: install mrd_jax again")
    return pathlib.Path(spec.origin).parent
